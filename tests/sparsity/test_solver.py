"""Wishes to counts: exact sums, bounds, and agreement with a search unit by unit."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise

import pytest

from idvl.sparsity.solver import counts

Problem = tuple[dict[str, float], dict[str, int], int, dict[str, tuple[int, int]]]


def problem(seed: int, largest: int, layers: int) -> Problem:
    """Wishes, sizes, how many units to keep, and bounds that allow it; small numbers, so that many scales tie."""
    draw = random.Random(seed)
    names = [f"layer{number}" for number in range(draw.randint(1, layers))]
    sizes = {name: draw.randint(1, largest) for name in names}
    densities = {name: draw.choice([0.25, 0.5, 1.0, 1.0, 3.0, draw.uniform(0.01, 9)]) for name in names}
    bounds = {}
    for name, size in sizes.items():
        least, most = sorted(draw.choice([0, size, draw.randint(0, size)]) for _ in range(2))
        bounds[name] = least, most
    keep = draw.randint(*(sum(bound[side] for bound in bounds.values()) for side in (0, 1)))
    return densities, sizes, keep, bounds


def one_by_one(densities: dict[str, float], sizes: dict[str, int], keep: int, bounds: dict) -> dict[str, int]:
    """The layer of the lowest scale gets the next unit; of equal ones the last."""
    kept = {name: least for name, (least, _) in bounds.items()}
    while sum(kept.values()) < keep:
        scales = {
            name: (2 * kept[name] + 1) / (Fraction(densities[name]) * sizes[name])
            for name in reversed(sizes)
            if kept[name] < bounds[name][1]
        }
        kept[min(scales, key=scales.get)] += 1
    return kept


@pytest.mark.parametrize("largest", [4, 60])
def test_equal_to_a_search_unit_by_unit(largest: int) -> None:
    for seed in range(400):
        densities, sizes, keep, bounds = problem(seed, largest, layers=6)
        assert counts(densities, sizes, keep, bounds) == one_by_one(densities, sizes, keep, bounds)


@pytest.mark.parametrize("largest", [50, 10**5, 10**8])
def test_sum_and_bounds_are_exact(largest: int) -> None:
    for seed in range(200):
        densities, sizes, keep, bounds = problem(seed, largest, layers=40)
        kept = counts(densities, sizes, keep, bounds)
        assert list(kept) == list(sizes) and sum(kept.values()) == keep
        assert all(bounds[name][0] <= count <= bounds[name][1] for name, count in kept.items())


def test_no_layer_keeps_less_of_a_larger_budget() -> None:
    """Unlike with largest remainders, where a layer may lose a unit."""
    for seed in range(30):
        densities, sizes, _, bounds = problem(seed, 30, layers=8)
        lowest, highest = (sum(bound[side] for bound in bounds.values()) for side in (0, 1))
        rows = [counts(densities, sizes, keep, bounds) for keep in range(lowest, highest + 1)]
        for smaller, larger in pairwise(rows):
            assert all(smaller[name] <= larger[name] for name in sizes)


def test_densities_are_in_proportion_until_a_bound_holds_one() -> None:
    sizes, densities = {"a": 1000, "b": 4000, "c": 1000}, {"a": 1.0, "b": 2.0, "c": 4.0}
    free = {name: (0, size) for name, size in sizes.items()}
    assert counts(densities, sizes, 1300, free) == {"a": 100, "b": 800, "c": 400}
    # c is dense, the rest is shared by a and b
    assert counts(densities, sizes, 4600, free) == {"a": 400, "b": 3200, "c": 1000}
    assert counts(densities, sizes, 2300, free | {"b": (2000, 4000)}) == {"a": 60, "b": 2000, "c": 240}


def test_a_common_factor_and_the_order_of_layers_change_nothing() -> None:
    draw = random.Random(0)
    names = [f"layer{number}" for number in range(30)]
    densities = {name: draw.uniform(0.01, 1) for name in names}
    sizes = {name: draw.randint(100, 10**6) for name in names}
    bounds = {name: (size // 10, size) for name, size in sizes.items()}
    keep = sum(sizes.values()) // 3
    kept = counts(densities, sizes, keep, bounds)
    assert counts({name: density * 2**20 for name, density in densities.items()}, sizes, keep, bounds) == kept
    turned = {name: sizes[name] for name in reversed(names)}
    assert counts(densities, turned, keep, bounds) == kept


def test_equal_wishes_leave_the_odd_unit_with_the_last_layer() -> None:
    sizes = dict.fromkeys("abc", 10)
    assert counts(dict.fromkeys("abc", 1.0), sizes, 16, dict.fromkeys("abc", (0, 10))) == {"a": 5, "b": 5, "c": 6}


@pytest.mark.parametrize("spread", [0, 12])
def test_hundreds_of_layers_of_a_hundred_million_weights(spread: int) -> None:
    draw = random.Random(spread)
    sizes = {f"layer{number}": 10**8 for number in range(600)}
    densities = {name: 10 ** draw.uniform(-spread, spread) for name in sizes}
    bounds = {name: (1 + number, size - number) for number, (name, size) in enumerate(sizes.items())}
    for keep in (sum(bound[0] for bound in bounds.values()), 20_000_000_123, 59_000_000_001):
        assert sum(counts(densities, sizes, keep, bounds).values()) == keep


def test_what_cannot_be_solved_is_refused() -> None:
    sizes, bounds = {"a": 10, "b": 10}, {"a": (2, 9), "b": (1, 10)}
    for density in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="the density of b must be above 0"):
            counts({"a": 1.0, "b": density}, sizes, 5, bounds)
    for keep in (2, 20):
        with pytest.raises(ValueError, match=f"the bounds keep 3 to 19 units, not {keep}"):
            counts({"a": 1.0, "b": 1.0}, sizes, keep, bounds)


def test_wishes_are_met_far_apart_and_whatever_their_scale() -> None:
    sizes, bounds = {"a": 10, "b": 10}, {"a": (0, 10), "b": (0, 10)}
    for densities in ({"a": 1e199, "b": 1.0}, {"a": 1.7e308, "b": 1e308}, {"a": 5e-324, "b": 1e-130}):
        assert counts(densities, sizes, 13, bounds) == one_by_one(densities, sizes, 13, bounds)
    large = {"a": 10**9, "b": 10}
    assert counts({"a": 1e300, "b": 1e299}, large, 10, {"a": (0, 10**9), "b": (0, 10)}) == {"a": 10, "b": 0}
    with pytest.raises(ValueError, match=r"the densities of a and b are more than 1e\+200 apart: 1e\+300, 1.0"):
        counts({"a": 1e300, "b": 1.0}, large, 10, {"a": (0, 10**9), "b": (0, 10)})
