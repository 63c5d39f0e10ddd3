"""What a measurement is expected to take, and how much of that time is spent."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from idvl.geometry.estimators import estimate, requirements
from idvl.geometry.neighbors import FEATURE_CHUNK, DenseRows, nearest
from idvl.models.plan import CapturePlan
from idvl.profile import EstimatorName
from idvl.reporter import Progress


class Spent:
    """How much of the planned time is over; `progress` counts its milliseconds."""

    def __init__(self, plan: CapturePlan, progress: Progress | None):
        self._plan, self._progress = plan, progress
        self._seconds = 0.0

    def ran(self, block: str | None) -> None:
        self._add(self._plan.batch_seconds[block])

    def measured(self, layer: str) -> None:
        self._add(self._plan.layer_seconds[layer])

    def _add(self, seconds: float) -> None:
        self._seconds += seconds
        if self._progress:
            total = int(self._plan.seconds * 1000)
            self._progress(min(int(self._seconds * 1000), total), total)


def layer_seconds(
    n: int, features: Mapping[str, int], estimator: EstimatorName, device: torch.device, processes: int
) -> dict[str, float]:
    """What the neighbours and estimate of each layer will cost, from two small measurements on random points."""
    seconds = []
    # the first one warms up
    for width in (FEATURE_CHUNK // 4, FEATURE_CHUNK // 4, FEATURE_CHUNK):
        points = DenseRows(torch.randn(n, width, device=device))
        start = time.perf_counter()
        estimate(nearest(points, backend="torch", **requirements(estimator)), estimator, seed=0)
        seconds.append(time.perf_counter() - start)
    slope = max(seconds[2] - seconds[1], 0.0) / (FEATURE_CHUNK * 3 / 4) / processes
    return {name: seconds[1] + slope * width for name, width in features.items()}
