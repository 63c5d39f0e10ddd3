"""AlphaPruning: layers whose spectrum has a heavy tail are denser (Lu et al., NeurIPS 2024, section 3). No data.

The exponent of a power law that fits the tail says how heavy it is. Sparsities are in proportion to a number that rises
from 1 - spread at the lowest exponent to 1 + spread at the highest; their mean is weighted by sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from idvl.sparsity.allocation import Allocation, mean, stretched

# bins of the histogram that proposes where the tail begins, and starts that are tried at a time
BINS, AT_ONCE = 100, 64


def exponent(eigenvalues: Tensor) -> float:
    """The exponent of the power law that fits best from somewhere near the peak on, of eigenvalues (n,) float64 > 0.

    From a start on it is that of largest likelihood; the start is the one whose fit has the least Kolmogorov-Smirnov
    distance, among those from log10(0.95 peak) to 1.5 times the peak of the histogram of logarithms. That the lower
    end is a logarithm is a slip of the published code, which its numbers depend on. ValueError for fewer than two, and
    where no value of the tail differs from another.
    """
    values = eigenvalues.sort().values
    if len(values) < 2:
        raise ValueError("a spectrum of fewer than two eigenvalues above 0 has no exponent")
    decades = values.log10()
    edges = torch.linspace(float(decades[0]), float(decades[-1]), BINS + 1, dtype=values.dtype)
    peak = 10 ** edges[decades.histc(BINS).argmax()]
    starts = ((values >= (0.95 * peak).log10()) & (values <= 1.5 * peak))[:-1].nonzero().flatten()
    fits = [_fits(values.log(), part) for part in starts.split(AT_ONCE)]
    distances, exponents = (torch.cat(parts) for parts in zip(*fits, strict=True))
    found = float(exponents[distances.argmin()])
    if found == math.inf:
        raise ValueError("a spectrum of equal eigenvalues has no exponent")
    return found


def _fits(logarithms: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """The distance and the exponent of the power law from each start on."""
    n = len(logarithms)
    index = torch.arange(n)
    behind = index >= starts.unsqueeze(1)
    # log(value / start), 0 before the start
    above = (logarithms - logarithms[starts].unsqueeze(1)).where(behind, 0.0)
    counts = (n - starts).to(logarithms.dtype)
    exponents = 1 + counts / above.sum(1).clamp_min(torch.finfo(logarithms.dtype).tiny)
    empirical = (index - starts.unsqueeze(1)) / counts.unsqueeze(1)
    gaps = (1 - ((1 - exponents).unsqueeze(1) * above).exp() - empirical).abs()
    return gaps.where(behind, 0.0).amax(1), exponents


def densities(
    sizes: Mapping[str, int], values: Mapping[str, float], density: float, spread: float | None
) -> dict[str, float]:
    ratios = {name: 1 + spread * (2 * place - 1) for name, place in stretched(values).items()}
    scale = (1 - density) / mean(sizes, ratios)
    return {name: 1 - scale * ratios[name] for name in sizes}


ALLOCATION = Allocation(densities=densities, needs="spectrum", by=("block", "layer"), spread=0.3)
