"""The weights that a pruned block keeps, trained until its output is as near to the dense block's as they get it.

Local reconstruction of a whole block: attention and MLP together, on the inputs that reach it, with the mask fixed. It
does not know how the mask was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# of the root mean square of a layer's kept weights: what a step of Adam moves a weight by, at most about
LEARNING_RATE = 0.01
# the fraction of the steps in which the learning rate rises
WARMUP = 0.1

# a run of the block for a batch, with gradients where they are enabled
Call = Callable[[], Any]


class BlockError:
    """The squared error of a block's output relative to the square of the dense one, the mean over classes of tokens.

    `calls` run the block for each batch; it must be dense now. `classes`: (batch index, output) -> a mask (samples,
    tokens) for each class of tokens, all of them with None.
    """

    @torch.no_grad()
    def __init__(self, calls: Sequence[Call], classes: Callable[[int, Tensor], list[Tensor | None]]):
        self._calls = calls
        self._targets = [_output(call()).clone() for call in calls]
        self._classes = [classes(index, target) for index, target in enumerate(self._targets)]
        parts = [_squares(target, masks).double() for target, masks in zip(self._targets, self._classes, strict=True)]
        self._squares = torch.stack(parts).sum(0)

    def __len__(self) -> int:
        return len(self._calls)

    def of(self, batch: int) -> Tensor:
        """The share of one batch in the error, a scalar with its graph."""
        difference = _output(self._calls[batch]()).float() - self._targets[batch].float()
        errors = _squares(difference, self._classes[batch])
        scale = torch.where(self._squares > 0, self._squares, torch.inf).to(errors)
        return (errors / scale).mean()

    @torch.no_grad()
    def total(self) -> float:
        """The error of the block as it is."""
        return float(sum(self.of(batch).double() for batch in range(len(self))))


def reconstruct(
    error: BlockError,
    weights: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    *,
    epochs: int,
    trained: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Train the kept weights in place, a step of Adam a batch; the error before and after, which is never larger.

    `weights` are parameters, zero where not `kept`; they stay so, and everything else of the model stays as it is. What
    they end with is the best state that an epoch ended with, or the first. `trained` is called after each step.
    """
    masters = {name: weight.detach().float().clone() for name, weight in weights.items()}
    rates = [{"params": [master], "lr": LEARNING_RATE * _rms(master, kept[name])} for name, master in masters.items()]
    optimizer = torch.optim.Adam(rates)
    warmup = max(1, round(WARMUP * epochs * len(error)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
    first = least = error.total()
    best = {name: weight.detach().clone() for name, weight in weights.items()}
    for _ in range(epochs):
        for batch in range(len(error)):
            with torch.enable_grad():
                gradients = torch.autograd.grad(error.of(batch), list(weights.values()), allow_unused=True)
            for (name, master), gradient in zip(masters.items(), gradients, strict=True):
                master.grad = None if gradient is None else gradient.float().masked_fill_(~kept[name], 0)
            optimizer.step()
            schedule.step()
            _set(weights, masters)
            trained()
        if (now := error.total()) < least:
            least, best = now, {name: weight.detach().clone() for name, weight in weights.items()}
    _set(weights, best)
    return first, least


@torch.no_grad()
def _set(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])


def _rms(weight: Tensor, kept: Tensor) -> float:
    return float((weight.square().sum() / max(1, int(kept.count_nonzero()))).sqrt())


def _output(result: Any) -> Tensor:
    """The states that a block hands on: what it returns, or the first of it."""
    return result if isinstance(result, Tensor) else result[0]


def _squares(tensor: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
    """(classes,): the sum of squares over the tokens of each class."""
    squares = tensor.float().square()
    return torch.stack([(squares if mask is None else squares[mask]).sum() for mask in masks])
