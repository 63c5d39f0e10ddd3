"""Global: one threshold over the scores of all layers."""

from __future__ import annotations

from collections.abc import Mapping

from idvl.sparsity.allocation import Allocation


def wishes(sizes: Mapping[str, int], values: Mapping[str, float]) -> dict[str, float]:
    return {}


ALLOCATION = Allocation(wishes)
