"""The intrinsic dimension of a matrix of points: the neighbour search and the estimate in one call."""

from __future__ import annotations

from typing import Any

import torch

from idvl.errors import UsageError
from idvl.geometry.estimators import estimate, requirements
from idvl.geometry.neighbors import DenseRows, nearest
from idvl.profile import Estimate


def intrinsic_dimension(
    points: Any, estimator: str = "twonn", *, knn: str = "auto", seed: int = 0, device: torch.device | str | None = None
) -> Estimate:
    """The intrinsic dimension of the rows of a matrix (n, d) of numpy or torch, integers or floats.

    `estimator`: twonn, twonn-mle, gride or icml24. `knn`: torch, faiss or auto. `seed` matters to icml24 alone. Exactly
    equal rows count once. Raises UsageError for what is no matrix of real numbers; points that allow no estimate give
    one without a dimension, and the reason.
    """
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed must be a whole number from 0 to 2**63 - 1, not {seed}")
    needs = requirements(estimator, seed)
    return estimate(nearest(DenseRows(points, device=device), backend=knn, **needs), estimator)
