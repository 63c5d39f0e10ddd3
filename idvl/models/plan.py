"""How a model is measured within a memory budget: which layers are captured in which run of which block.

A plan is arithmetic on a survey: it runs nothing and allocates nothing. All sizes are those of one process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from idvl.errors import UsageError
from idvl.geometry.neighbors import FEATURE_CHUNK, workspace_bytes
from idvl.models.capture import FLOAT_BYTES
from idvl.models.trace import Survey


@dataclass(frozen=True, kw_only=True)
class Group:
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
    `forwards`: the forward passes that all runs add up to.
    """

    groups: dict[str | None, list[Group]]
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

    def to_json(self) -> dict[str, Any]:
        """The plan for a program."""
        kept = ("n_layers", "walks", "why", "forwards", "seconds", "budget", "flow_bytes", "held_bytes")
        return {key: getattr(self, key) for key in kept}

    def lines(self) -> list[str]:
        """The plan in words, a line each."""
        if not self.n_layers:
            return ["everything is measured already"]
        way = (
            f"walk block by block, {len(self.groups)} blocks"
            if self.walks
            else f"{sum(group.runs for groups in self.groups.values() for group in groups)} whole forward passes "
            f"({self.why})"
        )
        sliced = [group for groups in self.groups.values() for group in groups if group.slices > 1]
        lines = [
            f"layers    {self.n_layers}",
            f"way       {way}",
            f"work      {self.forwards:.2f} forward passes over the samples",
            f"memory    {size(self.held_bytes)} of {size(self.budget)} beside the model",
            f"time      about {duration(self.seconds)}",
        ]
        if sliced:
            lines.append(f"sliced    {len(sliced)} layers are larger than the budget and are read in feature slices")
        return lines


@dataclass(frozen=True, kw_only=True)
class CaptureRun:
    """What is to be planned for one process.

    `features`: layer -> features of a point, for the layers left, in the order of running. `n_local` of the `n` samples
    are this process's, `input_bytes` all its inputs. `layer_seconds`: what each layer's neighbours will cost; `passes`:
    how often they read its points. With `spill` captured points are on disk.
    """

    features: Mapping[str, int]
    n: int
    n_local: int
    budget: int
    input_bytes: int
    layer_seconds: Mapping[str, float]
    passes: int = 2
    spill: bool = False

    @property
    def workspace(self) -> int:
        """What neighbours need beside the points: their own, and two chunks."""
        return workspace_bytes(self.n) + 2 * self.n * FEATURE_CHUNK * FLOAT_BYTES

    @property
    def smallest(self) -> int:
        """The smallest slice of a layer that is worth a run of its own."""
        return self.n_local * FEATURE_CHUNK * FLOAT_BYTES

    def fits(self, flow: float) -> bool:
        """Whether anything can be captured beside this much."""
        return self.budget - flow - self.workspace >= self.smallest


def make_plan(survey: Survey, task: CaptureRun) -> CapturePlan:
    """Fit a task into its budget. Raises UsageError, with a budget that would do, where nothing fits."""
    per_sample = [stop.alive / survey.batch_size for stop in survey.stops]
    # between two blocks lives the larger of what both need; inputs are part of it; and a block at work
    pairs = zip(per_sample, per_sample[1:] + per_sample[-1:], strict=True)
    working = survey.working_bytes()
    flows = [max(pair) * task.n_local + working for pair in pairs]
    flow = max(flows, default=0.0)
    if survey.unwalkable is None and task.fits(flow):
        return _walked(survey, task, flows)
    if not task.fits(task.input_bytes + working):
        least = task.input_bytes + working + task.workspace + task.smallest
        raise UsageError(
            f"--memory {size(task.budget)} is too little for {task.n} samples: "
            f"give at least {size(least)}, fewer --samples, or a smaller --batch-size"
        )
    return _passed(survey, task, survey.unwalkable or f"what flows between blocks takes {size(flow)} of the budget")


def _walked(survey: Survey, task: CaptureRun, flows: list[float]) -> CapturePlan:
    """Block by block: each block runs once, and once more for every further group or slice of its layers."""
    groups: dict[str | None, list[Group]] = {}
    held, seconds = 0.0, survey.seconds
    for stop, flow in zip(survey.stops, flows, strict=True):
        mine = [name for name in dict.fromkeys(stop.layers) if name in task.features]
        groups[stop.name], captured = _pack(mine, task, task.budget - task.workspace - flow)
        runs = sum(group.runs for group in groups[stop.name])
        # a block's last run feeds the next one, and a sliced layer's runs do not
        sliced_last = bool(groups[stop.name]) and groups[stop.name][-1].slices > 1
        seconds += (runs if sliced_last else max(runs - 1, 0)) * stop.seconds
        held = max(held, flow + task.workspace + captured)
    while groups and not groups[next(reversed(groups))]:
        groups.popitem()
    batch_seconds: dict[str | None, float] = {stop.name: stop.seconds for stop in survey.stops}
    return _plan(survey, task, groups, None, max(flows), held, seconds, batch_seconds)


def _passed(survey: Survey, task: CaptureRun, why: str) -> CapturePlan:
    """By whole forward passes, one for each group or slice."""
    flow = task.input_bytes + survey.working_bytes()
    groups, captured = _pack(list(task.features), task, task.budget - task.workspace - flow)
    seconds = sum(group.runs for group in groups) * survey.seconds
    held = flow + task.workspace + captured
    return _plan(survey, task, {None: groups}, why, flow, held, seconds, {None: survey.seconds})


def _plan(
    survey: Survey,
    task: CaptureRun,
    groups: dict[str | None, list[Group]],
    why: str | None,
    flow: float,
    held: float,
    seconds: float,
    batch_seconds: dict[str | None, float],
) -> CapturePlan:
    """`seconds`: of all runs, for one batch."""
    batches = task.n_local / survey.batch_size
    return CapturePlan(
        groups=groups,
        walks=why is None,
        why=why,
        budget=task.budget,
        flow_bytes=int(flow),
        held_bytes=int(held),
        forwards=seconds / survey.seconds,
        seconds=seconds * batches + sum(task.layer_seconds.values()),
        n_layers=len(task.features),
        batch_seconds=batch_seconds,
        layer_seconds=dict(task.layer_seconds),
    )


def _pack(names: list[str], task: CaptureRun, space: float) -> tuple[list[Group], float]:
    """Layers in groups that fit `space`, and the most that a group takes.

    Sliced ones come first, so that a block's last run can be a whole group's.
    """
    if task.spill:
        return ([Group(layers=tuple(names))] if names else []), 0.0
    groups, sliced, current, most, held = [], [], [], 0.0, 0.0
    for name in names:
        captured = task.features[name] * task.n_local * FLOAT_BYTES
        if captured > space:
            slices = int(-(-captured // space))
            sliced.append(Group(layers=(name,), slices=slices, passes=task.passes))
            most = max(most, captured / slices)
            continue
        if held + captured > space:
            groups.append(Group(layers=tuple(current)))
            current, held = [], 0.0
        current.append(name)
        held += captured
        most = max(most, held)
    if current:
        groups.append(Group(layers=tuple(current)))
    return sliced + groups, most


def size(count: float) -> str:
    """Bytes as --memory takes them, rounded up."""
    if count < 2**20:
        return f"{math.ceil(count / 2**10)}KiB"
    mib = math.ceil(count / 2**20)
    return f"{mib}MiB" if mib < 10 * 1024 else f"{math.ceil(count / 2**30 * 10) / 10}GiB"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
