"""ID: densities in proportion to a power of the layer's intrinsic dimension, or by its rank among all layers.

IDs of one model differ by a factor of up to 75, so that proportions soon reach floors and ceilings. Ranks do not feel
monotone transforms or outliers: with a spread, densities lie in a band of twice its width.
"""

from __future__ import annotations

from collections.abc import Mapping

from idvl.sparsity.allocation import Allocation, mean


def densities(
    sizes: Mapping[str, int], values: Mapping[str, float], density: float, spread: float | None
) -> dict[str, float]:
    if not spread:
        return {name: values[name] for name in sizes}
    ranks = _ranks(values)
    middle = mean(sizes, ranks)
    return {name: density + 2 * spread * (ranks[name] - middle) for name in sizes}


def _ranks(values: Mapping[str, float]) -> dict[str, float]:
    """From 0 for the lowest value to 1 for the highest; equal ones share the mean of their places."""
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(values.values())):
        places.setdefault(value, []).append(place)
    last = max(len(values) - 1, 1)
    return {name: sum(places[value]) / len(places[value]) / last for name, value in values.items()}


ALLOCATION = Allocation(densities=densities, needs="dimension", spread=0.0)
