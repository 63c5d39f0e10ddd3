"""The training loop of the built-in models: plain, and the same for all of them. It knows neither models nor data."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FitRecipe:
    """All that decides a training run but the data: steps, learning rate (peak), warm-up (in steps), clipping norm.

    `precision`: that of autocast; bfloat16 takes ten times float32's time on processors without instructions for it.
    """

    steps: int
    batch: int
    images: int
    learning_rate: float = 1e-3
    warmup: int
    weight_decay: float
    clip: float = 1.0
    precision: str = "bfloat16"
    seed: int = 0


def shuffled(n: int, recipe: FitRecipe) -> Iterator[torch.Tensor]:
    """(batch,) indices below n, epoch after epoch, each newly shuffled; the rest of an epoch is dropped."""
    generator = torch.Generator().manual_seed(recipe.seed)
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order[: n - n % recipe.batch].split(recipe.batch)


def fit(model: torch.nn.Module, batches: Iterator[dict[str, torch.Tensor]], recipe: FitRecipe, name: str) -> None:
    """AdamW with warm-up and linear decay, gradients clipped; leaves the model in eval mode."""
    steps, warmup = recipe.steps, recipe.warmup
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup))
    )
    model.train()
    started, losses = time.perf_counter(), []
    for step, batch in zip(range(1, steps + 1), batches, strict=False):
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        if step % 200 == 0 or step == steps:
            left = (time.perf_counter() - started) / step * (steps - step)
            log.info("%s: step %d/%d, loss %.4f, %.0f s left", name, step, steps, torch.stack(losses).mean(), left)
            losses.clear()
    model.eval()
