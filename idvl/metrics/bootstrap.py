"""Intervals of a metric, and of the difference of two systems on the same samples.

Percentile bootstrap over samples (Efron 1979), but of proportions the score intervals of `proportions`. Every metric of
n samples draws the same samples from the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from idvl.errors import UsageError
from idvl.metrics import proportions
from idvl.metrics.measured import Array, Measured

BOOTSTRAP, SCORE = "bootstrap", "Tango score"


@dataclass(frozen=True)
class Difference:
    """By how much the first system is above the second, in hundredths, with its interval: `interval` says which."""

    value: float
    low: float
    high: float
    interval: str


def interval(measured: Measured, *, seed: int = 0, resamples: int = 1000, level: float = 0.95) -> tuple[float, float]:
    """The bounds of a metric on the scale of its value: Wilson's, or where `level` of the resampled values lie."""
    if measured.proportion:
        low, high = proportions.interval(measured.parts, level)
        return 100 * low, 100 * high
    return _bounds(_spread(measured, seed, resamples), measured.value, level)


def paired(a: Measured, b: Measured, *, seed: int = 0, resamples: int = 1000, level: float = 0.95) -> Difference:
    """a minus b, both of the same samples in the same order. UsageError when their numbers differ."""
    if len(a.parts) != len(b.parts):
        raise UsageError(f"{a.name} of {len(a.parts)} samples cannot be compared with that of {len(b.parts)}")
    value = a.value - b.value
    if a.proportion and (a.parts[:, 1] == b.parts[:, 1]).all():
        low, high = proportions.difference(a.parts, b.parts, level)
        return Difference(value, 100 * low, 100 * high, SCORE)
    spread = _spread(a, seed, resamples) - _spread(b, seed, resamples)
    return Difference(value, *_bounds(spread, value, level), BOOTSTRAP)


def _spread(measured: Measured, seed: int, resamples: int) -> Array:
    """How far each resampled value (resamples,) is from that of all samples."""
    sums = np.stack([counts @ measured.parts for counts in _draws(len(measured.parts), seed, resamples)])
    return 100 * (measured.whole(sums) - measured.whole(measured.parts.sum(0)))


def _draws(n: int, seed: int, resamples: int) -> Iterator[Array]:
    """How often each of n samples is drawn, n times with replacement."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(n, size=n), minlength=n).astype(np.float64)


def _bounds(spread: Array, value: float, level: float) -> tuple[float, float]:
    low, high = value + np.quantile(spread, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
