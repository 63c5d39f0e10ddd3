"""Uniform: the same density in every layer."""

from __future__ import annotations

from collections.abc import Mapping

from idvl.sparsity.allocation import Allocation


def densities(
    sizes: Mapping[str, int], values: Mapping[str, float], density: float, spread: float | None
) -> dict[str, float]:
    return dict.fromkeys(sizes, density)


ALLOCATION = Allocation(densities=densities)
