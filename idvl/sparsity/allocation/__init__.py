"""How much each layer keeps: one file an allocation, found by listing this folder.

An allocation file exposes ALLOCATION; its key is the file's name. An allocation gives relative
densities: `solver.counts` turns them into whole numbers that meet the budget.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

# what an allocation reads of each layer: the power of its intrinsic dimension; where it stands in its stack of blocks,
# 0 in the first and 1 in the last
Need = Literal["dimension", "depth"]


@dataclass(frozen=True)
class Allocation:
    """`densities(sizes, values)`: the relative density of each layer, above 0; a factor common to all of them is free.

    `sizes` counts the units of each layer; `values` holds what the allocation `needs` of it. {} means one threshold
    over the scores of all layers.
    """

    densities: Callable[[Mapping[str, int], Mapping[str, float]], dict[str, float]]
    needs: Need | None = None


def names() -> list[str]:
    """The keys of all allocations."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Allocation:
    """The allocation of a key."""
    return import_module(f"{__name__}.{name}").ALLOCATION
