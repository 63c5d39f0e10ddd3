"""A metric's value from the sum of each sample's contribution, so that samples can be resampled.

It knows neither tasks nor metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from idvl.errors import UsageError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One metric over n samples.

    `parts` (n, c): what each sample contributes; `whole`: sums of parts (..., c) -> the metric (...), as a fraction.
    `interval` says what an interval rests on. `published`: the metric as a fraction where its authors' program combines
    samples in another way than `whole`; intervals are then moved to it. `proportion`: whether `parts` are hits among
    trials, at most one a trial, so that `metrics.proportions` gives the interval.
    """

    name: str
    parts: Array
    whole: Callable[[Array], Array]
    interval: str
    published: float | None = None
    proportion: bool = False

    @property
    def value(self) -> float:
        """The metric times 100, as tables of papers show it."""
        return 100 * float(self.whole(self.parts.sum(0)) if self.published is None else self.published)


@dataclass(frozen=True)
class Skipped:
    """A metric that could not be computed: why, and what to do about it."""

    name: str
    reason: str
    hint: str


def mean(
    name: str, totals: ArrayLike, counts: ArrayLike = 1, *, interval: str, published: float | None = None
) -> Measured:
    """The mean of what samples score: `totals` (n,) over all, each of `counts` (n,) single scores."""
    totals = np.asarray(totals, dtype=np.float64)
    parts = np.stack([totals, np.broadcast_to(np.asarray(counts, dtype=np.float64), totals.shape)], axis=1)
    return Measured(name, parts, ratio, interval, published)


def proportion(name: str, hits: ArrayLike, trials: ArrayLike = 1, *, interval: str) -> Measured:
    """The share of trials that hit: `hits` (n,) of `trials` (n,) of each sample, which depend on one another."""
    made = mean(name, hits, trials, interval=interval)
    return replace(made, proportion=True)


def ratio(sums: Array) -> Array:
    """Sums (..., 2) of scores and of their number -> means (...)."""
    return sums[..., 0] / sums[..., 1]


def matched(predictions: Sequence[object], references: Sequence[object], what: str = "references") -> None:
    """Raise UsageError unless there is a reference for each of at least one prediction."""
    if len(predictions) != len(references):
        raise UsageError(f"{len(predictions)} predictions, but {len(references)} {what}: each needs its own")
    if len(predictions) == 0:
        raise UsageError("no predictions: there is nothing to score")
