"""Relative densities of layers -> how many units each keeps, exactly.

Water-filling: every layer keeps scale x density x size units, rounded and within its bounds, and one common scale meets
the budget. Counts are rounded at that scale, and not by largest remainders: with those a layer may keep fewer units of
a larger budget, so that along a schedule pruned weights would have to return. It knows neither scores nor tensors.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from idvl.errors import UsageError

# the relative width at which bisection ends: float64 rounds well within it, and few units lie in it
WIDTH = 1e-12
# the largest quotient of two densities: times a layer's size it stays far within float64
SPREAD = 1e200


def counts(
    densities: Mapping[str, float], sizes: Mapping[str, int], keep: int, bounds: Mapping[str, tuple[int, int]]
) -> dict[str, int]:
    """The units that each layer keeps: `keep` in all, and of each layer no fewer and no more than its `bounds`.

    A layer's unit number j is kept from the scale (j - 1/2) / (density x size) on; those of the lowest scales stay. Of
    equal ones those of later layers stay, as scores that are equal go in the order of the layers. ValueError for a
    density that is not above 0 and for a budget outside the bounds, UsageError for densities more than `SPREAD` apart.
    """
    if wrong := [name for name in sizes if not 0 < densities[name] < math.inf]:
        raise ValueError(f"the density of {wrong[0]} must be above 0, not {densities[wrong[0]]}")
    least, most = min(sizes, key=densities.get), max(sizes, key=densities.get)
    if densities[most] / SPREAD > densities[least]:
        raise UsageError(
            f"the densities of {most} and {least} are more than {SPREAD:g} apart: {densities[most]}, {densities[least]}"
        )
    lowest, highest = (sum(bounds[name][side] for name in sizes) for side in (0, 1))
    if not lowest <= keep <= highest:
        raise ValueError(f"the bounds keep {lowest} to {highest} units, not {keep}")
    kept = _below(densities, sizes, keep, bounds)
    # exact from here: ties are ties
    demands = [Fraction(densities[name]) * size for name, size in sizes.items()]
    most = [bounds[name][1] for name in sizes]

    def scale(layer: int) -> Fraction:
        return (2 * kept[layer] + 1) / (2 * demands[layer])

    queue = [(scale(layer), -layer) for layer in range(len(kept)) if kept[layer] < most[layer]]
    heapq.heapify(queue)
    for _ in range(keep - sum(kept)):
        layer = -queue[0][1]
        kept[layer] += 1
        if kept[layer] < most[layer]:
            heapq.heapreplace(queue, (scale(layer), -layer))
        else:
            heapq.heappop(queue)
    return dict(zip(sizes, kept, strict=True))


def _below(
    densities: Mapping[str, float], sizes: Mapping[str, int], keep: int, bounds: Mapping[str, tuple[int, int]]
) -> list[int]:
    """The counts at a scale so little below the budget's that only ties and a few units are missing."""
    # a common factor changes no count
    largest = max(densities[name] for name in sizes)
    demands = np.array([densities[name] / largest * size for name, size in sizes.items()])
    least, most = np.array([bounds[name] for name in sizes]).T

    def at(scale: float) -> np.ndarray:
        return np.floor(scale * demands + 0.5).clip(least, most).astype(np.int64)

    # nothing but the least, everything
    low, high = 0.25 / demands.max(), (most.max() + 1) / demands.min()
    while high - low > WIDTH * high:
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).sum() <= keep else (low, middle)
    return at(low * (1 - WIDTH)).tolist()
