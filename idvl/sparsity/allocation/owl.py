"""OWL: blocks with more outliers among their Wanda scores are denser (Yin et al., ICML 2024, section 3.2).

Densities lie in a band of twice the spread, in which the share of outliers rises from its lowest to its highest. The
mean is weighted by sizes, which the published one is not: towers of unequal blocks meet the budget too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from idvl.sparsity.allocation import Allocation, mean, stretched

# an outlier's score is above so many times the mean of its block
OUTLIER = 5


def outliers(scores: list[Tensor]) -> float:
    """The share of scores that are outliers, among those of all layers of a block."""
    count = sum(one.numel() for one in scores)
    threshold = OUTLIER * sum(float(one.sum(dtype=torch.float64)) for one in scores) / count
    return sum(int((one > threshold).sum()) for one in scores) / count


def densities(
    sizes: Mapping[str, int], values: Mapping[str, float], density: float, spread: float | None
) -> dict[str, float]:
    places = stretched(values)
    middle = mean(sizes, places)
    return {name: density + 2 * spread * (places[name] - middle) for name in sizes}


ALLOCATION = Allocation(densities=densities, needs="outliers", by=("block", "layer"), spread=0.08)
