"""A loaded model and its samples, turned into one estimate per layer, in the order in which the layers run.

samples -> batches -> trace -> plan -> layer after layer: rows -> exact neighbours -> estimate. It does not know
recipes, run folders or terminals.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idvl import runs
from idvl.data.samples import Sample, Selection
from idvl.device import free_memory, give_back_freed_memory
from idvl.distributed import Team
from idvl.files import disk_errors
from idvl.geometry import backend, shortlist
from idvl.geometry.estimators import estimate, requirements
from idvl.geometry.gram import full_precision
from idvl.geometry.neighbors import FEATURE_CHUNK, FEW_POINTS, DenseRows, Neighbors, nearest, workspace_bytes
from idvl.geometry.search import NOISE_FACTOR
from idvl.measurement.batches import draws_of, echo_rows, encode_part
from idvl.measurement.cost import Spent
from idvl.measurement.points import FLOAT_BYTES, Points, point_features
from idvl.measurement.rows import LayerRows, rows_of_layers
from idvl.measurement.settings import Settings
from idvl.models.capture import Tap, tapped_walk
from idvl.models.layers import Layer
from idvl.models.loading import Loaded
from idvl.models.plan import CapturePlan, CaptureRun, make_plan
from idvl.models.trace import Trace, trace
from idvl.models.walk import Passes, Walk
from idvl.profile import Estimate, EstimatorName, LayerProfile, Profile
from idvl.reliability import unreliable_reason
from idvl.reporter import Progress

# the share of the budget above which a plan leaves no room for memory that the allocator keeps
TIGHT = 0.7


class Measurement:
    """All that is known before the work starts (batches, trace, plan); `estimates()` then does the work.

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
        self._provenance = runs.provenance()
        self.loaded, self.layers, self.settings = loaded, layers, settings
        self.n, self.team = len(samples), team or Team()
        self.device = loaded.device
        memory = free_memory(self.device, self.team.size) // 4 if memory is None else memory
        self._done = frozenset(done)
        self._spill = spill / f"process-{self.team.rank}" if spill else None
        with self._spilling():
            self._prepare(samples, memory, progress)

    def _prepare(self, samples: Sequence[Sample], memory: int, progress: Progress | None) -> None:
        """Batches, trace and plan."""
        loaded, settings = self.loaded, self.settings
        sharing = {"batch_size": settings.batch_size, "team": self.team}
        self.echoes = echo_rows(self.n, settings.batch_size, self.team.size)
        # a flattened point has all tokens of its sample, so samples must have as many
        encoding = {"fixed": settings.tokens == "flatten", "progress": progress, **sharing}
        self.batches, self._other = self.team.each(lambda: encode_part(loaded, samples, self.echoes, **encoding))
        self.draws = draws_of(self.n, self.echoes, seed=settings.seed, **sharing)
        self._counts = self.team.counts(sum(len(draws) for draws in self.draws))
        seen = self.team.each(self._trace)
        self._axes, self._faults, self._changed = seen.axes, seen.faults, seen.changed
        self.features = {
            name: point_features(shapes, seen.batch_size, settings.tokens) for name, shapes in seen.shapes.items()
        }
        self.plan: CapturePlan = self.team.first(lambda: self._plan(seen, memory))
        if self.device.type == "cpu" and self.plan.held_bytes > TIGHT * self.plan.budget:
            give_back_freed_memory()
            # which takes time of its own
            seen = self.team.each(self._trace)
            self.plan = self.team.first(lambda: self._plan(seen, memory))

    @contextmanager
    def _spilling(self) -> Iterator[None]:
        """The folder of spilled tensors, whose files delete themselves, is there inside; nothing without one."""
        if self._spill is None:
            yield
            return
        with disk_errors(self._spill, "--spill"):
            self._spill.mkdir(parents=True, exist_ok=True)
        try:
            if self.loaded.offload:
                self.loaded.offload.spill = self._spill
            yield
        finally:
            if self.loaded.offload:
                self.loaded.offload.spill = None
            with suppress(OSError):
                self._spill.rmdir()

    def _trace(self) -> Trace:
        model, call, capture = self.loaded.model, self.loaded.family.call, self.settings.capture
        with torch.inference_mode(False), full_precision(self.device):
            how = {"capture": capture, "device": self.loaded.inputs_device, "other": self._other}
            how["offload"] = self.loaded.offload
            return trace(model, self.batches[0], call, self.layers, **how)

    def _plan(self, seen: Trace, memory: int) -> CapturePlan:
        n, estimator, n_local = self.n, self.settings.estimator, max(self._counts)
        left = {name: width for name, width in self.features.items() if name not in self._done}
        run = CaptureRun(
            layer_bytes={name: 0 if self._spill else width * n_local * FLOAT_BYTES for name, width in left.items()},
            n=n,
            n_local=n_local,
            budget=memory,
            input_bytes=sum(value.nbytes for batch in self.batches for value in batch.values()),
            # the search's own, and two chunks
            workspace=workspace_bytes(n) + 2 * n * FEATURE_CHUNK * FLOAT_BYTES,
            smallest=n_local * FEATURE_CHUNK * FLOAT_BYTES,
            layer_seconds=_layer_seconds(n, left, estimator, self.device, self.team.size),
            advice=", fewer samples, or a smaller batch_size",
            # few points, and estimators of many neighbours, take a float64 product and seldom a second pass
            passes=1 if n < FEW_POINTS or estimator in ("gride", "icml24") else 2,
            weights=self.loaded.offload.bytes() if self.loaded.offload else None,
        )
        return make_plan(seen, run)

    def estimates(self, progress: Progress | None = None) -> Iterator[tuple[str, LayerProfile]]:
        """Measure the planned layers, in the plan's order; then name those that have no tensor of samples.

        `progress` counts milliseconds of the planned time.
        """
        spent = Spent(self.plan, progress)
        settings, needs = self.settings, requirements(self.settings.estimator, self.settings.seed)
        with (
            self._spilling(),
            torch.inference_mode(False),
            full_precision(self.device),
            self._walk(spent) as (walk, tap),
        ):
            new_points = partial(
                Points, tokens=settings.tokens, draws=self.draws, spill=self._spill, copied=self._changed
            )
            sharing = {"n": self.n, "team": self.team, "counts": self._counts}
            for name, rows in rows_of_layers(walk, tap, self.plan, self.features, new_points, **sharing):
                neighbors = self._search(rows, needs)
                spent.measured(name)
                yield name, self._profile(name, estimate(neighbors, settings.estimator, seed=settings.seed))
        for name in (name for name in self.layers if name not in self.features and name not in self._done):
            reason = self._faults.get(name, "no sample reaches it")
            yield name, self._profile(name, _without_points(settings.estimator, reason))

    def _walk(self, spent: Spent) -> AbstractContextManager[tuple[Walk | Passes, Tap]]:
        family = self.loaded.family
        return tapped_walk(
            self.loaded.model,
            self.batches,
            family.call,
            self.layers,
            by_block=self.plan.walks,
            capture=self.settings.capture,
            token_mask=family.token_mask,
            device=self.loaded.inputs_device,
            axes=self._axes,
            ran=spent.ran,
            offload=self.loaded.offload,
        )

    def _search(self, rows: LayerRows, needs: Mapping[str, Any]) -> Neighbors:
        """Neighbours from the layer's chunks; from one matrix where faiss is wanted and the budget has room for it."""
        knn, subsets = self.settings.knn, "subsets" in needs
        room = self.plan.budget - self.plan.held_bytes
        matrix = FLOAT_BYTES * (self.n + len(self.echoes)) * rows.width
        takes = matrix + shortlist.workspace_bytes(self.n, rows.width, self.device)
        fits = rows.whole and self.team.size == 1 and takes <= room
        if not (fits and backend.prefers(knn, self.n, rows.width, self.device, subsets=subsets)):
            return nearest(rows, echoes=self.echoes, backend=knn, **needs)
        every = _gathered(rows)
        noise = torch.linalg.vector_norm(every[self.n :].double() - every[self.echoes].double(), dim=1).max()
        return nearest(DenseRows(every[: self.n]), tolerance=NOISE_FACTOR * float(noise), backend=knn, **needs)

    def _profile(self, name: str, estimate: Estimate) -> LayerProfile:
        layer, features = self.layers[name], self.features.get(name, 0)
        if reason := unreliable_reason(estimate, features):
            estimate = replace(estimate, diagnostics={**estimate.diagnostics, "unsound": reason})
        depth = list(self.features).index(name) if name in self.features else len(self.features)
        return LayerProfile(
            modality=layer.modality,
            block=layer.block,
            depth=depth,
            width=layer.in_features if self.settings.capture == "input" else layer.out_features,
            n_features=features,
            reads_image=layer.reads_image,
            estimate=estimate,
        )

    def profile(
        self, layers: Mapping[str, LayerProfile], selection: Selection, cost: Mapping[str, float | None]
    ) -> Profile:
        """The profile of the measured layers, with how the measurement went. `cost`: its seconds and peak of memory."""
        on_gpu = self.device.type == "cuda"
        facts = {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "cpu",
            "processes": self.team.size,
            **cost,
            "planned_seconds": round(self.plan.seconds, 3),
            "forward_passes": round(self.plan.forwards, 3),
            "memory_budget": self.plan.budget,
        }
        return Profile(
            layers=dict(sorted(layers.items(), key=lambda item: item[1].depth)),
            model=self.loaded.description,
            dataset=selection.description,
            protocol={**asdict(self.settings), "n_samples": len(selection.samples)},
            provenance={**self._provenance, **facts},
        )


