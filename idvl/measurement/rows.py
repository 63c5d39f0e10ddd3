"""The rows of every planned layer, one layer after the other, within the plan's memory.

It joins the walk (which runs blocks), the points (which keep what its tap hands on) and the plan (which says what
together), and does not know what is computed from the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor

from idvl.distributed import Team
from idvl.geometry.rows import FEATURE_CHUNK
from idvl.measurement.points import Columns, Points, PointStore

if TYPE_CHECKING:
    from idvl.models.capture import Tap
    from idvl.models.plan import CapturePlan
    from idvl.models.walk import Passes, Segment

# a layer, what reads columns of its points, and the columns of each reading
Source = tuple[str, Callable[[Columns], PointStore], list[Columns]]


class LayerRows:
    """One layer's points as geometry reads them: see geometry.neighbors.Rows.

    `read(columns)` gives a store that holds these columns of a point; a layer larger than the budget comes in several
    `slices`, each of which runs the block again. `counts`: the rows of every process, in order; the first `n` rows of
    all are points, those after them echoes.
    """

    def __init__(
        self,
        read: Callable[[Columns], PointStore],
        slices: Sequence[Columns],
        *,
        n: int,
        team: Team,
        counts: list[int],
    ):
        self._read, self._slices, self._team, self._counts = read, slices, team, counts
        self.n = n
        self.width = slices[-1][1]
        self.whole = len(slices) == 1

    def chunks(self) -> Iterator[Tensor]:
        """One pass over this process's share of the features, (rows of all processes, at most FEATURE_CHUNK) each."""
        step = FEATURE_CHUNK * self._team.size
        for start, stop in self._slices:
            store = self._read((start, stop))
            for first in range(0, stop - start, step):
                local = store.read(first, min(first + step, stop - start))
                yield self._team.share(local, self._counts)

    def reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        return self._team.reduce(tensor)


def rows_of_layers(
    walk: Iterable[Segment | Passes],
    tap: Tap,
    plan: CapturePlan,
    features: Mapping[str, int],
    new_points: Callable[..., Points],
    *,
    n: int,
    team: Team,
    counts: list[int],
) -> Iterator[tuple[str, LayerRows]]:
    """Yield (layer name, its rows); rows can be read until the next layer is wanted.

    `new_points(features, columns=)` is an accumulator for one run of a block. `counts`: the rows of every process, in
    order of rank, which together are the `n` points and the echoes.
    """
    left = sum(len(group.layers) for groups in plan.groups.values() for group in groups)
    for segment in walk if left else ():
        groups = plan.groups.get(segment.name, [])
        for group in groups:
            widths = {name: features[name] for name in group.layers}
            if group.slices > 1:
                sources = _sliced(segment, tap, widths, new_points, group.slices)
            else:
                sources = _whole(segment, tap, widths, new_points, last=group is groups[-1])
            for name, read, slices in sources:
                yield name, LayerRows(read, slices, n=n, team=team, counts=counts)
                left -= 1
        if not left:
            return
        segment.leave()


def _whole(
    segment: Segment | Passes, tap: Tap, widths: dict[str, int], new_points: Callable[..., Points], *, last: bool
) -> Iterator[Source]:
    """Layers that are captured in one run."""
    points = new_points(widths)
    with tap.feeding(points, widths):
        segment.run(last=last)
    for name, width in widths.items():
        store = points.take(name)
        yield name, (lambda columns, store=store: store), [(0, width)]
        store.close()


def _sliced(
    segment: Segment | Passes, tap: Tap, widths: dict[str, int], new_points: Callable[..., Points], slices: int
) -> Iterator[Source]:
    """One layer that is read slice by slice, each a run of the block."""
    ((name, width),) = widths.items()

    def read(columns: Columns) -> PointStore:
        points = new_points(widths, columns=columns)
        with tap.feeding(points, widths):
            segment.run(last=False)
        return points.take(name)

    bounds = [width * k // slices for k in range(slices + 1)]
    yield name, read, list(pairwise(bounds))
