"""A loaded model and its samples, turned into one estimate per layer, in the order in which the layers run.

samples -> batches -> survey -> plan -> layer after layer: rows -> exact neighbours -> estimate. It does not know
recipes, run folders or terminals.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idvl.data.samples import Sample
from idvl.device import free_memory, give_back_freed_memory
from idvl.distributed import Team
from idvl.errors import UsageError
from idvl.files import disk_errors
from idvl.geometry import backend, shortlist
from idvl.geometry.estimators import estimate, requirements
from idvl.geometry.gram import full_precision
from idvl.geometry.neighbors import FEATURE_CHUNK, FEW_POINTS, DenseRows, Neighbors, nearest
from idvl.geometry.search import NOISE_FACTOR
from idvl.models.capture import FLOAT_BYTES, LayerRows, Recorder, point_features
from idvl.models.inputs import encode
from idvl.models.layers import Layer
from idvl.models.loading import Loaded
from idvl.models.plan import CapturePlan, CaptureRun, make_plan
from idvl.models.trace import Survey, survey
from idvl.models.traverse import traverse
from idvl.profile import Capture, Estimate, EstimatorName, Knn, LayerProfile, Tokens
from idvl.reporter import Progress
from idvl.sparsity.weighting import unsound

# samples computed a second time, in a batch of another size, to measure the noise of the computation itself
MOST_ECHOES = 16
MOST_BATCHES = 4096
# the share of the budget above which a plan leaves no room for memory that the allocator keeps
TIGHT = 0.7


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured: which tensor of a layer, which of its tokens, with which estimator."""

    tokens: Tokens = "flatten"
    capture: Capture = "output"
    estimator: EstimatorName = "twonn"
    knn: Knn = "auto"
    batch_size: int = 16
    seed: int = 0


