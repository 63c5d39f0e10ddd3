"""Depth: densities fall in a straight line from the first block of a stack to its last.

It needs no data: what any other allocation has to do better than. The spread is the part of the mean density by which
the first and the last block lie above and below it.
"""

from __future__ import annotations

from collections.abc import Mapping

from idvl.sparsity.allocation import Allocation


def densities(
    sizes: Mapping[str, int], values: Mapping[str, float], density: float, spread: float | None
) -> dict[str, float]:
    return {name: density * (1 + spread * (1 - 2 * values[name])) for name in sizes}


ALLOCATION = Allocation(densities=densities, needs="depth", spread=0.2)
