"""What a calibrated pruning run is going to do and to take, found out before it writes anything."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from idvl.checkpoints.report import plan as planned_report
from idvl.device import free_memory
from idvl.errors import UsageError
from idvl.models.plan import CapturePlan, CaptureRun, make_plan
from idvl.pruning.counts import target, weights_in
from idvl.pruning.plan import scope_lines, whole_lines
from idvl.sparsity.statistics import CHUNK, DOUBLE_PRODUCTS, adding_bytes, products_type
from idvl.units import duration, size

if TYPE_CHECKING:
    from idvl.models.layers import Layer
    from idvl.pruning.calibration import Calibration

FLOAT_BYTES, DOUBLE_BYTES = 4, 8
# bytes a weight that choosing a mask takes (scores, and sorting a copy with its indices), and seconds on one core
MASK_BYTES, MASK_SECONDS = 16, 4e-8
# matrices that exist while a factor is made: X^T X damped, its factor, the inverse, and two of the inverse's factor
FACTOR_MATRICES = 5
# runs of a block that an epoch of its training amounts to: forward, backward for two, and its error
REPAIR_RUNS = 4
# rows of the product that is timed to see how fast this machine multiplies
TIMED = 512


@dataclass(frozen=True, kw_only=True)
class CalibrationPlan:
    """`blocks`: each block, in order, with the groups of layers that are measured in one run of it.

    The key None stands for whole forward passes. `report` is report.json without what only the masks know; `memory`,
    and `statistics` of it, in bytes beside the model, of one process; `forwards`: the passes that all runs add up to;
    `before`: the seconds of what comes before them.
    """

    report: dict[str, Any]
    capture: CapturePlan
    blocks: dict[str | None, list[tuple[str, ...]]]
    samples: int
    statistics: int
    forwards: float
    seconds: float
    before: dict[str, float] = field(default_factory=dict)

    def scope(self) -> list[str]:
        """What is pruned, a line for each modality."""
        return scope_lines(self.report)

    def lines(self) -> list[str]:
        """How, and what it takes."""
        before = "".join(f", {duration(seconds)} of {what} before it" for what, seconds in self.before.items())
        way = "block by block" if self.capture.walks else f"by whole forward passes, since {self.capture.why}"
        return [
            f"{self.samples} calibration samples, {self.forwards:.2f} forward passes over them, {way}",
            f"{size(self.capture.held_bytes)} of {size(self.capture.budget)} beside the model, "
            f"{size(self.statistics)} of them for statistics; about {duration(self.seconds)}{before}",
            *(" ".join(line.split()) for line in self.capture.weight_lines()),
            *whole_lines(self.report),
        ]

    def to_json(self) -> dict[str, Any]:
        """The plan for programs; memory in bytes."""
        numbers = {key: getattr(self, key) for key in ("samples", "statistics", "forwards", "seconds", "before")}
        return {"report": self.report, **numbers, "memory": self.capture.held_bytes}


def make(job: Calibration) -> CalibrationPlan:
    """The plan of a job. UsageError, with a budget that would do, where nothing fits into its memory."""
    held, seconds = _bytes(job), _layer_seconds(job)
    n_local = sum(len(names) for names in job.names)
    choosing, working = _choosing_bytes(job), job.trace.working
    # beside a running block: sums that later blocks read too, adding to sums, packed masks, training, gradients
    stays = sum(held[names[0]] for names in job.spread) + _adding_bytes(job) + weights_in(job.layers) // 8
    stays += _training_bytes(job, n_local) if job.epochs else 0
    stays += ("gradient" in job.layerwise.criterion.needs) * weights_in(job.layers) * FLOAT_BYTES
    run = CaptureRun(
        layer_bytes=held,
        n=len(job.selection.samples),
        n_local=n_local,
        budget=job.recipe.estimate.memory_bytes or free_memory(job.device, job.team.size) // 4,
        input_bytes=sum(value.nbytes for batch in job.batches for value in batch.values()),
        # layers are chosen from when no block runs
        workspace=stays + max(_largest_block(job, _new_bytes) + choosing - working, 0),
        smallest=max(held.values()),
        layer_seconds=seconds,
        advice=" or fewer calibration_samples",
        weights=job.loaded.offload.bytes() if job.loaded.offload else None,
    )
    stops = [replace(stop, layers=[name for name in stop.layers if name in job.users]) for stop in job.trace.stops]
    trace = replace(job.trace, stops=stops)
    capture, waiting = make_plan(trace, run), 0
    while (more := _waiting_bytes(job, capture)) > waiting:
        waiting = more
        capture = make_plan(trace, replace(run, workspace=stays + waiting + max(choosing - working, 0)))
    if job.epochs and not capture.walks:
        raise UsageError(f"repair reconstruct needs blocks that run one by one, but {capture.why}: use another repair")
    blocks = _blocks(job, capture)
    runs = job.is_sequential + REPAIR_RUNS * job.epochs + (job.epochs > 0)
    again = sum(stop.seconds for stop in stops if capture.walks and stop.layers) * runs
    passes = sum(len(groups) for groups in blocks.values())
    forwards = capture.forwards + again / job.trace.seconds if capture.walks else float(passes)
    return CalibrationPlan(
        report=report_of(job),
        capture=capture,
        blocks=blocks,
        samples=len(job.selection.samples),
        statistics=max(sum(held[name] for name in group) for groups in blocks.values() for group in groups),
        forwards=forwards,
        seconds=forwards * job.trace.seconds * n_local / job.trace.batch_size + sum(seconds.values()),
    )


def report_of(job: Calibration) -> dict[str, Any]:
    """report.json without what only the masks know; the sparsity of each layer, once the allocation knows it."""
    zeros = job.zeros if job.values is not None else None
    return planned_report(
        job.loaded.model,
        job.layers,
        family=job.loaded.family,
        asked=target(job.recipe.prune, job.layers),
        by_layer=zeros and {name: zeros[name] / layer.module.weight.numel() for name, layer in job.layers.items()},
        zeros=job.before,
    )


def _blocks(job: Calibration, capture: CapturePlan) -> dict[str | None, list[tuple[str, ...]]]:
    """The groups of each block; those of whole passes by block, where each sees the blocks before it pruned."""
    # an offloaded model stops at blocks without layers in scope too
    groups = {name: [group.layers for group in groups] for name, groups in capture.groups.items() if groups}
    if capture.walks or not job.is_sequential:
        return groups
    blocks: dict[str | None, list[tuple[str, ...]]] = {}
    for layers in groups[None]:
        inside: dict[str, list[str]] = {}
        for name in layers:
            inside.setdefault(job.users[name].block or name, []).append(name)
        for block, names in inside.items():
            blocks.setdefault(block, []).append(tuple(names))
    return blocks


def _adding_bytes(job: Calibration) -> int:
    """What adding a batch's tokens to the sums of a layer takes, at most: squares of some, and a copy of real ones."""
    most, batch = 0, job.batches[0]
    for name in job.users:
        for *leading, width in job.trace.shapes.get(name, ()):
            tokens = math.prod(leading)
            masked = job.token_mask(name, tokens // job.trace.batch_size, batch) is not None
            chunk = min(tokens, CHUNK)
            added = adding_bytes(width, chunk) if job.layerwise.needs_products else FLOAT_BYTES * width * chunk
            most = max(most, added + FLOAT_BYTES * width * masked * tokens)
    return most


def _choosing_bytes(job: Calibration) -> int:
    """What choosing a layer's mask takes beside its input's sums, at most, less its new weights, which stay."""

    def of(layer: Layer) -> int:
        weight, square = layer.module.weight, products_type(layer.in_features).itemsize * layer.in_features**2
        mask = MASK_BYTES * weight.numel()
        most = max(FACTOR_MATRICES * square, square + mask) if job.layerwise.needs_products else mask
        return most - _new_bytes(weight)

    return max(map(of, job.layers.values()))


def _waiting_bytes(job: Calibration, capture: CapturePlan) -> int:
    """The new weights of layers that wait while a block, or the model, runs again for others."""
    if not capture.walks and not job.is_sequential:
        return sum(_new_bytes(layer.module.weight) for layer in job.layers.values())
    several = any(len(groups) > 1 for groups in _blocks(job, capture).values())
    return _largest_block(job, _new_bytes) if several else 0


def _new_bytes(weight: Tensor) -> int:
    """A pruned layer and its mask, before that is packed."""
    return weight.nbytes + weight.numel()


def _training_bytes(job: Calibration, n_local: int) -> int:
    """What training a block takes: the dense outputs, three copies and the state of Adam, a batch with its graph."""
    flow = max(stop.alive for stop in job.trace.stops) * n_local // job.trace.batch_size
    state = _largest_block(job, lambda weight: 5 * FLOAT_BYTES * weight.numel())
    return flow + state + 2 * job.trace.working


def _largest_block(job: Calibration, bytes_of: Callable[[Tensor], int]) -> int:
    """What the weights in scope of one block take, `bytes_of` each, at most."""
    sizes: dict[str | None, int] = {}
    for layer in job.layers.values():
        sizes[layer.block] = sizes.get(layer.block, 0) + bytes_of(layer.module.weight)
    return max(sizes.values())


def _leaders(job: Calibration) -> dict[str, list[str]]:
    """The first user of each input -> all of them."""
    groups = ([name for name in names if name in job.users] for names in job.groups)
    return {names[0]: names for names in groups if names}


def _bytes(job: Calibration) -> dict[str, int]:
    """What the sums of each user's input take, counted once for those that share them."""
    held = {name: 0 for names in _leaders(job).values() for name in names}
    for name in _leaders(job):
        width = job.users[name].in_features
        held[name] = width * DOUBLE_BYTES + job.layerwise.needs_products * width**2 * products_type(width).itemsize
    # in the order of running
    return {name: held[name] for name in job.trace.shapes if name in held}


def _layer_seconds(job: Calibration) -> dict[str, float]:
    """What each user's statistics, and its layer's mask and repair, take."""
    seconds = {name: layer.in_features * layer.out_features * MASK_SECONDS for name, layer in job.users.items()}
    if job.layerwise.needs_products:
        rate = _products_per_second(job.device)
        leaders = _leaders(job)
        for name, layer in job.users.items():
            inputs, tokens = layer.in_features, job.tokens[job.owner[name]] / job.team.size
            slower = products_type(inputs).itemsize / FLOAT_BYTES
            work = slower * (2 * layer.out_features * inputs**2 + 1.5 * inputs**3 * (name in leaders))
            work += inputs**2 * tokens * (name in leaders) * (slower if inputs <= DOUBLE_PRODUCTS else 1)
            seconds[name] += work / rate
    return seconds


def _products_per_second(device: torch.device) -> float:
    """Multiplications that this device does in a second, from two small products; the first one warms up."""
    matrix = torch.randn(TIMED, TIMED, device=device)
    for _ in range(2):
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        taken = time.perf_counter() - start
    return TIMED**3 / taken
