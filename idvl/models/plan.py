"""How a model is measured within a memory budget: which layers are captured in which run of which block.

A plan is arithmetic on a trace: it runs nothing and allocates nothing. All sizes are those of one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from idvl.errors import UsageError
from idvl.units import duration, size

if TYPE_CHECKING:
    from idvl.models.trace import Trace


@dataclass(frozen=True, kw_only=True)
class LayerGroup:
    """Layers captured together in one run of their block, or one layer in `slices`, each a run per pass over it."""

    layers: tuple[str, ...]
    slices: int = 1
    passes: int = 1

    @property
    def runs(self) -> int:
        return 1 if self.slices == 1 else self.slices * self.passes


@dataclass(frozen=True, kw_only=True)
class CapturePlan:
    """`groups`: block -> its groups, in the order of running; the key None stands for the whole forward pass.

    `flow_bytes` is the most that inputs, what flows between blocks and a running block take; `held_bytes` the most that
    these, captured points and workspace take together on one process, beside the model. `seconds`: the expected time.
    `forwards`: the forward passes that all runs add up to. `weights`: as in CaptureRun; `host_bytes` flow between
    blocks on the host, where that is not the device.
    """

    groups: dict[str | None, list[LayerGroup]]
    walks: bool
    why: str | None
    budget: int
    flow_bytes: int
    held_bytes: int
    forwards: float
    seconds: float
    n_layers: int
    # expected seconds of one run of a block for one batch, and of a layer's neighbours and estimate
    batch_seconds: dict[str | None, float]
    layer_seconds: dict[str, float]
    weights: OffloadedBytes | None = None
    host_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """The plan for a program."""
        keys = ("n_layers", "walks", "why", "forwards", "seconds", "budget", "flow_bytes", "held_bytes")
        offload = {"weights": asdict(self.weights), "host_bytes": self.host_bytes} if self.weights else {}
        return {key: getattr(self, key) for key in keys} | offload

    def lines(self) -> list[str]:
        """The plan in words, a line each."""
        if not self.n_layers:
            return ["everything is measured already"]
        method = (
            f"block by block, {len(self.groups)} blocks"
            if self.walks
            else f"{sum(group.runs for groups in self.groups.values() for group in groups)} whole forward passes "
            f"({self.why})"
        )
        sliced = [group for groups in self.groups.values() for group in groups if group.slices > 1]
        lines = [
            f"layers    {self.n_layers}",
            f"method    {method}",
            f"forwards  {self.forwards:.2f} passes per sample",
            f"memory    {size(self.held_bytes)} of {size(self.budget)} beside the model",
            f"time      about {duration(self.seconds)}",
        ]
        lines[4:4] = self.weight_lines()
        if sliced:
            lines.append(f"sliced    {len(sliced)} layers are larger than the budget and are read in feature slices")
        return lines

    def weight_lines(self) -> list[str]:
        """What an offloaded model takes where, a line each."""
        return self.weights.lines(self.held_bytes, self.host_bytes) if self.weights else []


@dataclass(frozen=True, kw_only=True)
class OffloadedBytes:
    """The weights of a model whose blocks are offloaded: `stored` in files, those `outside` of blocks, `blocks` held.

    `elsewhere`: blocks run on another device than the rest of the model.
    """

    stored: int
    outside: int
    blocks: int
    elsewhere: bool

    def lines(self, held: int, between: int) -> list[str]:
        """What takes how much where, a line each; `held` beside the weights, `between` blocks on the host."""
        lines = [f"weights   {size(self.stored)}, read from their files block by block"]
        if not self.elsewhere:
            total = size(self.outside + self.blocks + held)
            return [*lines, f"host      {total} with weights outside of blocks, and those of a block"]
        return [
            *lines,
            f"host      {size(self.outside + between)} for weights outside of blocks, and what flows between blocks",
            f"device    {size(self.blocks + held)} with the weights of two blocks",
        ]


@dataclass(frozen=True, kw_only=True)
class CaptureRun:
    """What is to be planned for one process.

    `layer_bytes`: layer -> bytes that its accumulator holds, for the layers left, in the order of running. `n_local` of
    the `n` samples are this process's, `input_bytes` all its inputs. `workspace`: bytes that reading what was captured
    takes; `smallest`: the least that a run must have room for, a slice of a layer. `layer_seconds`: what each layer
    costs besides the runs; `passes`: how often what was captured is read. `advice`: options that lower the memory, for
    the error message. `weights`: those of an offloaded model.
    """

    layer_bytes: Mapping[str, int]
    n: int
    n_local: int
    budget: int
    input_bytes: int
    workspace: int
    smallest: int
    layer_seconds: Mapping[str, float]
    advice: str
    passes: int = 2
    weights: OffloadedBytes | None = None

    def fits(self, flow: float) -> bool:
        """Whether anything can be captured beside this much."""
        return self.budget - flow - self.workspace >= self.smallest


def make_plan(seen: Trace, run: CaptureRun) -> CapturePlan:
    """Fit a run into its budget. Raises UsageError, with a budget that would do, where nothing fits."""
    per_sample = [stop.alive / seen.batch_size for stop in seen.stops]
    # between two blocks lives the larger of what both need; inputs are part of it; and a block at work
    pairs = zip(per_sample, per_sample[1:] + per_sample[-1:], strict=True)
    working = seen.working
    flows = [max(pair) * run.n_local for pair in pairs]
    between = max(flows, default=0.0)
    if run.weights and run.weights.elsewhere:
        flows = [0.0] * len(flows)
    flows = [flow + working for flow in flows]
    flow = max(flows, default=0.0)
    if seen.unwalkable is None and run.fits(flow):
        plan = _walked(seen, run, flows)
        return replace(plan, weights=run.weights, host_bytes=int(between), seconds=plan.seconds + seen.reading)
    why = seen.unwalkable or f"what flows between blocks takes {size(flow)} of the budget"
    if run.weights:
        way_out = "omit it" if seen.unwalkable else f"use a larger --memory{run.advice}"
        raise UsageError(f"--offload needs every block to run once, and {why}: {way_out}")
    if not run.fits(run.input_bytes + working):
        least = run.input_bytes + working + run.workspace + run.smallest
        raise UsageError(
            f"a memory of {size(run.budget)} is too little for {run.n} samples: give at least {size(least)}{run.advice}"
        )
    return _passed(seen, run, why)


def _walked(seen: Trace, run: CaptureRun, flows: list[float]) -> CapturePlan:
    """Block by block: each block runs once, and once more for every further group or slice of its layers."""
    groups: dict[str | None, list[LayerGroup]] = {}
    held, seconds = 0.0, seen.seconds
    for stop, flow in zip(seen.stops, flows, strict=True):
        layers = [name for name in dict.fromkeys(stop.layers) if name in run.layer_bytes]
        groups[stop.name], captured = _pack(layers, run, run.budget - run.workspace - flow)
        runs = sum(group.runs for group in groups[stop.name])
        # a block's last run feeds the next one, and a sliced layer's runs do not
        sliced_last = bool(groups[stop.name]) and groups[stop.name][-1].slices > 1
        seconds += (runs if sliced_last else max(runs - 1, 0)) * stop.seconds
        held = max(held, flow + run.workspace + captured)
    while groups and not groups[next(reversed(groups))]:
        groups.popitem()
    batch_seconds: dict[str | None, float] = {stop.name: stop.seconds for stop in seen.stops}
    return _plan(seen, run, groups, None, max(flows), held, seconds, batch_seconds)


def _passed(seen: Trace, run: CaptureRun, why: str) -> CapturePlan:
    """By whole forward passes, one for each group or slice."""
    flow = run.input_bytes + seen.working
    groups, captured = _pack(list(run.layer_bytes), run, run.budget - run.workspace - flow)
    seconds = sum(group.runs for group in groups) * seen.seconds
    held = flow + run.workspace + captured
    return _plan(seen, run, {None: groups}, why, flow, held, seconds, {None: seen.seconds})


def _plan(
    seen: Trace,
    run: CaptureRun,
    groups: dict[str | None, list[LayerGroup]],
    why: str | None,
    flow: float,
    held: float,
    seconds: float,
    batch_seconds: dict[str | None, float],
) -> CapturePlan:
    """`seconds`: of all runs, for one batch."""
    batches = run.n_local / seen.batch_size
    return CapturePlan(
        groups=groups,
        walks=why is None,
        why=why,
        budget=run.budget,
        flow_bytes=int(flow),
        held_bytes=int(held),
        forwards=seconds / seen.seconds,
        seconds=seconds * batches + sum(run.layer_seconds.values()),
        n_layers=len(run.layer_bytes),
        batch_seconds=batch_seconds,
        layer_seconds=dict(run.layer_seconds),
    )


def _pack(names: list[str], run: CaptureRun, space: float) -> tuple[list[LayerGroup], float]:
    """Layers in groups that fit `space`, and the most that a group takes.

    Sliced ones come first, so that a block's last run can be a whole group's.
    """
    groups, sliced, current, most, held = [], [], [], 0.0, 0.0
    for name in names:
        captured = run.layer_bytes[name]
        if captured > space:
            slices = int(-(-captured // space))
            sliced.append(LayerGroup(layers=(name,), slices=slices, passes=run.passes))
            most = max(most, captured / slices)
            continue
        if held + captured > space:
            groups.append(LayerGroup(layers=tuple(current)))
            current, held = [], 0.0
        current.append(name)
        held += captured
        most = max(most, held)
    if current:
        groups.append(LayerGroup(layers=tuple(current)))
    return sliced + groups, most
