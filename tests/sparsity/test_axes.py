"""Every pair of values of two axes is supported, and prunes to the target, or refused with its reason."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import Any, get_args

import pytest
import torch

from idvl import choices
from idvl.errors import UsageError
from idvl.sparsity import criteria, icml24
from idvl.sparsity.axes import AXES, CALIBRATED, REFUSED, REFUSED_CALIBRATED, reason, refuse, refuse_calibrated
from idvl.sparsity.criteria.platon import DTYPES
from idvl.sparsity.icml24 import Icml24
from idvl.sparsity.pruner import WeightPruner
from idvl.sparsity.schedule import Schedule
from idvl.sparsity.weighting import MISSING
from tests.support.layers import layers, train, zeros

VALUES = [(axis, value) for axis, values in AXES.items() for value in values]
PAIRS = [pair for pair in combinations(VALUES, 2) if pair[0][0] != pair[1][0]]
FACTORS = {"multiply": [10.0, 2.0, 0.5], "divide": [0.1, 0.5, 2.0], "none": [1.0, 1.0, 1.0]}


def settings(*pairs: tuple[str, str]) -> dict[str, Any]:
    """The settings of some axes' values; the others are left alone, or where only one value fits take that."""
    words = dict(pairs)
    limits = {"floor": 0.2, "ceiling": 0.8, "min_keep": 5}
    values: dict[str, Any] = {axis: limits[axis] for axis in limits if words.get(axis) == "set"}
    values |= {axis: words[axis] for axis in ("criterion", "id_weight", "allocation", "schedule") if axis in words}
    if words.get("structure") == "N:M":
        values |= {"structure": "2:4"} | ({} if "allocation" in words else {"allocation": "uniform"})
    values |= {"monotone": True} if words.get("monotone") == "yes" else {}
    return values | ({"compat": words["compat"]} if "compat" in words else {})


def test_every_refused_pair_says_why() -> None:
    for pair in REFUSED:
        first, second = sorted(pair)
        with pytest.raises(UsageError) as refused:
            refuse(**settings(first, second), sparsity=0.5)
        why = reason(first, second)
        assert str(refused.value).endswith(why) and len(why) > 20, pair


def test_every_other_pair_is_supported() -> None:
    for first, second in PAIRS:
        if reason(first, second) is None:
            refuse(**settings(first, second), sparsity=0.5)


ALLOWED = [pair for pair in PAIRS if reason(*pair) is None]


def pruned(first: tuple[str, str], second: tuple[str, str]) -> tuple[WeightPruner, int]:
    """A pruner with the settings of two values after a run to half of the weights, and the zeros in them."""
    values = settings(first, second)
    weights = layers()
    schedule = Schedule(kind=values.pop("schedule", "cubic"), target=0.5, total_steps=10, mask_every=4)
    factors = dict(zip(weights, FACTORS[values.pop("id_weight", "none")], strict=True))
    criterion, paper = values.pop("criterion", "magnitude"), values.pop("compat", "none") == "icml24"
    make, load = (partial(Icml24, steps_per_epoch=5), icml24.load) if paper else (WeightPruner, criteria.load)
    pruner = make(weights, criterion=load(criterion), schedule=schedule, factors=factors, **({} if paper else values))
    train(weights, pruner, range(1, 11), torch.optim.SGD(weights.values(), lr=1e-3))
    pruner.masks.verify(weights, values.get("structure", "unstructured"))
    return pruner, zeros(weights)


def test_every_supported_pair_prunes_to_the_target() -> None:
    for pair in ALLOWED:
        pruner, n_zeros = pruned(*pair)
        # the paper's code keeps the weight whose score is the threshold
        target = round(0.5 * pruner.total) - (("compat", "icml24") in pair)
        assert sum(pruner.masks.zeros.values()) == n_zeros == target, pair


