"""The budget: how many go in all, limits of layers, and what cannot be reached."""

from __future__ import annotations

import pytest

from idvl.errors import UsageError
from idvl.sparsity.budget import Budget
from idvl.sparsity.structure import parse

SIZES = {"a": 100, "b": 37, "c": 3, "d": 1000}


def test_quota_is_the_nearest_whole_number() -> None:
    for sparsity, size, k in ((0.8, 198_180_864, 158_544_691), (0.5, 3, 2), (0.25, 7, 2), (0.6, 2, 1)):
        assert Budget({"a": size}, sparsity=sparsity).quota(sparsity) == k


def test_units_are_groups_of_a_structure() -> None:
    budget = Budget({"a": 64, "b": 128}, sparsity=0.5, structure=parse("2:4"), allocation="uniform")
    assert [budget.quota(sparsity) for sparsity in (0.0, 0.25, 0.5)] == [0, 24, 48]
    assert budget.bounds(24, {"a": 0, "b": 0}) == {"a": (8, 8), "b": (16, 16)}
    # 22 zeros are 11 groups
    assert budget.bounds(24, {"a": 22, "b": 0}) == {"a": (11, 11), "b": (13, 13)}
    assert budget.bounds(48, {"a": 0, "b": 0}) == {"a": (16, 16), "b": (32, 32)}


def test_floors_grow_with_the_schedule() -> None:
    bounds = Budget(SIZES, sparsity=0.5, floor=0.4).bounds(285, dict.fromkeys(SIZES, 0))
    assert {name: least for name, (least, _) in bounds.items()} == {"a": 20, "b": 7, "c": 1, "d": 200}


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 0.8, "ceiling": 0.7}, "allow 0 to 0.7"),
        ({"sparsity": 0.2, "floor": 0.4}, "allow 0.4 to 0.9972"),
        ({"sparsity": 0.99, "min_keep": 30}, "allow 0 to 0.91"),
        ({"sparsity": 0.5, "floor": 0.6, "ceiling": 0.4}, "floor 0.6 and ceiling 0.4"),
        ({"sparsity": 0.5, "min_keep": -1}, "min_keep"),
    ],
)
def test_what_cannot_be_reached_is_refused_with_what_can(allocation: str, settings: dict, message: str) -> None:
    sizes = {"a": 1000, "d": 100, "c": 10} if "min_keep" not in settings else SIZES
    with pytest.raises(UsageError, match=message):
        Budget(sizes, allocation=allocation, **settings)


def test_no_layer_goes_beyond_floor_and_ceiling_where_the_sparsity_can_be_reached_within() -> None:
    bounds = Budget(SIZES, sparsity=0.5, floor=0.4, ceiling=0.6).bounds(570, dict.fromkeys(SIZES, 0))
    assert bounds == {"a": (40, 60), "b": (15, 22), "c": (1, 1), "d": (400, 600)}
    # 0.6 of all is 684, one more than whole weights within the ceiling
    bounds = Budget(SIZES, sparsity=0.6, floor=0.4, ceiling=0.6).bounds(684, dict.fromkeys(SIZES, 0))
    assert bounds["b"][1] == 23


@pytest.mark.parametrize("sparsity", [0.1, 0.33, 0.5, 0.8, 0.95])
def test_equal_floor_and_ceiling_reach_their_own_sparsity(sparsity: float) -> None:
    budget = Budget(SIZES, sparsity=sparsity, floor=sparsity, ceiling=sparsity, min_keep=0)
    bounds = budget.bounds(budget.quota(sparsity), dict.fromkeys(SIZES, 0))
    assert all(abs(count - sparsity * SIZES[name]) < 1 for name, limits in bounds.items() for count in limits)


def test_a_sparsity_that_rounds_to_no_weight_is_refused() -> None:
    with pytest.raises(UsageError, match="sparsity 1e-09 of 1,140 weights prunes none: use at least 0.00088"):
        Budget(SIZES, sparsity=1e-9)
