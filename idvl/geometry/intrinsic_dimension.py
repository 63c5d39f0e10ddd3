"""The intrinsic dimension of a matrix of points: the neighbour search and the estimate in one call."""

from __future__ import annotations

from typing import Any

import torch

from idvl.arguments import whole_number
from idvl.device import find_device
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
    needs = requirements(estimator, whole_number("seed", seed))
    device = None if device is None else find_device(device, torch.float64)
    return estimate(nearest(DenseRows(points, device=device), backend=knn, **needs), estimator, seed)