def test_the_table_names_axes_and_values_that_exist() -> None:
    assert all(len(pair) == 2 and pair <= set(VALUES) for pair in REFUSED)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id_weight": "multiply", "allocation": "uniform"}, "id_weight multiply and allocation uniform: weights are"),
        ({"structure": "2:4"}, "structure 2:4 and allocation global: every layer gets the sparsity 1 - N/M"),
        ({"structure": "2:4", "allocation": "uniform", "sparsity": 0.8}, "2:4 has sparsity 0.5, not 0.8"),
        (
            {"criterion": "hessian"},
            "criterion must be one of gradient, .*, wanda, not 'hessian'",
        ),
        ({"criterion": "wanda"}, "wanda prunes from calibration samples and not while a model trains: use idvl prune"),
        ({"compat": "icml23"}, "compat must be one of none, icml24"),
        ({"sparsity": 1.2}, "between 0 and 1, not 1.2"),
        ({"schedule": "one-shot", "window": 10, "total_steps": 5}, "windows of 10 steps, and 5 steps are observed"),
    ],
)
def test_messages(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        refuse(**values)


def test_a_short_run_that_trains_may_end_before_its_first_window() -> None:
    refuse(criterion="platon", window=10, total_steps=5)


@pytest.mark.parametrize(
    ("axis", "word"),
    [
        ("criterion", choices.Criterion),
        ("id_weight", choices.IdWeight),
        ("allocation", choices.Allocation),
        ("schedule", choices.ScheduleName),
        ("compat", choices.Compat),
    ],
)
def test_the_words_of_a_recipe_are_those_of_its_axis(axis: str, word: Any) -> None:
    assert set(get_args(word)) == {*AXES[axis], *CALIBRATED.get(axis, ())}


def calibrated(*pairs: tuple[str, str]) -> dict[str, Any]:
    """The settings of some axes' values of a run that calibrates; the others are left alone."""
    words = {"criterion": "wanda", **dict(pairs)}
    limits = {"floor": 0.2, "ceiling": 0.8, "min_keep": 5}
    values: dict[str, Any] = {axis: word for axis, word in words.items() if axis not in (*limits, "structure")}
    values |= {axis: limit for axis, limit in limits.items() if words.get(axis) == "set"}
    values |= {"structure": "2:4"} if words.get("structure") == "N:M" else {}
    limited = {"floor", "ceiling"} & set(values) and "structure" not in values
    return ({"allocation": "depth"} if limited else {}) | values


def test_with_calibration_every_pair_is_supported_or_refused_with_its_reason() -> None:
    found = [(axis, value) for axis, values in CALIBRATED.items() for value in values]
    for first, second in combinations(found, 2):
        why = REFUSED_CALIBRATED.get(frozenset((first, second)))
        alone = ("id_weight", "multiply"), ("id_weight", "divide"), ("allocation", "global")
        if first[0] == second[0] or (why is None and {first, second} & set(alone)):
            continue  # these go with no calibration at all
        if why is None:
            refuse_calibrated(**calibrated(first, second), sparsity=0.5)
            continue
        with pytest.raises(UsageError) as refused:
            refuse_calibrated(**calibrated(first, second), sparsity=0.5)
        assert str(refused.value).endswith(why) and len(why) > 20
    assert all(len(pair) == 2 and pair <= set(found) for pair in REFUSED_CALIBRATED)


def test_a_criterion_that_smooths_over_steps_has_none_in_a_calibration() -> None:
    with pytest.raises(UsageError, match="over the steps of training; choose from magnitude, gradient, multi"):
        refuse_calibrated(criterion="platon")


def test_the_first_criterion_is_the_default() -> None:
    assert get_args(choices.Criterion)[0] == choices.DEFAULT_CRITERION


def test_the_words_for_missing_ids_and_smoothing_are_those_that_are_known() -> None:
    assert sorted(get_args(choices.MissingId)) == sorted(MISSING)
    assert sorted(get_args(choices.Smoothing)) == sorted(DTYPES)
