"""File: the densities that a file gives, up to the factor that meets the budget."""

from __future__ import annotations

from collections.abc import Mapping

from idvl.sparsity.allocation import Allocation


def densities(
    sizes: Mapping[str, int], values: Mapping[str, float], density: float, spread: float | None
) -> dict[str, float]:
    return dict(values)


ALLOCATION = Allocation(densities=densities, needs="file")
