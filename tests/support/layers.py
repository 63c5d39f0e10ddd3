"""Small named weights that train: the input of pruning."""

from __future__ import annotations

import torch
from torch import nn

SHAPES = {"a.fc1": (12, 8), "a.fc2": (8, 16), "b.qkv": (24, 8)}


def layers(shapes: dict[str, tuple[int, int]] = SHAPES, seed: int = 0, ties: bool = False) -> dict[str, nn.Parameter]:
    """Parameters with gradients; with `ties` of few different values, zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator)
        weight = (weight * 2).round() / 4 if ties else weight
        weights[name] = nn.Parameter(weight)
    renew(weights, seed + 1)
    return weights


def renew(weights: dict[str, nn.Parameter], seed: int) -> None:
    """New gradients."""
    generator = torch.Generator().manual_seed(seed)
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape, generator=generator)


def train(weights: dict[str, nn.Parameter], pruner, steps: range, optimizer: torch.optim.Optimizer) -> list:
    """Steps on random gradients that depend on the step alone; the update of each, or None."""
    updates = []
    for step in steps:
        renew(weights, 1000 + step)
        optimizer.step()
        updates.append(pruner.step(step))
        optimizer.zero_grad()
    return updates


def zeros(weights: dict[str, nn.Parameter]) -> int:
    return sum(int((weight == 0).sum()) for weight in weights.values())
