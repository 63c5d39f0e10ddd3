"""Distances -> intrinsic dimension."""

from __future__ import annotations

from typing import Any

import torch

from idvl.geometry.neighbors import Matrix, Neighbors, nearest
from idvl.profile import Estimate


def requirements(estimator: str) -> dict[str, Any]:
    return {"k": 2}


def estimate(neighbors: Neighbors, estimator: str, *, seed: int = 0) -> Estimate:
    if neighbors.reason:
        return Estimate(
            dimension=None, stderr=None, n_points=neighbors.n, n_duplicates=0, estimator=estimator, reason=neighbors.reason
        )
    mu = (neighbors.distances[:, 1] / neighbors.distances[:, 0]).sort().values
    n = len(mu)
    keep = int(n * 0.9)
    x = mu[:keep].log()
    y = -torch.log1p(-torch.arange(1, keep + 1, dtype=torch.float64) / n)
    d = float((x * y).sum() / (x * x).sum())
    return Estimate(
        dimension=d, stderr=d / n**0.5, n_points=n, n_duplicates=neighbors.n_duplicates, estimator=estimator,
        diagnostics={"noise_floor": neighbors.noise_floor},
    )


def intrinsic_dimension(points, estimator: str = "twonn") -> Estimate:
    return estimate(nearest(Matrix(points), **requirements(estimator)), estimator)
