"""The densities that layers want -> how many units each keeps, exactly.

Water-filling: every layer keeps level x wish x size units, rounded and within its bounds, and one common level meets
the budget. Counts are rounded at that level, and not by largest remainders: with those a layer may keep fewer units of
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
# the largest quotient of two wishes: times a layer's size it stays far within float64
SPREAD = 1e200


def counts(
    wishes: Mapping[str, float], sizes: Mapping[str, int], keep: int, bounds: Mapping[str, tuple[int, int]]
) -> dict[str, int]:
    """The units that each layer keeps: `keep` in all, and of each layer no fewer and no more than its `bounds`.

    A layer's unit number j wants a level of (j - 1/2) / (wish x size); the units that want the lowest levels stay. Of
    equal ones those of later layers stay, as scores that are equal go in the order of the layers. ValueError for a
    wish that is not above 0 and for a budget outside the bounds, UsageError for wishes more than `SPREAD` apart.
    """
    if wrong := [name for name in sizes if not 0 < wishes[name] < math.inf]:
        raise ValueError(f"the wish of {wrong[0]} must be above 0, not {wishes[wrong[0]]}")
    least, most = min(sizes, key=wishes.get), max(sizes, key=wishes.get)
    if wishes[most] / SPREAD > wishes[least]:
        raise UsageError(
            f"the wishes of {most} and {least} are more than {SPREAD:g} apart: {wishes[most]}, {wishes[least]}"
        )
    lowest, highest = (sum(bounds[name][side] for name in sizes) for side in (0, 1))
    if not lowest <= keep <= highest:
        raise ValueError(f"the bounds keep {lowest} to {highest} units, not {keep}")
    kept = _below(wishes, sizes, keep, bounds)
    # exact from here: ties are ties
    pulls = [Fraction(wishes[name]) * size for name, size in sizes.items()]
    most = [bounds[name][1] for name in sizes]

    def level(layer: int) -> Fraction:
        return (2 * kept[layer] + 1) / (2 * pulls[layer])

    queue = [(level(layer), -layer) for layer in range(len(kept)) if kept[layer] < most[layer]]
    heapq.heapify(queue)
    for _ in range(keep - sum(kept)):
        layer = -queue[0][1]
        kept[layer] += 1
        if kept[layer] < most[layer]:
            heapq.heapreplace(queue, (level(layer), -layer))
        else:
            heapq.heappop(queue)
    return dict(zip(sizes, kept, strict=True))


def _below(
    wishes: Mapping[str, float], sizes: Mapping[str, int], keep: int, bounds: Mapping[str, tuple[int, int]]
) -> list[int]:
    """The counts at a level so little below the budget's that only ties and a few units are missing."""
    # a common factor changes no count
    largest = max(wishes[name] for name in sizes)
    pulls = np.array([wishes[name] / largest * size for name, size in sizes.items()])
    least, most = np.array([bounds[name] for name in sizes]).T

    def at(level: float) -> np.ndarray:
        return np.floor(level * pulls + 0.5).clip(least, most).astype(np.int64)

    # nothing but the least, everything
    low, high = 0.25 / pulls.max(), (most.max() + 1) / pulls.min()
    while high - low > WIDTH * high:
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).sum() <= keep else (low, middle)
    return at(low * (1 - WIDTH)).tolist()
