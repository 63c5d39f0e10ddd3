"""How much each layer gives: limits, uniform shares to the weight, and what cannot be reached."""

from __future__ import annotations

import pytest

from idvl.errors import UsageError
from idvl.sparsity.allocation import ALLOCATIONS, bounds, limits, quota

SIZES = {"a": 100, "b": 37, "c": 3, "d": 1000}
NONE = dict.fromkeys(SIZES, 0)
FREE = {name: (0, size) for name, size in SIZES.items()}


def test_quota_is_the_nearest_whole_number() -> None:
    assert [quota(0.8, 198_180_864), quota(0.5, 3), quota(0.25, 7), quota(0.9, 1)] == [158_544_691, 2, 2, 1]


def test_uniform_is_as_even_as_whole_weights_allow() -> None:
    total = sum(SIZES.values())
    for k in range(0, total + 1, 7):
        found = bounds("uniform", SIZES, k, FREE, total, NONE)
        assert sum(least for least, _ in found.values()) == k
        for name, (least, most) in found.items():
            assert least == most and abs(least - k * SIZES[name] / total) < 1.5


def test_uniform_keeps_what_is_held_and_what_must_stay() -> None:
    ends = limits(SIZES, sparsity=0.9, min_keep=2)
    held = {"a": 95, "b": 0, "c": 0, "d": 0}
    found = bounds("uniform", SIZES, 1026, ends, 1026, held)
    counts = {name: least for name, (least, _) in found.items()}
    assert sum(counts.values()) == 1026 and counts["a"] == 95 and counts["c"] == 1
    assert abs(counts["b"] / 37 - counts["d"] / 1000) < 1 / 37


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_bounds_always_allow_the_budget_and_what_is_held(allocation: str) -> None:
    limited = {} if allocation == "uniform" else {"floor": 0.35, "ceiling": 0.65}
    ends = limits(SIZES, sparsity=0.5, min_keep=1, **limited)
    final, held = quota(0.5, sum(SIZES.values())), NONE
    for k in range(0, final + 1, 5):
        found = bounds(allocation, SIZES, k, ends, final, held)
        assert sum(least for least, _ in found.values()) <= k <= sum(most for _, most in found.values())
        assert all(held[name] <= least <= most <= ends[name][1] for name, (least, most) in found.items())
        held = _greedy(found, k)


def _greedy(found: dict[str, tuple[int, int]], k: int) -> dict[str, int]:
    """Counts within the bounds, as unlike their shares as possible."""
    counts, left = {}, k - sum(least for least, _ in found.values())
    for name, (least, most) in found.items():
        counts[name] = least + min(left, most - least)
        left -= counts[name] - least
    return counts


def test_floors_grow_with_the_schedule() -> None:
    ends = limits(SIZES, sparsity=0.5, floor=0.4)
    found = bounds("global", SIZES, 285, ends, 570, NONE)
    assert {name: least for name, (least, _) in found.items()} == {"a": 20, "b": 7, "c": 0, "d": 200}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 0.8, "ceiling": 0.7}, "allow 0 to 0.7"),
        ({"sparsity": 0.2, "floor": 0.4}, "allow 0.4 to 1"),
        ({"sparsity": 0.99, "min_keep": 30}, "allow 0 to 0.91"),
        ({"sparsity": 0.5, "floor": 0.6, "ceiling": 0.4}, "floor 0.6 and ceiling 0.4"),
        ({"sparsity": 0.5, "min_keep": -1}, "min_keep"),
    ],
)
def test_what_cannot_be_reached_is_refused_with_what_can(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        limits({"a": 1000, "d": 100, "c": 10} if "min_keep" not in settings else SIZES, **settings)


@pytest.mark.parametrize("sparsity", [0.1, 0.33, 0.5, 0.8, 0.95])
def test_equal_floor_and_ceiling_reach_their_own_sparsity(sparsity: float) -> None:
    limits(SIZES, sparsity=sparsity, floor=sparsity, ceiling=sparsity)


def test_a_sparsity_that_rounds_to_no_weight_is_refused() -> None:
    with pytest.raises(UsageError, match="sparsity 1e-09 of 1,140 weights prunes none: ask for at least 0.00088"):
        limits(SIZES, sparsity=1e-9)
