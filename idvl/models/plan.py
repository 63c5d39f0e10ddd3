"""How a model is measured within a memory budget: which layers are captured in which run of which block.

A plan is arithmetic on a survey: it runs nothing and allocates nothing. All sizes are those of one process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from idvl.errors import UsageError
from idvl.geometry.neighbors import FEATURE_CHUNK, workspace_bytes
from idvl.models.survey import Survey

FLOAT = 4


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
class Plan:
    """`groups`: block -> its groups, in the order of running; the key None stands for the whole forward pass.

    `flow_bytes` is the most that inputs and what flows between blocks take, `held_bytes` the most that these, captured
    points and workspace take together on one process, beside the model; `seconds` the expected time, `forwards` the forward passes that all runs add up to.
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

    def lines(self) -> list[str]:
        """The plan in words, a line each."""
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


def make_plan(
    survey: Survey,
    features: Mapping[str, int],
    *,
    n: int,
    n_local: int,
    budget: int,
    input_bytes: int,
    layer_seconds: Mapping[str, float],
    passes: int = 2,
    spill: bool = False,
) -> Plan:
    """Fit the capture of `features` (layer -> features of a point, in the order of running) into `budget` bytes.

    `n_local` of the `n` samples are this process's. `input_bytes`: all its inputs. `layer_seconds`: what each layer's
    neighbours will cost, `passes` how often they read its points. Raises UsageError, with a budget that would do, where nothing fits.
    """
    per_sample = [stop.alive / survey.batch_size for stop in survey.stops]
    workspace = workspace_bytes(n) + 2 * n * FEATURE_CHUNK * FLOAT
    batches = n_local / survey.batch_size
    # the smallest slice worth a run of its own
    smallest = n_local * FEATURE_CHUNK * FLOAT
    kernel = sum(layer_seconds.values())

    def fits(held: float) -> bool:
        return budget - held - workspace >= smallest

    # between two blocks lives the larger of what both need; inputs are part of it
    states = [max(pair) * n_local for pair in zip(per_sample, per_sample[1:] + per_sample[-1:], strict=True)]
    state = max(states, default=0)
    if survey.unwalkable is None and fits(state):
        groups: dict[str | None, list[Group]] = {}
        held, seconds, forwards = 0.0, survey.seconds, 1.0
        for stop, alive in zip(survey.stops, states, strict=True):
            mine = [name for name in stop.layers if name in features]
            space = budget - workspace - alive
            groups[stop.name], captured = _pack(list(dict.fromkeys(mine)), features, n_local, space, passes, spill)
            runs = sum(group.runs for group in groups[stop.name])
            # a block's last run feeds the next one, and a sliced layer's runs do not
            extra = runs if groups[stop.name] and groups[stop.name][-1].slices > 1 else max(runs - 1, 0)
            seconds += extra * stop.seconds
            forwards += extra * stop.seconds / survey.seconds
            held = max(held, alive + workspace + captured)
        while groups and not groups[next(reversed(groups))]:
            groups.popitem()
        total = seconds * batches + kernel
        return Plan(
            groups=groups,
            walks=True,
            why=None,
            budget=budget,
            flow_bytes=int(state),
            held_bytes=int(held),
            forwards=forwards,
            seconds=total,
            n_layers=len(features),
            batch_seconds={stop.name: stop.seconds for stop in survey.stops},
            layer_seconds=dict(layer_seconds),
        )
    why = survey.unwalkable or f"what flows between blocks takes {size(state)}, too much of the budget"
    if not fits(input_bytes):
        least = input_bytes + workspace + smallest
        raise UsageError(
            f"--memory {size(budget)} is too little for {n} samples: give at least {size(least)}, or fewer --samples"
        )
    packed, captured = _pack(list(features), features, n_local, budget - workspace - input_bytes, passes, spill)
    runs = sum(group.runs for group in packed)
    return Plan(
        groups={None: packed},
        walks=False,
        why=why,
        budget=budget,
        flow_bytes=input_bytes,
        held_bytes=int(input_bytes + workspace + captured),
        forwards=float(runs),
        seconds=runs * survey.seconds * batches + kernel,
        n_layers=len(features),
        batch_seconds={None: survey.seconds},
        layer_seconds=dict(layer_seconds),
    )


def _pack(
    names: list[str], features: Mapping[str, int], n_local: int, space: float, passes: int, spill: bool
) -> tuple[list[Group], float]:
    """Layers into groups that fit `space`; sliced ones first, so that a block's last run can be a whole group's."""
    if spill:
        return ([Group(layers=tuple(names))] if names else []), 0.0
    groups, sliced, current, most, held = [], [], [], 0.0, 0.0
    for name in names:
        size = features[name] * n_local * FLOAT
        if size > space:
            slices = int(-(-size // space))
            sliced.append(Group(layers=(name,), slices=slices, passes=passes))
            most = max(most, size / slices)
            continue
        if held + size > space:
            groups.append(Group(layers=tuple(current)))
            current, held = [], 0.0
        current.append(name)
        held += size
        most = max(most, held)
    if current:
        groups.append(Group(layers=tuple(current)))
    return sliced + groups, most


def size(count: float) -> str:
    """Bytes as --memory takes them, rounded up."""
    mib = math.ceil(count / 2**20)
    return f"{mib}MiB" if mib < 10 * 1024 else f"{math.ceil(count / 2**30 * 10) / 10}GiB"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
