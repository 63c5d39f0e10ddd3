"""The lowest scores are those of sorting, so many to the weight, and ties go in order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from idvl.sparsity.selection import lowest

SHAPES = [(1, 1), (1, 9), (9, 1), (5, 7), (12, 8)]


def naive_rows(scores: Tensor, count: int) -> Tensor:
    each, more = divmod(count, len(scores))
    order = scores.double().sort(dim=1, stable=True)
    taken = torch.zeros_like(scores, dtype=torch.bool)
    for row in range(len(scores)):
        taken[row, order.indices[row, :each]] = True
    if more:
        following = sorted((float(order.values[row, each]), row) for row in range(len(scores)))
        for _, row in following[:more]:
            taken[row, order.indices[row, each]] = True
    return taken


def naive(scores: Tensor, count: int) -> Tensor:
    taken = torch.zeros(scores.numel(), dtype=torch.bool)
    taken[scores.double().view(-1).sort(stable=True).indices[:count]] = True
    return taken.view(scores.shape)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_lowest_is_what_sorting_gives(shape: tuple[int, int], ties: bool) -> None:
    for seed in range(5):
        scores = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        scores = (scores * 3).round() if ties else scores
        for count in range(scores.numel() + 1):
            by_row, together = lowest(scores, count, by_row=True), lowest(scores, count, by_row=False)
            assert torch.equal(by_row, naive_rows(scores, count)), count
            assert torch.equal(together, naive(scores, count)), count
            counts = by_row.sum(1)
            assert counts.sum() == together.sum() == count and counts.max() - counts.min() <= 1


def test_more_scores_than_there_are() -> None:
    for count in (-1, 5):
        with pytest.raises(ValueError, match="of 4 scores"):
            lowest(torch.rand(2, 2), count, by_row=True)
