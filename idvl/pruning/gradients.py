"""How much the loss of calibration samples changes with the weights of each layer: the scores of ECoFLaP.

By one backward pass a batch, in which blocks are computed again instead of kept and every gradient is dropped as soon
as it is scored; or, as published, by the change of the loss when a layer is shifted at random. Every weight is
afterwards what it was.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from idvl.device import free_memory
from idvl.errors import RunError, UsageError, listed
from idvl.models.layers import block_of
from idvl.models.loading import Loaded
from idvl.models.walk import restore_forward
from idvl.pruning.held_out import Probe
from idvl.reporter import Progress
from idvl.training.accelerator import left_out
from idvl.training.dry_run import no_trace

if TYPE_CHECKING:
    from idvl.pruning.calibration import Calibration

# as published: calibration samples whose loss is read, the most in a batch, and how far noise shifts a weight
SAMPLES, BATCH, SHIFT = 32, 8, 1e-3


def probe_of(job: Calibration, most: int | None = SAMPLES, *, purpose: str | None = None) -> Probe | None:
    """The loss on this process's part of the first samples, None where it has none of them.

    UsageError for a model without a loss, which `purpose` needs, and for samples that it cannot learn from.
    """
    left_out(job.loaded, job.learnable[:most])
    size, part = _batch_size(job), _part(job, most)
    own = job.learnable[:most][part.start * size : part.stop * size]
    if not own:
        return None
    budget = free_memory(job.device, job.team.size)
    purpose = purpose or f"allocation {job.recipe.prune.allocation}"
    limit = "prune.calibration_samples"
    return Probe(job.loaded, own, batch_size=size, budget=budget, purpose=purpose, limit=limit)


def _part(job: Calibration, most: int | None = SAMPLES) -> range:
    """The numbers of this process's batches."""
    return job.team.part(-(-len(job.selection.samples[:most]) // _batch_size(job)))


def _batch_size(job: Calibration) -> int:
    return min(BATCH, job.recipe.data.batch_size)


def of_weights(job: Calibration, progress: Progress) -> dict[str, Tensor]:
    """The gradient of the dense model's mean loss at every weight in scope, float32 on the CPU, by layer.

    It is the mean over the batches of all calibration samples and processes. UsageError as for `probe_of`, and for
    layers that the loss does not reach.
    """
    weights = {name: layer.module.weight for name, layer in job.layers.items()}
    sums = {name: torch.zeros(weight.shape) for name, weight in weights.items()}
    count = torch.zeros(1)

    def own() -> None:
        probe = probe_of(job, None, purpose="criterion gradient")
        if probe is None:
            return
        with torch.inference_mode(False), no_trace(job.loaded.model):
            job.loaded.model.eval()
            add, blocks = {name: partial(_add, sums[name]) for name in sums}, repeatable(job.loaded)
            _differentiate(probe, weights, lambda name, weight: add[name](weight.grad), blocks, progress)
        count.add_(len(probe.batches))

    job.team.each(own)
    batches = float(job.team.reduce(count.to(job.device)))
    gradients = {name: job.team.reduce(total.to(job.device)).cpu().div_(batches) for name, total in sums.items()}
    if unreached := [name for name, gradient in gradients.items() if not gradient.any()]:
        raise UsageError(
            f"the loss reaches no weight of {listed(unreached)}: choose another scope, or a criterion that reads no "
            "gradient"
        )
    return gradients


def _add(total: Tensor, gradient: Tensor) -> None:
    total += gradient.float().cpu()


def scores(job: Calibration, progress: Progress) -> dict[str, float]:
    """The score of each layer in scope, added up over batches and processes.

    RunError for one that is no number, and where the loss depends on no layer.
    """
    weights = {name: layer.module.weight for name, layer in job.layers.items()}
    order = job.recipe.prune.ecoflap_order or "gradient-norm"

    def own() -> Tensor:
        probe = probe_of(job)
        if probe is None:
            return torch.zeros(len(weights), dtype=torch.float64)
        with torch.inference_mode(False), no_trace(job.loaded.model):
            job.loaded.model.eval()
            if order == "zeroth":
                return shifted(probe, weights, _part(job).start, progress)
            return differentiated(probe, weights, SCORES[order], repeatable(job.loaded), progress)

    scores = job.team.reduce(job.team.each(own).to(job.device)).tolist()
    if wrong := [name for name, score in zip(weights, scores, strict=True) if not math.isfinite(score)]:
        raise RunError(f"the gradient of {wrong[0]} holds NaN or infinite values: try dtype float32")
    if not any(scores):
        raise RunError("the loss does not depend on any layer in scope: choose another scope, or another allocation")
    return dict(zip(weights, scores, strict=True))


def repeatable(loaded: Loaded) -> list[nn.Module]:
    """The blocks that a backward pass may run again: none where the loss is computed in a way that does not last."""
    task, family = loaded.family.training_task, loaded.family
    modules = loaded.model.named_modules() if task.checkpointing else ()
    return [module for name, module in modules if name and block_of(name, family) == name]


def _norm(weight: Tensor, gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(gradient, dtype=torch.float32)


def _first_order(weight: Tensor, gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight.detach().float() * gradient.float(), 1)


# what a gradient scores: its Frobenius norm; sum |W| |gradient|, ECoFLaP's GradMagAbs
SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"gradient-norm": _norm, "first": _first_order}


def differentiated(
    probe: Probe,
    weights: Mapping[str, nn.Parameter],
    score: Callable[[Tensor, Tensor], Tensor],
    blocks: list[nn.Module],
    progress: Progress,
) -> Tensor:
    """The sum over batches of the score of each weight's gradient, (weights,) float64. One gradient at a time exists.

    A weight that the loss does not reach scores 0.
    """
    device = next(iter(weights.values())).device
    sums = torch.zeros(len(weights), dtype=torch.float64, device=device)
    index = {name: number for number, name in enumerate(weights)}

    def take(name: str, weight: Tensor) -> None:
        sums[index[name]] += score(weight, weight.grad)

    _differentiate(probe, weights, take, blocks, progress)
    return sums


def _differentiate(
    probe: Probe,
    weights: Mapping[str, nn.Parameter],
    take: Callable[[str, Tensor], None],
    blocks: list[nn.Module],
    progress: Progress,
) -> None:
    """One backward pass a batch; `take` gets each weight with its gradient, which is then dropped."""

    def drop(name: str, weight: Tensor) -> None:
        take(name, weight)
        weight.grad = None

    hooks = [weight.register_post_accumulate_grad_hook(partial(drop, name)) for name, weight in weights.items()]
    try:
        with _alone(probe.model, weights), _recomputed(blocks):
            for number in range(len(probe.batches)):
                loss = probe.mean_loss(number)
                if loss.requires_grad:
                    loss.backward()
                progress(number + 1, len(probe.batches))
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def shifted(probe: Probe, weights: Mapping[str, nn.Parameter], first: int, progress: Progress) -> Tensor:
    """The sum over batches of |L(W + eps z) - L(W - eps z)| / (2 eps) of each weight W, (weights,) float64.

    z is standard normal, drawn once for every weight and batch (the batches of all processes count, `first` is the
    number of this one's first). ECoFLaP's MEZO-GradOnly: sqrt(2 / pi) times the norm of the gradient, on average.
    """
    sums = torch.zeros(len(weights), dtype=torch.float64)
    for index, (name, weight) in enumerate(weights.items()):
        dense = weight.detach().clone()
        try:
            for number in range(len(probe.batches)):
                shift = SHIFT * torch.randn(dense.shape, generator=_generator(name, first + number)).to(dense.device)
                losses = []
                for sign in (1, -1):
                    weight.copy_(dense.float() + sign * shift)
                    losses.append(float(probe.mean_loss(number)))
                sums[index] += abs(losses[0] - losses[1]) / (2 * SHIFT)
        finally:
            weight.copy_(dense)
        progress(index + 1, len(weights))
    return sums


def _generator(name: str, draw: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{name}/{draw}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


@contextmanager
def _alone(model: nn.Module, weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Inside, these weights alone have gradients."""
    before = [(weight, weight.requires_grad) for weight in model.parameters()]
    chosen = {id(weight) for weight in weights.values()}
    try:
        for weight, _ in before:
            weight.requires_grad_(id(weight) in chosen)
        yield
    finally:
        for weight, needed in before:
            weight.requires_grad_(needed)


@contextmanager
def _recomputed(blocks: list[nn.Module]) -> Iterator[None]:
    """Inside, a backward pass computes each block again from what entered it.

    transformers' own checkpointing does so in training mode alone, in which dropout would be active.
    """
    before = [(block, vars(block).get("forward")) for block in blocks]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block, forward in before:
            restore_forward(block, forward)