class Measurement:
    """All that is known before the work starts (batches, survey, plan); `estimates()` then does the work.

    `memory`: bytes that may be held beside the model, per process; a quarter of what is free by default. `done`: names
    of layers that need not be measured. Raises UsageError where the memory or the samples are too few.
    """

    def __init__(
        self,
        loaded: Loaded,
        samples: Sequence[Sample],
        layers: Mapping[str, Layer],
        settings: Settings,
        *,
        memory: int | None = None,
        spill: Path | None = None,
        team: Team | None = None,
        done: Collection[str] = (),
        progress: Progress | None = None,
    ):
        self.loaded, self.layers, self.settings = loaded, layers, settings
        self.n, self.team = len(samples), team or Team()
        self.device = next(loaded.model.parameters()).device
        memory = free_memory(self.device, self.team.size) // 4 if memory is None else memory
        self._done = frozenset(done)
        self._spill = spill / f"process-{self.team.rank}" if spill else None
        if self._spill:
            with disk_errors(self._spill, "--spill"):
                self._spill.mkdir(parents=True, exist_ok=True)
        self.team.each(lambda: self._encode(samples, progress))
        seen = self.team.each(self._survey)
        self.features = {
            name: point_features(seen.shapes[name], seen.batch_size, settings.tokens) for name in seen.order()
        }
        left = {name: width for name, width in self.features.items() if name not in done}
        n_local = max(self.team.counts(self._n_rows()))
        self.plan: CapturePlan = self.team.first(lambda: self._plan(seen, left, n_local, memory))
        if self.device.type == "cpu" and self.plan.held_bytes > TIGHT * self.plan.budget:
            give_back_freed_memory()
            # which takes time of its own
            seen = self.team.each(self._survey)
            self.plan = self.team.first(lambda: self._plan(seen, left, n_local, memory))

    def _survey(self) -> Survey:
        settings, loaded = self.settings, self.loaded
        with full_precision(self.device):
            return survey(
                loaded.model,
                self.batches[0],
                loaded.family.call,
                self.layers,
                capture=settings.capture,
                device=self.device,
            )

    def _plan(self, seen: Survey, left: Mapping[str, int], n_local: int, memory: int) -> CapturePlan:
        estimator = self.settings.estimator
        task = CaptureRun(
            features=left,
            n=self.n,
            n_local=n_local,
            budget=memory,
            input_bytes=sum(value.nbytes for batch in self.batches for value in batch.values()),
            layer_seconds=_layer_seconds(self.n, left, estimator, self.device, self.team.size),
            # few points, and estimators of many neighbours, take a float64 product and seldom a second pass
            passes=1 if self.n < FEW_POINTS or estimator in ("gride", "icml24") else 2,
            spill=self._spill is not None,
        )
        return make_plan(seen, task)

    def _encode(self, samples: Sequence[Sample], progress: Progress | None) -> None:
        size = self.settings.batch_size
        if not samples:
            raise UsageError("no samples to measure on")
        mine = self.team.part(-(-len(samples) // size))
        if -(-len(samples) // size) < self.team.size:
            raise UsageError(
                f"{len(samples)} samples in batches of {size} are too few for {self.team.size} processes: "
                "use a smaller --batch-size or fewer processes"
            )
        if len(mine) > MOST_BATCHES:
            raise UsageError(
                f"{len(mine)} batches are too many, each takes a thread: "
                f"give --batch-size {-(-len(samples) // MOST_BATCHES)} or more"
            )
        self.batches = encode(self.loaded, samples, batch_size=size, part=mine, progress=progress)
        self.echoes = _echoes(self.n, size, self.team.size)
        if self.team.rank == self.team.size - 1:
            last = self.batches[-(MOST_ECHOES // size + 2) :]
            joined = {key: torch.cat([batch[key] for batch in last]) for key in last[0]}
            # counted from the end
            places = [row - self.n for row in self.echoes]
            self.batches.append({key: value[places] for key, value in joined.items()})

    def _n_rows(self) -> int:
        return sum(len(next(iter(batch.values()))) for batch in self.batches)

    def _draws(self) -> list[Tensor]:
        """For every batch of this process, its samples' draws in [0, 1)."""
        draws = torch.rand(self.n, generator=torch.Generator().manual_seed(self.settings.seed))
        size = self.settings.batch_size
        mine = [draws[k * size : (k + 1) * size] for k in self.team.part(-(-self.n // size))]
        return [*mine, draws[self.echoes]]

    def estimates(self, progress: Progress | None = None) -> Iterator[tuple[str, LayerProfile]]:
        """Measure the planned layers, in the plan's order; then name those that no sample reached.

        `progress` counts milliseconds of the planned time.
        """
        spent = _Spent(self.plan, progress)
        family, settings = self.loaded.family, self.settings
        recorder = Recorder(self.batches, family.token_mask, settings.tokens, self._draws(), self._spill)
        rows = traverse(
            self.loaded.model,
            self.batches,
            family.call,
            self.layers,
            self.plan,
            self.features,
            recorder,
            capture=settings.capture,
            n=self.n,
            device=self.device,
            team=self.team,
            ran=spent.ran,
        )
        needs = requirements(settings.estimator, settings.seed)
        with torch.inference_mode(False), full_precision(self.device):
            for name, points in rows:
                neighbors = self._search(points, needs)
                spent.measured(name)
                yield name, self._profile(name, estimate(neighbors, settings.estimator, seed=settings.seed))
        if self._spill:
            with suppress(OSError):
                self._spill.rmdir()
        for name in (name for name in self.layers if name not in self.features and name not in self._done):
            yield name, self._profile(name, _unreached(settings.estimator))

    def _search(self, points: LayerRows, needs: Mapping[str, Any]) -> Neighbors:
        """Neighbours from the layer's chunks; from one matrix where faiss is wanted and the budget has room for it."""
        knn, rows, subsets = self.settings.knn, self.n + len(self.echoes), "subsets" in needs
        room = self.plan.budget - self.plan.held_bytes
        takes = FLOAT_BYTES * rows * points.width + shortlist.workspace_bytes(self.n, points.width, self.device)
        fits = points.whole and self.team.size == 1 and takes <= room
        if not (fits and backend.prefers(knn, self.n, points.width, self.device, subsets=subsets)):
            return nearest(points, echoes=self.echoes, backend=knn, **needs)
        every = _gathered(points)
        noise = torch.linalg.vector_norm(every[self.n :].double() - every[self.echoes].double(), dim=1).max()
        return nearest(DenseRows(every[: self.n]), tolerance=NOISE_FACTOR * float(noise), backend=knn, **needs)

    def _profile(self, name: str, estimate: Estimate) -> LayerProfile:
        layer = self.layers[name]
        if why := unsound(estimate):
            estimate = replace(estimate, diagnostics={**estimate.diagnostics, "unsound": why})
        depth = list(self.features).index(name) if name in self.features else len(self.features)
        return LayerProfile(
            modality=layer.modality,
            block=layer.block,
            depth=depth,
            width=layer.in_features if self.settings.capture == "input" else layer.out_features,
            n_features=self.features.get(name, 0),
            reads_image=layer.reads_image,
            estimate=estimate,
        )


def _gathered(points: LayerRows) -> Tensor:
    """All rows and features as one matrix, without ever holding them twice."""
    every, start = torch.empty(0), 0
    for chunk in points.chunks():
        if not start:
            every = chunk.new_empty(len(chunk), points.width)
        every[:, start : start + chunk.shape[1]] = chunk
        start += chunk.shape[1]
    return every


def _echoes(n: int, batch_size: int, processes: int) -> list[int]:
    """The last MOST_ECHOES rows of the last process, in reverse order, to be computed again in a batch of another size.

    They are the same whatever the batch size, as long as the last process has as many.
    """
    batches = -(-n // batch_size)
    first = batches * (processes - 1) // processes * batch_size
    rows = list(range(n - 1, first - 1, -1))[:MOST_ECHOES]
    sizes = {batch_size, n - (batches - 1) * batch_size}
    again = itertools.cycle(rows)
    while len(rows) in sizes:
        rows.append(next(again))
    return rows


def _unreached(estimator: str) -> Estimate:
    return Estimate(
        dimension=None, stderr=None, n_points=0, n_duplicates=0, estimator=estimator, reason="no sample reaches it"
    )


class _Spent:
    """How much of the planned time is behind us."""

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


def _layer_seconds(
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
