"""Every allocation of the folder: budgets to the weight within the bounds, whatever stays pruned."""

from __future__ import annotations

import random

import pytest

from idvl.sparsity import allocation as allocations
from idvl.sparsity.budget import Budget

SIZES = {"a": 100, "b": 37, "c": 3, "d": 1000}


def test_the_folder_is_listed() -> None:
    assert {"global", "uniform"} <= set(allocations.names())


@pytest.mark.parametrize("name", allocations.names())
def test_wishes_are_densities_of_all_layers_or_of_none(name: str) -> None:
    wishes = allocations.load(name)(SIZES)
    assert wishes == {} or (list(wishes) == list(SIZES) and all(wish > 0 for wish in wishes.values()))


@pytest.mark.parametrize("limited", [{}, {"floor": 0.35, "ceiling": 0.65}, {"min_keep": 20}])
@pytest.mark.parametrize("name", allocations.names())
def test_bounds_allow_the_budget_and_what_is_pruned_already(name: str, limited: dict) -> None:
    budget = Budget(SIZES, sparsity=0.5, allocation=name, **limited)
    pruned = dict.fromkeys(SIZES, 0)
    for k in range(0, budget.quota(0.5) + 1, 5):
        bounds = budget.bounds(k, pruned)
        assert sum(least for least, _ in bounds.values()) <= k <= sum(most for _, most in bounds.values())
        assert all(pruned[layer] <= least <= most for layer, (least, most) in bounds.items())
        pruned = _unlike(bounds, k)
    for layer, (least, most) in bounds.items():
        kept = SIZES[layer] - pruned[layer]
        assert least <= pruned[layer] <= most and kept >= min(limited.get("min_keep", 1), SIZES[layer])
        if "floor" in limited and layer != "c":
            assert 0.35 * SIZES[layer] - 1 < pruned[layer] < 0.65 * SIZES[layer] + 1


def _unlike(bounds: dict[str, tuple[int, int]], k: int) -> dict[str, int]:
    """Counts within the bounds, as unlike their shares as possible."""
    counts, left = {}, k - sum(least for least, _ in bounds.values())
    for layer, (least, most) in bounds.items():
        counts[layer] = least + min(left, most - least)
        left -= counts[layer] - least
    return counts


def test_uniform_is_as_even_as_whole_weights_allow() -> None:
    budget, total = Budget(SIZES, sparsity=0.99, allocation="uniform", min_keep=0), sum(SIZES.values())
    for k in range(0, round(0.99 * total) + 1, 7):
        bounds = budget.bounds(k, dict.fromkeys(SIZES, 0))
        assert sum(least for least, _ in bounds.values()) == k
        for layer, (least, most) in bounds.items():
            assert least == most and abs(least - k * SIZES[layer] / total) < 1.5


def test_uniform_keeps_what_is_pruned_and_what_must_stay() -> None:
    budget = Budget(SIZES, sparsity=0.9, allocation="uniform", min_keep=2)
    zeros = {layer: least for layer, (least, _) in budget.bounds(1026, {"a": 95, "b": 0, "c": 0, "d": 0}).items()}
    assert sum(zeros.values()) == 1026 and zeros["a"] == 95 and zeros["c"] == 1
    assert abs(zeros["b"] / 37 - zeros["d"] / 1000) < 1 / 37


def test_uniform_never_gives_back_along_a_schedule() -> None:
    draw = random.Random(0)
    for _ in range(4):
        sizes = {f"layer{number}": draw.randint(2, 400) for number in range(12)}
        budget = Budget(sizes, sparsity=0.9, allocation="uniform")
        before = dict.fromkeys(sizes, 0)
        for k in range(0, budget.quota(0.9) + 1, 3):
            zeros = {layer: least for layer, (least, _) in budget.bounds(k, dict.fromkeys(sizes, 0)).items()}
            assert all(before[layer] <= zeros[layer] for layer in sizes)
            before = zeros


def test_global_leaves_layers_free_between_their_limits() -> None:
    bounds = Budget(SIZES, sparsity=0.5).bounds(570, dict.fromkeys(SIZES, 0))
    assert bounds == {"a": (0, 99), "b": (0, 36), "c": (0, 2), "d": (0, 999)}