def _gathered(rows: LayerRows) -> Tensor:
    """All rows and features as one matrix, without ever holding them twice."""
    every, start = torch.empty(0), 0
    for chunk in rows.chunks():
        if not start:
            every = chunk.new_empty(len(chunk), rows.width)
        every[:, start : start + chunk.shape[1]] = chunk
        start += chunk.shape[1]
    return every


def _without_points(estimator: str, reason: str) -> Estimate:
    return Estimate(dimension=None, stderr=None, n_points=0, n_duplicates=0, estimator=estimator, reason=reason)


def _layer_seconds(
    n: int, features: Mapping[str, int], estimator: EstimatorName, device: torch.device, processes: int
) -> dict[str, float]:
    """The seconds of each layer of `features`: neighbours and estimate, timed on random points of two widths."""
    seconds = []
    # the first one warms up
    for width in (FEATURE_CHUNK // 4, FEATURE_CHUNK // 4, FEATURE_CHUNK):
        points = DenseRows(torch.randn(n, width, device=device))
        start = time.perf_counter()
        estimate(nearest(points, backend="torch", **requirements(estimator)), estimator, seed=0)
        seconds.append(time.perf_counter() - start)
    slope = max(seconds[2] - seconds[1], 0.0) / (FEATURE_CHUNK * 3 / 4) / processes
    return {name: seconds[1] + slope * width for name, width in features.items()}
