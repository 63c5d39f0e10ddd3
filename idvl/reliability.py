"""Whether an estimated intrinsic dimension (ID) is reliable. Pruning and every report use this one definition."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idvl.profile import Estimate, LayerProfile

# An ID of 20 from fewer points than this has a standard error of 10 % at best, and a bias larger than that.
FEWEST_RELIABLE_POINTS = 100
# A standard error of half the value leaves its order of magnitude open.
MOST_ERROR = 0.5
# With more points removed as duplicates than left over, the layer hardly tells samples apart.
MOST_DUPLICATES = 0.5
# Points that vary at all vary along a line, which reads 1 to within a few percent. What reads lower are clumps, and as
# a factor it would empty the layer; the lowest of the 168 published IDs is 1.9.
LEAST_DIMENSION = 0.9
# An ID may exceed the number of features by this many standard errors.
SLACK = 3


def unsound_reason(layer: LayerProfile) -> str | None:
    """Why a layer's ID is unreliable. None where it is reliable, and where there is none to rely on."""
    return None if layer.estimate.dimension is None else unreliable_reason(layer.estimate, layer.n_features)


def unreliable_reason(estimate: Estimate, features: int | None) -> str | None:
    """Why an estimate is unreliable, or None where it is reliable. `features`: of one point, None if unknown."""
    dimension, n = estimate.dimension, estimate.n_points
    if dimension is None:
        return f"no estimate: {estimate.reason}"
    if not dimension >= LEAST_DIMENSION:
        return f"an ID of {dimension:.4g}, below {LEAST_DIMENSION}"
    if n < FEWEST_RELIABLE_POINTS:
        return f"estimated from {n} distinct points, fewer than {FEWEST_RELIABLE_POINTS}"
    if estimate.n_duplicates > MOST_DUPLICATES * (n + estimate.n_duplicates):
        return f"{estimate.n_duplicates} of {n + estimate.n_duplicates} points are duplicates"
    if estimate.stderr is not None and not estimate.stderr <= MOST_ERROR * dimension:
        return f"an ID of {dimension:.4g} with a standard error of {estimate.stderr:.4g}"
    error = estimate.stderr if estimate.stderr is not None else dimension / math.sqrt(n)
    if features is not None and dimension - SLACK * error > features:
        return f"an ID of {dimension:.4g}, more than its points have features ({features:,})"
    return None
