"""The points of every planned layer, one layer after the other, within the plan's memory.

It joins the walk (which runs blocks), the recorder (which keeps points) and the plan (which says what together). It
does not know what is computed from the points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from idvl.distributed import Team
from idvl.models.capture import Columns, LayerRows, Recorder
from idvl.models.layers import Layer
from idvl.models.plan import CapturePlan, Group
from idvl.models.trace import Watch, blocks_of
from idvl.models.walk import Call, Passes, Segment, Walk


def traverse(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    call: Call,
    layers: Mapping[str, Layer],
    plan: CapturePlan,
    features: Mapping[str, int],
    recorder: Recorder,
    *,
    capture: str,
    n: int,
    device: torch.device,
    team: Team,
    ran: Callable[[str | None], None] = lambda block: None,
) -> Iterator[tuple[str, LayerRows]]:
    """Yield (layer name, its rows); rows can be read until the next layer is asked for.

    `batches` are this process's; the rows of all processes, in order of rank, are the points, the first `n` of them,
    and the echoes. `ran(block)` is told of every run of a block for a batch.
    """
    names = [name for groups in plan.groups.values() for group in groups for name in group.layers]
    if not names:
        return
    counts = team.counts(sum(len(next(iter(batch.values()))) for batch in batches))
    planned = {name: layers[name] for name in names}

    def before(block: str | None, batch: int) -> None:
        recorder.turn_to(batch)
        ran(block)

    common = {"device": device, "before": before}
    if plan.walks:
        walk = Walk(model, batches, call, blocks_of(model, layers), **common)
    else:
        walk = Passes(model, batches, call, **common)
    left = len(names)
    with Watch(planned, capture, recorder.record), walk:
        for segment in walk:
            groups = plan.groups.get(segment.name, [])
            for group in groups:
                rows = _sliced if group.slices > 1 else _whole
                for name, source in rows(segment, group, features, recorder, last=group is groups[-1]):
                    yield name, LayerRows(*source, n=n, team=team, counts=counts)
                    left -= 1
            if not left:
                return
            segment.leave()


def _whole(segment: Segment, group: Group, features: Mapping[str, int], recorder: Recorder, *, last: bool) -> Iterator:
    """Each layer of a group that is captured in one run."""
    recorder.want({name: features[name] for name in group.layers})
    segment.run(last=last)
    for name in group.layers:
        store = recorder.take(name)
        yield name, (lambda columns, store=store: store, [(0, features[name])])
        store.close()


def _sliced(segment: Segment, group: Group, features: Mapping[str, int], recorder: Recorder, *, last: bool) -> Iterator:
    """The one layer of a group that is read slice by slice, each a run of the block."""
    (name,) = group.layers
    width = features[name]

    def open_slice(columns: Columns):
        recorder.want({name: width}, columns)
        segment.run(last=False)
        return recorder.take(name)

    bounds = [width * k // group.slices for k in range(group.slices + 1)]
    yield name, (open_slice, list(pairwise(bounds)))
