"""The loss of a model with some of its layers pruned in one shot, on samples that are held in memory as inputs.

The model is as it was afterwards. It knows neither files nor recipes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from idvl.data.samples import Sample
from idvl.errors import RunError, UsageError
from idvl.models.loading import Loaded
from idvl.models.losses import Objective
from idvl.sparsity.criteria.magnitude import Magnitude
from idvl.sparsity.pruner import WeightPruner
from idvl.sparsity.schedule import Schedule
from idvl.training.batches import Collate


class Probe:
    """A model and `samples` in batches of `batch_size`, with the loss that its family trains with.

    UsageError where idvl has no loss for the model, which `purpose` needs, a sample cannot be learnt from, or the
    inputs, `limit` samples, take more bytes than `budget`. These are found out from the first batch; the others are
    prepared when `batches` is first read.
    """

    def __init__(
        self,
        loaded: Loaded,
        samples: Sequence[Sample],
        *,
        batch_size: int,
        budget: int,
        purpose: str = "sensitivity",
        limit: str = "eval.limit",
    ):
        task, config = loaded.family.training_task, loaded.model.config
        if task is None:
            raise UsageError(f"idvl has no loss for {type(loaded.model).__name__}: {purpose} needs one")
        for sample in samples:
            if reason := task.unusable_reason(sample, config):
                raise UsageError(f"no loss of sample {sample.id}: {reason}")
        self.model, self._loss = loaded.model, task.loss
        self._collate = Collate(loaded.family, loaded.processor, config)
        parts = [samples[start : start + batch_size] for start in range(0, len(samples), batch_size)]
        if len(parts) > 1 and len(parts[-1]) < task.least_batch:
            parts.pop()
        self._first = self._collate(list(parts[0]))
        needed = _bytes(self._first) * len(parts)
        if needed > budget:
            raise UsageError(
                f"{len(samples)} prepared samples take {needed / 2**30:.1f} GiB and {budget / 2**30:.1f} GiB are free: "
                f"set a smaller {limit}"
            )
        self._parts = parts
        self._about = {"samples": sum(map(len, parts)), "batch_size": batch_size}

    @cached_property
    def batches(self) -> list[dict[str, Tensor]]:
        """The inputs of all samples, held in memory."""
        return [self._first, *(self._collate(list(part)) for part in self._parts[1:])]

    @property
    def bytes(self) -> int:
        """Memory of the inputs."""
        return sum(map(_bytes, self.batches))

    def about(self) -> dict[str, int]:
        """What a loss is measured on, JSON-ready."""
        return self._about

    def seconds(self) -> float:
        """What one loss takes, by the second of two passes over the first batch."""
        for _ in range(2):
            start = time.perf_counter()
            self._measured(self.batches[:1])
            seconds = time.perf_counter() - start
        return seconds * len(self.batches)

    def loss(self) -> float:
        """The mean loss of a term over all samples. RunError, with the samples of the batch, where it is NaN or inf."""
        return self._measured(self.batches)

    @torch.no_grad()
    def _measured(self, batches: list[dict[str, Tensor]]) -> float:
        total, count = 0.0, 0
        for number, batch in enumerate(batches):
            part = self._objective(number, batch)
            total, count = total + float(part.total), count + part.count
        return total / count

    def mean_loss(self, number: int) -> Tensor:
        """The mean loss of a term of a batch, with its graph. RunError as for `loss`."""
        part = self._objective(number, self.batches[number])
        return part.total / part.count

    def _objective(self, number: int, batch: dict[str, Tensor]) -> Objective:
        samples = self._parts[number]
        part = self._loss(self.model, {key: value.to(self.model.device) for key, value in batch.items()}, None)
        if not math.isfinite(loss := float(part.total.detach())):
            raise RunError(
                f"the loss is {loss} for a sample of {samples[0].id} to {samples[-1].id}: look for NaN "
                "in the weights, for a zero in the image processor's image_std, or try dtype float32"
            )
        return part


def _bytes(batch: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in batch.values())


@contextmanager
def pruned(weights: dict[str, nn.Parameter], ratio: float) -> Iterator[int]:
    """Inside, round(ratio x weights) of the smallest weights of all these tensors together are zero; how many."""
    dense = {name: weight.detach().clone() for name, weight in weights.items()}
    pruner = WeightPruner(
        weights, criterion=Magnitude(), schedule=Schedule(kind="one-shot", target=ratio, total_steps=1)
    )
    try:
        yield pruner.step(1).zeros
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(dense[name])
