"""How much of the time that a measurement is expected to take is spent."""

from __future__ import annotations

from idvl.models.plan import CapturePlan
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
