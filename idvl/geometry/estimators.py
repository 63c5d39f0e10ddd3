"""Nearest-neighbour distances -> an estimate of the intrinsic dimension, its standard error and what speaks for it.

It does not know models, or how the distances were found:

    neighbors = nearest(rows, **requirements("twonn"))
    estimate(neighbors, "twonn")
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from idvl.errors import UsageError, did_you_mean, quoted
from idvl.geometry import pareto
from idvl.geometry.diagnostics import TIE, diagnose, log_ratios_of
from idvl.profile import Estimate

if TYPE_CHECKING:
    from idvl.geometry.neighbors import Neighbors

# fewer points than this say nothing about a dimension
LEAST_POINTS = 20
# this share of points whose two nearest neighbours are equally far, or more, leaves no law to fit
MOST_TIES = 0.5
# numbers of parts that icml24 averages over (IDNN block analysis as the paper's code runs it)
ICML24_BLOCKS = range(1, 21)
# the spread of that mean, in units of d / sqrt(n), on Gaussians: 0.26 (d = 20) to 0.58 (d = 5); see
# benchmarks/calibration.py
ICML24_SPREAD = 0.5
# ranks of the scale curve: the ratio of each distance to the one before it gives a dimension at that scale
RANKS = (1, 2, 4, 8, 16, 32, 64)
# gride's headline: the smallest scale that does not rest on the very nearest neighbour, the first to suffer from noise
GRIDE_SCALE = 2

# the neighbours and the logarithms of r2 / r1 -> dimension, standard error, diagnostics of its own
Fit = Callable[["Neighbors", Tensor], tuple[float, float, dict[str, Any]]]


@dataclass(frozen=True)
class Estimator:
    """What an estimator asks of the neighbour search (keyword arguments, given a seed), and its fit."""

    needs: Callable[[int], dict[str, Any]]
    fit: Fit


def requirements(estimator: str, seed: int = 0) -> dict[str, Any]:
    """The keyword arguments of `nearest` that this estimator needs; `seed` draws the parts that icml24 compares."""
    return _find(estimator).needs(seed)


def estimate(neighbors: Neighbors, estimator: str, seed: int = 0) -> Estimate:
    """The estimate from a search that was made with this estimator's `requirements`.

    `seed` is recorded; it must be the one that the requirements were made with.
    """
    fit = _find(estimator).fit
    n = len(neighbors.kept)
    reason = neighbors.reason
    if reason is None and n < LEAST_POINTS:
        reason = f"only {n} distinct points, at least {LEAST_POINTS} are needed"
    diagnostics: dict[str, Any] = {"neighbors": dict(neighbors.diagnostics), "seed": seed}
    dimension = error = None
    if reason is None:
        log_ratios = log_ratios_of(neighbors.distances[:, 0], neighbors.distances[:, 1])
        try:
            dimension, error, own = fit(neighbors, log_ratios)
            diagnostics |= own | diagnose(neighbors, log_ratios)
        except _NoEstimate as failure:
            reason = str(failure)
    return Estimate(
        dimension=dimension,
        stderr=error,
        n_points=n,
        n_duplicates=neighbors.n_duplicates,
        estimator=estimator,
        reason=reason,
        diagnostics=diagnostics,
    )


def _refuse_ties(log_ratios: Tensor) -> None:
    """Points on a grid have neighbours at equal distances, whose ratios say nothing of their dimension."""
    ties = int((log_ratios <= TIE).sum())
    if ties >= MOST_TIES * len(log_ratios):
        raise _NoEstimate(
            f"{ties} of {len(log_ratios)} points have neighbours equally far, as on a grid: no ratio to fit"
        )


class _NoEstimate(Exception):
    """The distances allow no estimate; the message says why."""


def _find(name: str) -> Estimator:
    if not isinstance(name, str) or name not in ESTIMATORS:
        hint = did_you_mean(name, ESTIMATORS) or f"; take one of {', '.join(ESTIMATORS)}"
        raise UsageError(f"unknown estimator {quoted(name)}{hint}")
    return ESTIMATORS[name]


def dependence(dimension: float) -> float:
    """How many times larger a standard error is because neighbouring points share their neighbours.

    Depends on the dimension alone where the density is locally constant. Fitted to the spread of TwoNN over uniform
    samples of 2,000 points in a periodic cube: 1.25 to 1.4 at d = 1 to 5, 1.2 at 8 to 12 (benchmarks/calibration.py).
    """
    return 1 + 0.36 * math.exp(-dimension / 20)


def _twonn(neighbors: Neighbors, log_ratios: Tensor) -> tuple[float, float, dict[str, Any]]:
    """Facco's line through the origin. Its spread over independent ratios is 1.06 that of the maximum likelihood."""
    _refuse_ties(log_ratios)
    d = pareto.slope(*pareto.facco_line(log_ratios))
    return d, 1.06 * dependence(d) * d / math.sqrt(len(log_ratios)), {}


