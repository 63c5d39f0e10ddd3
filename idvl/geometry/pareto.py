"""Fits of the ratios of neighbour distances, whose law holds the dimension. It does not know the distances' origin.

Where the density is constant around a point, r_n2 / r_n1 = mu has the density
d (mu^d - 1)^(n2 - n1 - 1) / (B(n2 - n1, n1) mu^((n2 - 1) d + 1)) (Denti, Doimo, Laio, Mira 2022, eq. 5): for the first
two neighbours, a Pareto law of exponent d (Facco, d'Errico, Rodriguez, Laio 2017). Everything is float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

# of the ratios, the largest tenth is left out of the linear fit (Facco et al. 2017)
DISCARDED = 0.1


def facco_line(log_ratios: Tensor) -> tuple[Tensor, Tensor]:
    """(x, y) of Facco's fit: sorted ln mu and -ln(1 - F), F = i / N, without the largest tenth. N ratios -> (k,)."""
    n = len(log_ratios)
    # int of this very product, as the reference implementations write it
    k = int(n * (1 - DISCARDED))
    ranks = torch.arange(1, k + 1, dtype=torch.float64, device=log_ratios.device)
    return log_ratios.sort().values[:k], -torch.log(1 - ranks / n)


def slope(x: Tensor, y: Tensor) -> float:
    """Least squares through the origin."""
    return float((x @ y) / (x @ x))


def r_squared(x: Tensor, y: Tensor) -> float:
    """The share of y's variance that the line through the origin explains."""
    return float(1 - (y - slope(x, y) * x).square().sum() / (y - y.mean()).square().sum())


def pareto_mle(log_ratios: Tensor) -> float:
    """The unbiased maximum-likelihood exponent, (N - 1) / sum ln mu."""
    return float((len(log_ratios) - 1) / log_ratios.sum())


def pareto_distance(log_ratios: Tensor, dimension: float) -> float:
    """Kolmogorov-Smirnov distance between the ratios and the Pareto law of this exponent."""
    n = len(log_ratios)
    expected = -torch.expm1(-dimension * log_ratios.sort().values)
    steps = torch.arange(n + 1, dtype=torch.float64, device=log_ratios.device) / n
    return float(torch.maximum(expected - steps[:-1], steps[1:] - expected).max())


def icml24_line(log_ratios: Tensor) -> tuple[Tensor, Tensor]:
    """(x, y) of the paper's code: no ratio discarded, but the last two points of the line."""
    n = len(log_ratios)
    ranks = torch.arange(1, n - 1, dtype=torch.float64, device=log_ratios.device)
    return log_ratios.sort().values[: n - 2], -torch.log(1 - ranks / n)


def gride(log_ratios: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum-likelihood dimensions and their standard errors (s,) from ln(r_2m / r_m) (s, N) at the scales m (s,).

    The score N / d + (m - 1) sum x / (1 - exp(-d x)) - (2 m - 1) sum x falls with d and with every x, so bounds of x
    give bounds of d. Standard errors are those of the observed information. Infinite where all x are 0, 0 where one is
    infinite.
    """
    x = log_ratios.clamp(min=1e-30)
    m = scales.double()[:, None]
    total, n = x.sum(1, keepdim=True), x.shape[1]
    # the mean of ln mu is (1/m + ... + 1/(2m - 1)) / d
    log_d = ((torch.digamma(2 * m) - torch.digamma(m)) * n / total).log()
    for _ in range(20):
        t = log_d.exp() * x
        rise = -torch.expm1(-t)
        score = n + (m - 1) * (t / rise).sum(1, keepdim=True) - (2 * m - 1) * log_d.exp() * total
        curve = (m - 1) * (t * (rise - t * (1 - rise)) / rise.square()).sum(1, keepdim=True)
        step = score / ((2 * m - 1) * log_d.exp() * total - curve)
        log_d = log_d + step
        if not float(step.abs().max()) > 1e-14:
            break
    d = log_d.exp()
    t = d * x
    spread = (t.square() * torch.exp(-t) / torch.expm1(-t).square()).sum(1, keepdim=True)
    error = d / (n + (m - 1) * spread).sqrt()
    d = torch.where(log_ratios.amax(1, keepdim=True) <= 0, torch.inf, d)
    d = torch.where(total.isinf(), 0.0, d)
    return d[:, 0], error[:, 0]
