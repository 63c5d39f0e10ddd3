"""How sure a mean over runs is, and whether two lists of numbers go together. Numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.96
PERMUTATIONS = 10_000


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of n pairs, and the share of permutations that are at least as far from 0."""

    rho: float
    p: float
    n: int


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean of n values and its two-sided 95 % t interval; (mean, None, None) for a single one."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return mean, None, None
    from scipy.special import stdtrit

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)
    return mean, mean - half, mean + half


def spearman(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """Spearman's rho with a two-sided permutation test of `PERMUTATIONS` draws.

    p = (1 + draws at least as extreme) / (1 + draws), so it is never 0. None for fewer than 4 pairs, or where all of x
    or all of y are the same.
    """
    from scipy.stats import rankdata

    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    centred = (rankdata(values) - (len(values) + 1) / 2 for values in (x, y))
    a, b = (ranks / np.linalg.norm(ranks) for ranks in centred)
    rho = float(a @ b)
    drawn = np.random.default_rng(0).permuted(np.tile(b, (PERMUTATIONS, 1)), axis=1) @ a
    extreme = int(np.count_nonzero(np.abs(drawn) >= abs(rho) - 1e-12))
    return Correlation(rho=rho, p=(1 + extreme) / (1 + PERMUTATIONS), n=len(a))
