"""N:M: the smallest of every M inputs, against a naive reference; layers it does not divide are named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from idvl.errors import UsageError
from idvl.sparsity.structure import parse


def naive(scores: Tensor, keep: int, group: int) -> Tensor:
    pruned = torch.zeros_like(scores, dtype=torch.bool)
    for row in range(scores.shape[0]):
        for start in range(0, scores.shape[1], group):
            values = scores[row, start : start + group].tolist()
            for column in sorted(range(group), key=lambda i: (values[i], i))[: group - keep]:
                pruned[row, start + column] = True
    return pruned


@pytest.mark.parametrize(("keep", "group"), [(2, 4), (4, 8), (1, 4), (1, 2), (3, 5)])
@pytest.mark.parametrize("ties", [False, True])
def test_agrees_with_a_naive_reference(keep: int, group: int, ties: bool) -> None:
    scores = torch.rand(6, 40, generator=torch.Generator().manual_seed(0))
    scores = (scores * 3).round() if ties else scores
    structure, expected = parse(f"{keep}:{group}"), naive(scores, keep, group)
    units = torch.ones(scores.numel() // group, dtype=torch.bool)
    assert torch.equal(structure.expand(scores, units).view(6, 40), expected)
    assert structure.holds(~expected) and not structure.holds(torch.ones_like(expected))
    losses = (scores * expected).view(-1, group).sum(1)
    assert torch.allclose(structure.losses(scores), losses)
    units[::2] = False
    assert torch.equal(structure.expand(scores, units).view(-1, group)[1::2], expected.view(-1, group)[1::2])
    assert not structure.expand(scores, units).view(-1, group)[::2].any()


def test_unstructured_units_are_weights() -> None:
    structure, scores = parse("unstructured"), torch.rand(3, 5)
    assert structure.sparsity == 1 and structure.zeros == 1 and structure.holds(scores > 0.5)
    assert torch.equal(structure.losses(scores), scores.view(-1))


def test_layers_that_do_not_divide_are_named() -> None:
    parse("2:4").check({"a": (3, 8)})
    with pytest.raises(UsageError, match=r"divide by 8, not b \(12 inputs\)"):
        parse("4:8").check({"a": (3, 8), "b": (8, 12)})


@pytest.mark.parametrize("name", ["4:2", "4:4", "0:4", "2:4:8", "two:four", "", "1:65", "n:m"])
def test_other_words_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="structure must be"):
        parse(name)
