"""One step tried before the run: how long it takes. It leaves weights, gradients and random numbers as they were."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import torch

from idvl.data.samples import Sample
from idvl.models.loading import Loaded
from idvl.training import accelerating, checkpoint
from idvl.training.batches import Collate
from idvl.training.settings import Training


def rehearse(loaded: Loaded, samples: Sequence[Sample], training: Training) -> float:
    """Seconds of one step on this machine, as far as forward, backward and preparing the batch go.

    Raises the UsageError with which `train` would refuse this model, these samples or settings.
    """
    accelerating.check(loaded, samples, training)
    model, lesson = loaded.model, loaded.family.lesson
    collate = Collate(loaded.family, loaded.processor, model.config)
    random = checkpoint.random_state()
    seconds = 0.0
    model.train()
    try:
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            batch = {
                key: value.to(model.device) for key, value in collate(list(samples[: training.batch_size])).items()
            }
            with _precision(training, model.device):
                if training.distill:  # the dense model's pass
                    with torch.no_grad():
                        lesson.loss(model, batch, None)
                total = lesson.loss(model, batch, None).total
            total.backward()
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            model.zero_grad()
    finally:
        model.eval()
        checkpoint.set_random_state(random)
    return seconds * training.accumulate


def _precision(training: Training, device: torch.device) -> contextlib.AbstractContextManager:
    if training.mixed_precision == "no":
        return contextlib.nullcontext()
    return torch.autocast(device.type, {"fp16": torch.float16, "bf16": torch.bfloat16}[training.mixed_precision])
