"""IDs -> factors: by name, reliable ones only, the rest by a stated policy."""

from __future__ import annotations

from typing import Any

import pytest

from idvl.errors import UsageError
from idvl.profile import Estimate, LayerProfile, Profile, published
from idvl.sparsity.weighting import multipliers

GOOD: dict[str, Any] = {"stderr": 0.5, "n_points": 2000, "n_duplicates": 0}


def estimate(dimension: float | None, **more: Any) -> Estimate:
    reason = "all points are equal" if dimension is None else None
    return Estimate(dimension=dimension, estimator="twonn", reason=reason, **{**GOOD, **more})


def profile(**estimates: tuple[str, Estimate]) -> Profile:
    layers = {
        name: LayerProfile(
            modality=modality, block=None, depth=i, width=8, n_features=100, reads_image=False, estimate=measured
        )
        for i, (name, (modality, measured)) in enumerate(estimates.items())
    }
    return Profile(layers=layers, model={}, dataset={}, protocol={}, provenance={})


LOW = ("vision", estimate(20.0))
MEASURED = profile(
    v1=("vision", estimate(10.0)),
    v2=LOW,
    v3=("vision", estimate(60.0)),
    l1=("language", estimate(4.0)),
    l2=("language", estimate(0.1, stderr=0.09)),
    l3=("language", estimate(None)),
)
LAYERS = {name: layer.modality for name, layer in MEASURED.layers.items()}


def test_multiply_divide_none() -> None:
    reliable = {name: LAYERS[name] for name in ("v1", "v2", "v3", "l1")}
    assert multipliers(MEASURED, reliable).factors == {"v1": 10, "v2": 20, "v3": 60, "l1": 4}
    assert multipliers(MEASURED, reliable, mode="divide").factors["l1"] == 0.25
    assert multipliers(MEASURED, reliable, exponent=0.5).factors["l1"] == 2
    assert multipliers(None, reliable, mode="none").factors == dict.fromkeys(reliable, 1.0)


def test_layers_without_a_sound_id_take_their_modalitys_median() -> None:
    layers = LAYERS | {"v4": "vision", "x1": "cross"}
    weights = multipliers(MEASURED, layers)
    assert weights.factors == {"v1": 10, "v2": 20, "v3": 60, "l1": 4, "l2": 4, "l3": 4, "v4": 20, "x1": 15}
    assert list(weights.factors) == list(layers)
    assert weights.substituted["l2"] == "an ID of 0.1, below 0.9; it takes the language median, 4"
    assert weights.substituted["l3"].startswith("no estimate: all points are equal")
    assert weights.substituted["v4"].startswith("not in the profile")
    assert weights.substituted["x1"] == "not in the profile; it takes the all layers' median, 15"


def test_no_more_dimensions_than_features() -> None:
    measured = profile(
        **{"fits": ("vision", estimate(104.0, stderr=2.0)), "not": ("vision", estimate(5000.0)), "low": LOW}
    )
    weights = multipliers(measured, dict.fromkeys(measured.layers, "vision"))
    assert weights.factors == {"fits": 104.0, "not": 62.0, "low": 20.0}
    assert weights.substituted["not"].startswith("an ID of 5000, more than its points have features (100)")


def test_layers_that_are_not_weighted_count_in_no_median() -> None:
    layers = {name: modality for name, modality in LAYERS.items() if name != "v3"} | {"v4": "vision", "x1": "cross"}
    alone = profile(
        **{name: (modality, MEASURED.layers[name].estimate) for name, modality in LAYERS.items() if name != "v3"}
    )
    assert multipliers(MEASURED, layers) == multipliers(alone, layers)
    assert multipliers(MEASURED, layers).factors["v4"] == 15


def test_refuse_names_the_layer_and_the_reason() -> None:
    with pytest.raises(UsageError, match=r"2 of 6 layers have no reliable ID, l2 first \(an ID of 0.1"):
        multipliers(MEASURED, LAYERS, missing="refuse")


def test_a_profile_of_another_model_shows_both_sides() -> None:
    with pytest.raises(UsageError, match=r"lacks 3 of 4 layers in scope \(b1, b2, b3\) and has 5 others \(v2"):
        multipliers(MEASURED, {"v1": "vision", "b1": "vision", "b2": "vision", "b3": "vision"})


def test_a_profile_of_some_layers_alone_says_which_it_lacks() -> None:
    """As `estimate-id --layers` leaves it: of the same model, but with too few layers for a median of the others."""
    layers = {"v1": "vision", "b1": "vision", "b2": "vision", "b3": "vision"}
    with pytest.raises(UsageError, match=r"lacks 3 of 4 layers in scope .* 0 others \(none\): measure those"):
        multipliers(profile(v1=("vision", estimate(10.0))), layers)


def test_without_any_reliable_id_it_is_refused() -> None:
    with pytest.raises(UsageError, match="no layer of the profile has a reliable ID"):
        multipliers(profile(l3=("language", estimate(None))), {"l3": "language"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "add"}, "none, multiply, divide, not 'add'"),
        ({"missing": "mean"}, "median, refuse, not 'mean'"),
        ({"exponent": 0.0}, "above 0, not 0.0"),
        ({"exponent": -1.0}, "above 0, not -1.0"),
        ({"exponent": 400.0}, "to the power 400 is not a usable factor"),
    ],
)
def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        multipliers(MEASURED, LAYERS, **settings)


def test_the_published_profile_is_sound() -> None:
    blip = published("blip-coco")
    weights = multipliers(blip, {name: layer.modality for name, layer in blip.layers.items()})
    assert len(weights.factors) == 168 and not weights.substituted
    assert max(weights.factors.values()) / min(weights.factors.values()) == pytest.approx(74.6, abs=0.1)
