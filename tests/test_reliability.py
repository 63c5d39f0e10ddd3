"""When an estimated ID is reliable, and that estimate-id and prune agree on it."""

from __future__ import annotations

import pytest

from idvl.profile import Estimate, LayerProfile, Profile
from idvl.reliability import unreliable_reason
from idvl.reporting.table import note
from idvl.sparsity.weighting import multipliers

FEATURES = 100


def estimate(
    dimension: float | None, *, stderr: float | None = 1.0, n_points: int = 2000, n_duplicates: int = 0
) -> Estimate:
    return Estimate(
        dimension=dimension, stderr=stderr, n_points=n_points, n_duplicates=n_duplicates, estimator="twonn",
        reason="constant output" if dimension is None else None,
    )  # fmt: skip


CASES = [
    (estimate(20.0), None),
    (estimate(20.0, stderr=None), None),
    (estimate(104.0, stderr=2.0), None),  # above the number of features by less than 3 standard errors
    (estimate(-3.0), "an ID of -3"),
    (estimate(0.0), "an ID of 0"),
    (estimate(20.0, n_points=99), "99 distinct points"),
    (estimate(20.0, n_points=900, n_duplicates=1100), "1100 of 2000 points are duplicates"),
    (estimate(20.0, stderr=10.1), "standard error of 10.1"),
    (estimate(20.0, stderr=float("nan")), "standard error of nan"),
    (estimate(5000.0), "more than its points have features (100)"),
    (estimate(None), "no estimate"),
]


@pytest.mark.parametrize(("measured", "reason"), CASES)
def test_what_is_unreliable(measured: Estimate, reason: str | None) -> None:
    found = unreliable_reason(measured, FEATURES)
    assert (found is None) if reason is None else (reason in found)


def test_an_unknown_number_of_features_limits_nothing() -> None:
    assert unreliable_reason(estimate(5000.0), None) is None


@pytest.mark.parametrize("measured", [measured for measured, _ in CASES if measured.dimension is not None])
def test_reports_and_pruning_agree(measured: Estimate) -> None:
    layers = {
        name: LayerProfile(
            modality="vision", block=None, depth=depth, width=10, n_features=FEATURES, reads_image=False, estimate=one
        )
        for depth, (name, one) in enumerate({"a": measured, "b": estimate(20.0)}.items())
    }
    profile = Profile(layers=layers, model={}, dataset={}, protocol={}, provenance={})
    replaced = multipliers(profile, dict.fromkeys(layers, "vision")).substituted
    assert ("a" in replaced) == ("unreliable" in note(layers["a"]))
