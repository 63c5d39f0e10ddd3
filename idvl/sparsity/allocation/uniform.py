"""Uniform: the same density in every layer."""

from __future__ import annotations

from collections.abc import Mapping

from idvl.sparsity.allocation import Allocation


def densities(sizes: Mapping[str, int], values: Mapping[str, float]) -> dict[str, float]:
    return dict.fromkeys(sizes, 1.0)


ALLOCATION = Allocation(densities)
