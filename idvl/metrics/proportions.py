"""Score intervals of proportions, and of the difference of two on the same samples.

A bootstrap of 2,000 hits of 2,000 only ever draws hits and gives [100, 100]. Wilson's interval (1927) and, for paired
samples, Tango's (1998, Statistics in Medicine 17:891) also hold where all samples hit or none differs. Trials of one
sample (captions of one image) depend on one another: both intervals then take the effective number of trials, the one
of independent trials with the variance that the samples show (Korn and Graubard 1998, Survey Methodology 24:193). Hits
in part (answers that some people gave) take it too.
"""

from __future__ import annotations

from math import copysign, inf, sqrt
from statistics import NormalDist

from idvl.metrics.measured import Array

# a sum of squares below this share of that of independent trials is rounding
ALIKE = 1e-12


def interval(parts: Array, level: float) -> tuple[float, float]:
    """The bounds of a proportion whose `parts` (n, 2) are each sample's hits and trials, as fractions."""
    hits, trials = parts.sum(0)
    # residuals times the number of trials: exact, so that samples that are all alike are known as such
    squares = ((parts[:, 0] * trials - hits * parts[:, 1]) ** 2).sum() / trials**2
    size = _effective(hits * (trials - hits) / trials, squares, parts[:, 0], parts[:, 1], level)
    return wilson(hits / trials * size, size, level)


def difference(a: Array, b: Array, level: float) -> tuple[float, float]:
    """The bounds of proportion `a` minus `b`, whose parts (n, 2) have the same trials, as fractions."""
    gained, trials = a[:, 0] - b[:, 0], a[:, 1].sum()
    more, less = gained.clip(min=0).sum(), (-gained).clip(min=0).sum()
    squares = ((gained * trials - (more - less) * a[:, 1]) ** 2).sum() / trials**2
    size = _effective(more + less - (more - less) ** 2 / trials, squares, gained, a[:, 1], level)
    return tango(more / trials * size, less / trials * size, size, level)


def wilson(hits: float, trials: float, level: float) -> tuple[float, float]:
    """Wilson's score interval of hits among trials."""
    z = _quantile(level)
    middle, half = hits + z * z / 2, z * sqrt(hits * (trials - hits) / trials + z * z / 4)
    # the ends are exact: rounding must not move them past the proportion
    low = 0.0 if hits == 0 else float((middle - half) / (trials + z * z))
    return low, 1.0 if hits == trials else float((middle + half) / (trials + z * z))


def tango(more: float, less: float, pairs: float, level: float) -> tuple[float, float]:
    """Tango's score interval of (more - less) / pairs: of the pairs, in how many only the first or the second hits."""
    from scipy.optimize import bisect

    z = _quantile(level)

    def score(delta: float) -> float:
        """Standard errors between the difference and `delta`, with the likeliest share of `less` given delta."""
        b = (2 * pairs - more + less) * delta - more - less
        q = (sqrt(max(b * b + 8 * pairs * less * delta * (1 - delta), 0.0)) - b) / (4 * pairs)
        variance = pairs * (2 * q + delta * (1 - delta))
        away = more - less - pairs * delta
        return away / sqrt(variance) if variance > 0 else copysign(inf, away) if away else 0.0

    def bound(end: float) -> float:
        """The difference farthest towards `end`, -1 or 1, whose score is within z."""

        def room(delta: float) -> float:
            return z + end * score(delta)

        return end if room(end) >= 0 else bisect(room, (more - less) / pairs, end, xtol=1e-15)

    return bound(-1.0), bound(1.0)


def _effective(independent: float, squares: float, hits: Array, trials: Array, level: float) -> float:
    """How many independent trials vary as the samples do; as many as samples where these are all alike.

    `independent`: the sum of squares that independent trials would have; `squares`: that of the samples' residuals.
    Hits in part vary less than whole ones, so count as more trials than there are. Where a sample has several trials,
    their variance is an estimate, for which Student's quantile takes the place of the normal one.
    """
    n, count = len(trials), trials.sum()
    # fractions do not add up exactly
    if squares <= ALIKE * independent or independent <= 0:
        return float(n)
    whole = (hits == hits.round()).all()
    size = count * (min(1.0, independent / squares) if whole else independent / squares)
    if count <= n:
        return float(size)
    from scipy.special import stdtrit

    return float(size * (_quantile(level) / stdtrit(n - 1, (1 + level) / 2)) ** 2)


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)
