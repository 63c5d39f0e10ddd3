"""How much each layer keeps: one file an allocation, found by listing this folder.

An allocation file exposes ALLOCATION; its key is the file's name. An allocation maps a number of each layer to
densities: `solver.counts` turns them into whole numbers that meet the budget. Where the numbers come from it does not
know.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from idvl.choices import By, Signal

# the density of a layer to which an allocation would leave nothing
LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """`densities(sizes, values, density, spread)`: the density of each group of layers; a common factor is free.

    `sizes` counts the units of each group, `values` holds the signal that the allocation `needs` of it, `density` is
    the mean over all units. {} means one threshold over the scores of all layers. `by`: what may form a group, the
    default first. `spread`: how far apart the densities are by default, None where the allocation has no such number;
    0 where it has one that is off.
    """

    densities: Callable[[Mapping[str, int], Mapping[str, float], float, float | None], dict[str, float]]
    needs: Signal | None = None
    by: tuple[By, ...] = ("layer",)
    spread: float | None = None


def names() -> list[str]:
    """The keys of all allocations."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Allocation:
    """The allocation of a key, or of the key before a colon."""
    return import_module(f"{__name__}.{name.partition(':')[0]}").ALLOCATION


def densities(
    name: str,
    sizes: Mapping[str, int],
    *,
    density: float,
    values: Mapping[str, float] | None = None,
    groups: Mapping[str, str] | None = None,
    spread: float | None = None,
) -> dict[str, float]:
    """The relative density of each layer, above 0; {} for one threshold over all of them.

    `groups`: the group of each layer, by default the layer itself; those of a group share its density.
    """
    allocation = load(name)
    groups = groups or {layer: layer for layer in sizes}
    totals = dict.fromkeys((groups[layer] for layer in sizes), 0)
    for layer, size in sizes.items():
        totals[groups[layer]] += size
    shares = allocation.densities(totals, values or {}, density, allocation.spread if spread is None else spread)
    return {layer: max(shares[groups[layer]], LEAST) for layer in sizes} if shares else {}


def as_measured(
    sizes: Mapping[str, int], values: Mapping[str, float], density: float, spread: float | None
) -> dict[str, float]:
    """The signal itself, for an allocation whose signal is a density, up to a factor."""
    return dict(values)


def mean(sizes: Mapping[str, int], values: Mapping[str, float]) -> float:
    """The mean of the groups' values, weighted by their sizes."""
    return sum(values[name] * size for name, size in sizes.items()) / sum(sizes.values())


def stretched(values: Mapping[str, float]) -> dict[str, float]:
    """The values from 0 at the lowest to 1 at the highest; 0.5 where all are equal."""
    least, most = min(values.values()), max(values.values())
    return {name: (value - least) / (most - least) if most > least else 0.5 for name, value in values.items()}