def _twonn_mle(neighbors: Neighbors, log_ratios: Tensor) -> tuple[float, float, dict[str, Any]]:
    _refuse_ties(log_ratios)
    d = pareto.pareto_mle(log_ratios)
    return d, dependence(d) * d / math.sqrt(len(log_ratios) - 2), {}


def _gride(neighbors: Neighbors, log_ratios: Tensor) -> tuple[float, float, dict[str, Any]]:
    """Maximum likelihood at the scales 1, 2, ..., 32; the headline is that of GRIDE_SCALE."""
    ranks = [rank for rank in RANKS if rank <= neighbors.distances.shape[1]]
    logs = neighbors.distances[:, torch.tensor(ranks) - 1].log()
    ratios = logs.diff(dim=1).T
    scales = torch.tensor(ranks[:-1], device=ratios.device)
    dimensions, errors = pareto.gride(ratios, scales)
    if not bool(dimensions.isfinite().all()):
        raise _NoEstimate("many neighbours are equally far: all ratios of a scale are one")
    _refuse_ties(ratios[ranks.index(GRIDE_SCALE)])
    errors = [error * dependence(d) for d, error in zip(dimensions.tolist(), errors.tolist(), strict=True)]
    curve = [
        {"neighbors": [m, 2 * m], "dimension": d, "stderr": error}
        for m, d, error in zip(ranks, dimensions.tolist(), errors, strict=False)
    ]
    place = ranks.index(GRIDE_SCALE)
    record = {"gride": curve, "headline_neighbors": [GRIDE_SCALE, 2 * GRIDE_SCALE]}
    return float(dimensions[place]), errors[place], record


def _icml24(neighbors: Neighbors, log_ratios: Tensor) -> tuple[float, float, dict[str, Any]]:
    """The mean over 1..20 blocks of the mean over their parts.

    Its code's own error, the spread over the last parts, is in the diagnostics: it is some ten times too large.
    """
    fits = [_icml24_part(distances) for distances in neighbors.subset_distances]
    curve, start = [], 0
    for blocks in ICML24_BLOCKS:
        parts = [d for d in fits[start : start + blocks] if d is not None]
        start += blocks
        if parts:
            curve.append((blocks, sum(parts) / len(parts), parts))
    if not curve:
        raise _NoEstimate("no part of the points has more than three different ratios")
    last = torch.tensor(curve[-1][2], dtype=torch.float64)
    dimension = sum(mean for _, mean, _ in curve) / len(curve)
    record = {
        "blocks": [blocks for blocks, _, _ in curve],
        "block_dimensions": [mean for _, mean, _ in curve],
        "last_parts_std": float(last.std(correction=0)),
    }
    return dimension, ICML24_SPREAD * dimension / math.sqrt(len(log_ratios)), record


def _icml24_part(distances: Tensor) -> float | None:
    """TwoNN of one part, from its (s, 2) distances; None with three different ratios or fewer."""
    log_ratios = log_ratios_of(distances[:, 0], distances[:, 1]) if distances.shape[1] > 1 else distances[:0, 0]
    log_ratios = log_ratios[log_ratios > 0]
    return pareto.slope(*pareto.icml24_line(log_ratios)) if len(log_ratios) > 3 else None


def _icml24_parts(seed: int) -> Callable[[int], list[Tensor]]:
    """For n points, a random cut into b equal parts for every number of blocks b (what is left over is left out)."""

    def parts(n: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        cuts = []
        for blocks in ICML24_BLOCKS:
            order = torch.randperm(n, generator=generator)
            cuts += [order[i * (n // blocks) : (i + 1) * (n // blocks)] for i in range(blocks)]
        return cuts

    return parts


def _two(seed: int) -> dict[str, Any]:
    return {"k": 2, "ranks": RANKS}


ESTIMATORS: dict[str, Estimator] = {
    "twonn": Estimator(_two, _twonn),
    "twonn-mle": Estimator(_two, _twonn_mle),
    "gride": Estimator(lambda seed: {"k": RANKS[-1], "ranks": RANKS}, _gride),
    "icml24": Estimator(lambda seed: {"k": 2, "ranks": RANKS, "subsets": _icml24_parts(seed)}, _icml24),
}
