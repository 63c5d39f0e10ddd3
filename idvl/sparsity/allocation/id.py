"""ID: densities in proportion to a power of the layer's intrinsic dimension."""

from __future__ import annotations

from collections.abc import Mapping

from idvl.sparsity.allocation import Allocation


def densities(sizes: Mapping[str, int], values: Mapping[str, float]) -> dict[str, float]:
    return {name: values[name] for name in sizes}


ALLOCATION = Allocation(densities, needs="dimension")
