"""Depth: densities fall in a straight line from the first block of a stack to its last.

It needs no data: what any other allocation has to do better than.
"""

from __future__ import annotations

from collections.abc import Mapping

from idvl.sparsity.allocation import Allocation

# the density of the first block, and of the last, above and below that of a block in the middle, which is 1
SPREAD = 0.2


def densities(sizes: Mapping[str, int], values: Mapping[str, float]) -> dict[str, float]:
    return {name: 1 + SPREAD * (1 - 2 * values[name]) for name in sizes}


ALLOCATION = Allocation(densities, needs="depth")
