"""Every allocation of the folder: budgets to the weight within the bounds, whatever stays pruned."""

from __future__ import annotations

import random

import pytest

from idvl.sparsity import allocation as allocations
from idvl.sparsity.budget import Budget

SIZES = {"a": 100, "b": 37, "c": 3, "d": 1000}
# depths, or powers of dimensions
VALUES = {"a": 0.25, "b": 0.5, "c": 1.0, "d": 0.75}


def test_the_folder_is_listed() -> None:
    assert {"global", "uniform"} <= set(allocations.names())


@pytest.mark.parametrize("name", allocations.names())
def test_an_allocation_gives_densities_of_all_layers_or_of_none(name: str) -> None:
    densities = allocations.load(name).densities(SIZES, VALUES)
    assert densities == {} or (list(densities) == list(SIZES) and all(density > 0 for density in densities.values()))


@pytest.mark.parametrize("limited", [{}, {"floor": 0.35, "ceiling": 0.65}, {"min_keep": 20}])
@pytest.mark.parametrize("name", allocations.names())
def test_bounds_allow_the_budget_and_what_is_pruned_already(name: str, limited: dict) -> None:
    budget = Budget(SIZES, sparsity=0.5, allocation=name, values=VALUES, **limited)
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


def kept(name: str, sizes: dict[str, int], values: dict[str, float], sparsity: float = 0.5, **limits) -> dict[str, int]:
    budget = Budget(sizes, sparsity=sparsity, allocation=name, values=values, **limits)
    bounds = budget.bounds(budget.quota(sparsity), dict.fromkeys(sizes, 0))
    assert all(least == most for least, most in bounds.values())
    assert sum(least for least, _ in bounds.values()) == round(sparsity * sum(sizes.values()))
    return {layer: sizes[layer] - least for layer, (least, _) in bounds.items()}


EQUAL = dict.fromkeys("abcde", 10_000)


def test_id_is_in_proportion_to_the_values_whatever_their_scale() -> None:
    """Statements 26 and 29: monotone, uniform for equal dimensions, and the same for all of them tenfold."""
    values = dict(zip("abcde", (5.0, 2.0, 9.0, 9.0, 1.0), strict=True))
    counts = kept("id", EQUAL, values, 0.7)
    assert counts == kept("id", EQUAL, {name: 10 * value for name, value in values.items()}, 0.7)
    share = 15_000 / 26
    assert all(abs(counts[name] - share * values[name]) <= 1 for name in "abe")
    assert counts["c"] == counts["d"] > counts["a"] > counts["b"] > counts["e"]
    assert set(kept("id", EQUAL, dict.fromkeys("abcde", 3.7), 0.7).values()) == {3000}


def test_id_stays_within_floor_and_ceiling_and_spends_the_rest_elsewhere() -> None:
    values = dict(zip("abcde", (100.0, 1.0, 1.0, 1.0, 1.0), strict=True))
    counts = kept("id", EQUAL, values, floor=0.2, ceiling=0.6)
    assert counts["a"] == 8000 and {counts[name] for name in "bcde"} == {4250}


def test_depth_falls_in_a_straight_line_from_first_to_last() -> None:
    counts = kept("depth", EQUAL, dict(zip("abcde", (0.0, 0.25, 0.5, 0.75, 1.0), strict=True)))
    assert list(counts.values()) == [6000, 5500, 5000, 4500, 4000]
    assert set(kept("depth", EQUAL, dict.fromkeys("abcde", 0.5)).values()) == {5000}


@pytest.mark.parametrize("name", ["id", "depth"])
def test_the_order_of_layers_does_not_matter(name: str) -> None:
    """Statement 30."""
    values, sizes = (
        dict(zip("abcde", (0.1, 0.9, 0.33, 0.47, 0.62), strict=True)),
        dict(zip("abcde", (901, 77, 5003, 12, 340), strict=True)),
    )
    again = dict(reversed(sizes.items()))
    assert kept(name, sizes, values) == kept(name, again, values)


def test_600_layers_are_exact() -> None:
    """Statement 4."""
    draw = random.Random(0)
    sizes = {f"layer{number}": draw.randint(1, 10**7) for number in range(600)}
    values = {layer: draw.random() for layer in sizes}
    for name, limits in (("id", {"floor": 0.1, "ceiling": 0.9}), ("depth", {}), ("uniform", {})):
        kept(name, sizes, values, 0.6, **limits)
