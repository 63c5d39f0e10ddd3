"""How much each layer keeps: one file an allocation, found by listing this folder.

An allocation file exposes ALLOCATION; its key is the file's name. An allocation only says what each layer wants:
`solver.counts` turns wishes into whole numbers that meet the budget.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from typing import Protocol


class Allocation(Protocol):
    """The density that each layer wants, above 0 and up to a factor common to all layers; `sizes` counts their units.

    Empty where layers want nothing: one threshold over all of them then decides.
    """

    def __call__(self, sizes: Mapping[str, int]) -> dict[str, float]: ...


def names() -> list[str]:
    """The keys of all allocations."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Allocation:
    """The allocation of a key."""
    return import_module(f"{__name__}.{name}").ALLOCATION
