"""Global: one threshold over the scores of all layers."""

from __future__ import annotations

from collections.abc import Mapping

from idvl.sparsity.allocation import Allocation


def densities(
    sizes: Mapping[str, int], values: Mapping[str, float], density: float, spread: float | None
) -> dict[str, float]:
    return {}


ALLOCATION = Allocation(densities=densities)
