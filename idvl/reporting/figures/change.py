"""Dimensions before and after pruning: by method (Figure 5), and of all layers when one modality is pruned (6)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from idvl.profile import Profile
from idvl.reporting.change import UNLIKE, Change
from idvl.reporting.figure import DASHES, DEPTH, Figure, Panel, Series, blocks, grouped, make, runs_of
from idvl.reporting.groups import Replicates, model_of
from idvl.reporting.labels import percent


def by_method(changes: Sequence[Change]) -> Figure:
    """A panel for each sparsity, a curve for each method."""
    ours = [change for change in changes if change.cell.scope == "all"]
    panels = (
        _panel(percent(sparsity), group, lambda cell: str(cell.method), tones=lambda cell: cell)
        for (_, sparsity), group in grouped(ours, lambda change: (change.cell.subject, change.cell.sparsity))
    )
    title = "Intrinsic dimension before and after pruning, by method"
    return make(panels, key="after", title=title, paper="Figure 5", x_label=DEPTH, y_label="intrinsic dimension")


def by_scope(changes: Sequence[Change]) -> Figure:
    """A panel for each method, a curve for each scope (its colour) and sparsity."""
    ours = [change for change in changes if change.cell.scope != "all"]
    panels = (
        _panel(
            str(method), group, lambda cell: f"{cell.scope} pruned, {percent(cell.sparsity)}",
            tones=lambda cell: cell.scope,
        )
        for (_, method), group in grouped(ours, lambda change: (change.cell.subject, change.cell.method))
    )  # fmt: skip
    title = "Pruning one modality: the dimensions of all"
    return make(panels, key="other", title=title, paper="Figure 6", x_label=DEPTH, y_label="intrinsic dimension")


def _panel(
    word: str, group: Sequence[Change], name: Callable[[Replicates], str], tones: Callable[[Replicates], Hashable]
) -> Panel:
    """The dense model's curve and one for each cell; cells of one tone differ by their strokes."""
    cells = grouped(group, lambda found: found.cell)
    starts = {found.before.source: found.before.profile for found in group if found.before}
    dense = list(starts.values())
    before = dense[0] if dense else None
    order = before or group[0].profile
    series = [_curve("dense model", "ink", dense, order, tuple(starts))] if dense else []
    colours: dict[Hashable, int] = {}
    strokes: Counter[Hashable] = Counter()
    for cell, found in cells:
        tone = tones(cell)
        colour = colours.setdefault(tone, len(colours) + 1)
        behind = tuple(one.after.source for one in found)
        dash = DASHES[strokes[tone] % len(DASHES)]
        strokes[tone] += 1
        series.append(_curve(name(cell), str(colour), [one.profile for one in found], order, behind, dash))
    return Panel(
        name=f"{word}: {model_of([cell for cell, _ in cells])} on {group[0].cell.subject.dataset}",
        series=tuple(series), shaded=blocks(order), caption=_unmatched(before, group),
    )  # fmt: skip


def _curve(
    name: str, tone: str, profiles: Sequence[Profile], order: Profile, sources: tuple[str, ...], dash: str = "solid"
) -> Series:
    """Each layer's dimension, a mean over profiles, at its place in `order`."""
    points = []
    for layer, described in sorted(order.layers.items(), key=lambda item: item[1].depth):
        dimensions = [p.layers[layer].estimate.dimension for p in profiles if layer in p.layers]
        known = [value for value in dimensions if value is not None]
        if known:
            points.append((layer, described, math.fsum(known) / len(known)))
    return Series(
        name=name + runs_of(len(profiles)), tone=tone, dash=dash,
        x=tuple(float(described.depth) for _, described, _ in points), y=tuple(mean for *_, mean in points),
        names=tuple(layer for layer, *_ in points),
        facts={"modality": tuple(described.modality for _, described, _ in points)}, sources=sources,
    )  # fmt: skip


def _unmatched(before: Profile | None, group: Sequence[Change]) -> str:
    if before is None:
        return "the dense model's dimensions are not among these runs"
    names = {name for change in group for name in change.profile.layers}
    only, lacking = len(names - before.layers.keys()), len(before.layers.keys() - names)
    notes = [f"layers of pruned models only, left out: {only}"] if only else []
    notes += [f"layers of the dense model only: {lacking}"] if lacking else []
    if not all(change.alike for change in group):
        notes.append(UNLIKE)
    return "; ".join(notes)
