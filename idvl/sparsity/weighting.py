"""What a layer's intrinsic dimension (ID) does to the scores of its weights: one factor a layer.

A score is multiplied by ID ** exponent, or divided by it (the paper's ablation, Table 6). A layer without a sound ID
never takes another layer's by accident: it takes its modality's median, or the run is refused. It knows no tensors.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from idvl.errors import UsageError, quoted
from idvl.profile import Estimate, Profile

# the sign of the exponent
MODES = {"none": 0, "multiply": 1, "divide": -1}
MISSING = ("median", "refuse")

# Fewer points than this know an ID of 20 to about 10 % at best, and the bias of few points is larger than that.
FEWEST_POINTS = 100
# A standard error of half the value leaves its order of magnitude open.
MOST_ERROR = 0.5
# With more points removed as duplicates than left over, the layer hardly tells samples apart.
MOST_DUPLICATES = 0.5
# Points that vary at all vary along a line, which reads 1 to within a few percent. What reads lower are clumps, and as
# a factor it would empty the layer; the lowest of the 168 published IDs is 1.9.
LEAST_DIMENSION = 0.9
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
    layer at all has a sound ID) for a layer without one.
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
    reasons = {name: reason for name in layers if (reason := _unsound(profile, name))}
    if reasons and missing == "refuse":
        first, reason = next(iter(reasons.items()))
        raise UsageError(
            f"{len(reasons)} of {len(layers)} layers have no sound ID, {first} first ({reason}); "
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


def unsound(estimate: Estimate) -> str | None:
    """Why an estimate is no ground for a factor, or None where it is."""
    dimension, n = estimate.dimension, estimate.n_points
    if dimension is None:
        return f"no estimate: {estimate.reason}"
    if not dimension >= LEAST_DIMENSION:
        return f"an ID of {dimension:.4g}, less than a line's"
    if n < FEWEST_POINTS:
        return f"estimated from {n} distinct points, fewer than {FEWEST_POINTS}"
    if estimate.n_duplicates > MOST_DUPLICATES * (n + estimate.n_duplicates):
        return f"{estimate.n_duplicates} of {n + estimate.n_duplicates} points are duplicates"
    if estimate.stderr is not None and not estimate.stderr <= MOST_ERROR * dimension:
        return f"an ID of {dimension:.4g} with a standard error of {estimate.stderr:.4g}"
    return None


def _unsound(profile: Profile, name: str) -> str | None:
    if name not in profile.layers:
        return "not in the profile"
    layer = profile.layers[name]
    return unsound(layer.estimate) or _impossible(layer.estimate, layer.n_features)


def _impossible(estimate: Estimate, features: int | None) -> str | None:
    """Why points of so many features cannot have a dimension, its error allowed for; None where they can."""
    error = estimate.stderr if estimate.stderr is not None else estimate.dimension / math.sqrt(estimate.n_points)
    if features is None or estimate.dimension - 3 * error <= features:
        return None
    return f"an ID of {estimate.dimension:.4g}, more than its points have features ({features:,})"


def _check_match(profile: Profile, layers: Mapping[str, str]) -> None:
    foreign = [name for name in layers if name not in profile.layers]
    if len(foreign) > (1 - FEWEST_MATCHES) * len(layers):
        theirs = [name for name in profile.layers if name not in layers]
        raise UsageError(
            f"the profile is of another model: it lacks {len(foreign)} of {len(layers)} layers "
            f"({', '.join(foreign[:3])}, ...) and names others ({', '.join(theirs[:3]) or 'none'}, ...)"
        )


def _medians(profile: Profile, layers: Mapping[str, str]) -> dict[str, float]:
    """The median of the sound IDs of each modality, and of all under "". UsageError where there are none.

    Of the layers that are weighted alone: a profile may hold others, which are no part of the run.
    """
    sound: dict[str, list[float]] = {}
    for name, layer in profile.layers.items():
        if name in layers and not _unsound(profile, name):
            for group in (layers[name], ""):
                sound.setdefault(group, []).append(layer.estimate.dimension)
    if not sound:
        raise UsageError("no layer of the profile has a sound ID: estimate it from more, or more different, samples")
    return {group: statistics.median(values) for group, values in sound.items()}


def _factor(name: str, dimension: float, power: float) -> float:
    try:
        factor = dimension**power
    except OverflowError:
        factor = math.inf
    if not 1 / LARGEST_FACTOR <= factor <= LARGEST_FACTOR:
        raise UsageError(f"the ID of {name}, {dimension:.4g}, to the power {power:g} is not a usable factor")
    return factor
