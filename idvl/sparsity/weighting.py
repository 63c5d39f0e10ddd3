"""What a layer's intrinsic dimension (ID) does to the scores of its weights: one factor a layer.

A score is multiplied by ID ** exponent, or divided by it (the paper's ablation, Table 6). A layer without a reliable ID
never takes another layer's by accident: it takes its modality's median, or the run is refused. It knows no tensors.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from idvl.choices import MissingId
from idvl.errors import UsageError, listed, quoted
from idvl.profile import Profile
from idvl.reliability import unreliable_reason

# the sign of the exponent
MODES = {"none": 0, "multiply": 1, "divide": -1}
MISSING = get_args(MissingId)

# A profile that names fewer of the layers than this is of another model, not one with gaps.
FEWEST_MATCHES = 0.5
# Factors beyond this range would push float32 scores to zero or infinity.
LARGEST_FACTOR = 1e12


@dataclass(frozen=True)
class Multipliers:
    """A factor for every layer, and for each layer whose ID is a substitute the reason."""

    factors: dict[str, float]
    substituted: dict[str, str] = field(default_factory=dict)


def multipliers(
    profile: Profile | None,
    layers: Mapping[str, str],
    *,
    mode: str = "multiply",
    exponent: float = 1.0,
    missing: str = "median",
) -> Multipliers:
    """The factors of `layers` (name -> modality), in their order.

    UsageError for a profile of another model, for settings that do not exist, and with missing="refuse" (or where no
    layer at all has a reliable ID) for a layer without one.
    """
    if mode not in MODES:
        raise UsageError(f"id_weight must be one of {', '.join(MODES)}, not {quoted(mode)}")
    if missing not in MISSING:
        raise UsageError(f"missing_id must be one of {', '.join(MISSING)}, not {quoted(missing)}")
    if not MODES[mode]:
        return Multipliers(dict.fromkeys(layers, 1.0))
    if not (exponent > 0 and math.isfinite(exponent)):
        raise UsageError(f"id_exponent must be above 0, not {exponent}; id_weight divide inverts, none turns it off")
    if profile is None:
        raise UsageError("weighting by ID needs a profile")
    _check_match(profile, layers)
    reasons = {name: reason for name in layers if (reason := _unreliable_reason(profile, name))}
    if reasons and missing == "refuse":
        first, reason = next(iter(reasons.items()))
        raise UsageError(
            f"{len(reasons)} of {len(layers)} layers have no reliable ID, {first} first ({reason}); "
            "missing_id median gives them their modality's median"
        )
    medians = _medians(profile, layers)
    ids, substituted = {}, {}
    for name, modality in layers.items():
        if name in reasons:
            ids[name], whose = (medians[modality], modality) if modality in medians else (medians[""], "all layers'")
            substituted[name] = f"{reasons[name]}; it takes the {whose} median, {ids[name]:.4g}"
        else:
            ids[name] = profile.layers[name].estimate.dimension
    factors = {name: _factor(name, value, MODES[mode] * exponent) for name, value in ids.items()}
    return Multipliers(factors, substituted)


def _unreliable_reason(profile: Profile, name: str) -> str | None:
    if name not in profile.layers:
        return "not in the profile"
    layer = profile.layers[name]
    return unreliable_reason(layer.estimate, layer.n_features)


def _check_match(profile: Profile, layers: Mapping[str, str]) -> None:
    foreign = [name for name in layers if name not in profile.layers]
    if len(foreign) > (1 - FEWEST_MATCHES) * len(layers):
        others = [name for name in profile.layers if name not in layers]
        raise UsageError(
            f"the profile lacks {len(foreign)} of {len(layers)} layers in scope ({listed(foreign)}) and has "
            f"{len(others)} others ({listed(others)}): measure those in scope, unless it is of another model"
        )


def _medians(profile: Profile, layers: Mapping[str, str]) -> dict[str, float]:
    """The median of the reliable IDs of each modality, and of all under "". UsageError where there are none.

    Of the layers that are weighted alone: a profile may hold others, which are no part of the run.
    """
    reliable: dict[str, list[float]] = {}
    for name, layer in profile.layers.items():
        if name in layers and not _unreliable_reason(profile, name):
            for group in (layers[name], ""):
                reliable.setdefault(group, []).append(layer.estimate.dimension)
    if not reliable:
        raise UsageError("no layer of the profile has a reliable ID: estimate it from more, or more different, samples")
    return {group: statistics.median(values) for group, values in reliable.items()}


def _factor(name: str, dimension: float, power: float) -> float:
    try:
        factor = dimension**power
    except OverflowError:
        factor = math.inf
    if not 1 / LARGEST_FACTOR <= factor <= LARGEST_FACTOR:
        raise UsageError(f"the ID of {name}, {dimension:.4g}, to the power {power:g} is not a usable factor")
    return factor
