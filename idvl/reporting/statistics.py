"""How sure a mean over runs is, and whether two lists of numbers go together. Numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom (any table of it)
T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
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
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = (T[n - 2] if n - 2 < len(T) else Z) * deviation / math.sqrt(n)
    return mean, mean - half, mean + half


def spearman(x: Sequence[float], y: Sequence[float], *, seed: int = 0) -> Correlation | None:
    """Spearman's rho with a two-sided permutation test of `PERMUTATIONS` draws.

    p = (1 + draws at least as extreme) / (1 + draws), so it is never 0. None for fewer than 4 pairs, or where all of x
    or all of y are the same.
    """
    a, b = (_standard(_ranks(np.asarray(values, dtype=np.float64))) for values in (x, y))
    if len(a) < 4 or not a.any() or not b.any():
        return None
    rho = float(a @ b)
    generator = np.random.default_rng(seed)
    drawn = generator.permuted(np.tile(b, (PERMUTATIONS, 1)), axis=1) @ a
    extreme = int(np.count_nonzero(np.abs(drawn) >= abs(rho) - 1e-12))
    return Correlation(rho=rho, p=(1 + extreme) / (1 + PERMUTATIONS), n=len(a))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse]


def _standard(values: np.ndarray) -> np.ndarray:
    """Centred and of length 1; all zeros where the values do not differ."""
    centred = values - values.mean() if len(values) else values
    length = math.sqrt(float(centred @ centred))
    return centred / length if length > 0 else np.zeros_like(centred)
