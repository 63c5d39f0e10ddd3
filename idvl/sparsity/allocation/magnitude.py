"""Magnitude: the density that one threshold over the weights of a modality leaves a layer (MULTIFLOW, section 3)."""

from __future__ import annotations

from collections.abc import Mapping

from idvl.sparsity.allocation import Allocation


def densities(
    sizes: Mapping[str, int], values: Mapping[str, float], density: float, spread: float | None
) -> dict[str, float]:
    return dict(values)


ALLOCATION = Allocation(densities=densities, needs="magnitude")
