"""Dimensions before and after pruning: by method (Figure 5), and of all layers when one modality is pruned (6)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from idvl.profile import Profile
from idvl.reliability import unsound_reason
from idvl.reporting.change import UNLIKE, Change
from idvl.reporting.figure import DASHES, DEPTH, Figure, Panel, Series, blocks, grouped, make, runs_of
from idvl.reporting.groups import Group, model_of
from idvl.reporting.labels import percent


def by_method(changes: Sequence[Change]) -> Figure:
    """A panel for each sparsity, a curve for each method."""
    whole = [change for change in changes if change.group.scope == "all"]
    panels = (
        _panel(percent(sparsity), members, lambda group: str(group.method), tones=lambda group: group)
        for (_, sparsity), members in grouped(whole, lambda change: (change.group.subject, change.group.sparsity))
    )
    title = "Intrinsic dimension before and after pruning, by method"
    return make(panels, key="after", title=title, paper="Figure 5", x_label=DEPTH, y_label="intrinsic dimension")


def by_scope(changes: Sequence[Change]) -> Figure:
    """A panel for each method, a curve for each scope (its colour) and sparsity."""
    partial = [change for change in changes if change.group.scope != "all"]
    panels = (
        _panel(
            str(method), members, lambda group: f"{group.scope} pruned, {percent(group.sparsity)}",
            tones=lambda group: group.scope,
        )
        for (_, method), members in grouped(partial, lambda change: (change.group.subject, change.group.method))
    )  # fmt: skip
    title = "Pruning one modality: the dimensions of all"
    return make(panels, key="other", title=title, paper="Figure 6", x_label=DEPTH, y_label="intrinsic dimension")


def _panel(
    word: str, changes: Sequence[Change], name: Callable[[Group], str], tones: Callable[[Group], Hashable]
) -> Panel:
    """The dense model's curve and one for each group; groups of one tone differ by their strokes."""
    groups = grouped(changes, lambda change: change.group)
    starts = {change.before.source: change.before.profile for change in changes if change.before}
    dense = list(starts.values())
    before = dense[0] if dense else None
    order = before or changes[0].profile
    series = [_curve("dense model", "ink", dense, order, tuple(starts))] if dense else []
    colours: dict[Hashable, int] = {}
    strokes: Counter[Hashable] = Counter()
    for group, members in groups:
        tone = tones(group)
        colour = colours.setdefault(tone, len(colours) + 1)
        behind = tuple(change.after.source for change in members)
        dash = DASHES[strokes[tone] % len(DASHES)]
        strokes[tone] += 1
        series.append(_curve(name(group), str(colour), [change.profile for change in members], order, behind, dash))
    return Panel(
        name=f"{word}: {model_of([group for group, _ in groups])} on {changes[0].group.subject.dataset}",
        series=tuple(series), shaded=blocks(order), caption=_unmatched(before, changes),
    )  # fmt: skip


def _curve(
    name: str, tone: str, profiles: Sequence[Profile], order: Profile, sources: tuple[str, ...], dash: str = "solid"
) -> Series:
    """Each layer's dimension, a mean over the profiles where it is reliable, else over all, at its place in `order`."""
    points, unsound = [], []
    for layer, described in sorted(order.layers.items(), key=lambda item: item[1].depth):
        layers = [profile.layers[layer] for profile in profiles if layer in profile.layers]
        estimated = [one for one in layers if one.estimate.dimension is not None]
        reliable = [one for one in estimated if unsound_reason(one) is None]
        values = [one.estimate.dimension for one in reliable or estimated]
        if values:
            points.append((layer, described, math.fsum(values) / len(values)))
            unsound.append(None if reliable else unsound_reason(estimated[0]))
    return Series(
        name=name + runs_of(len(profiles)), tone=tone, dash=dash,
        x=tuple(float(described.depth) for _, described, _ in points), y=tuple(mean for *_, mean in points),
        names=tuple(layer for layer, *_ in points), unsound=tuple(unsound),
        facts={"modality": tuple(described.modality for _, described, _ in points)}, sources=sources,
    )  # fmt: skip


def _unmatched(before: Profile | None, changes: Sequence[Change]) -> str:
    if before is None:
        return "the dense model's dimensions are not among these runs"
    names = {name for change in changes for name in change.profile.layers}
    only, lacking = len(names - before.layers.keys()), len(before.layers.keys() - names)
    notes = [f"layers of pruned models only, left out: {only}"] if only else []
    notes += [f"layers of the dense model only: {lacking}"] if lacking else []
    if not all(change.alike for change in changes):
        notes.append(UNLIKE)
    return "; ".join(notes)
