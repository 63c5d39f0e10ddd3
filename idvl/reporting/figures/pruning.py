"""The figures of pruning runs: a metric against sparsity (the paper's Figures 1 and 4), each layer's sparsity (3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from idvl.profile import MODALITIES
from idvl.reporting import labels
from idvl.reporting.collect import Study
from idvl.reporting.figure import (
    DASHES,
    DEPTH,
    INTERLEAVED,
    SCOPES,
    WEIGHTINGS,
    Figure,
    Panel,
    Series,
    blocks,
    grouped,
    make,
    runs_of,
    share,
)
from idvl.reporting.groups import Group, mean_of, model_of, runs_in
from idvl.reporting.lineage import dense_runs
from idvl.reporting.tables import headline


def quality(study: Study, groups: Sequence[Group]) -> Figure:
    """Figures 1 and 4: the headline metric against the sparsity of what is pruned, a curve for each scope."""

    def panels() -> Iterator[Panel]:
        for subject, subject_groups in grouped(groups, lambda group: group.subject):
            metric = headline(runs_in(subject_groups))
            if metric is None:
                continue
            criteria = grouped(subject_groups, lambda group: (group.method.criterion, group.method.extra))
            for (criterion, extra), members in criteria:
                name = ", ".join(filter(None, (labels.criterion(criterion), extra)))
                curves = grouped(members, lambda group: (group.scope, group.method))
                series = [_scope(metric, curve, members) for _, curve in curves]
                yield Panel(
                    name=f"{name}: {model_of(subject_groups)} on {subject.dataset}",
                    series=(*series, *_start(metric, subject_groups, study)),
                    caption="bars are 95 % intervals, over runs or of a single run over its samples",
                    y_label=metric,
                )

    return make(
        panels(), key="quality", title="Quality against sparsity, by what is pruned", paper="Figures 1 and 4",
        x_label="sparsity of the layers in scope, %", y_label="metric", zero=False, bars=True,
        marks=True,
    )  # fmt: skip


def _scope(metric: str, groups: Sequence[Group], members: Sequence[Group]) -> Series:
    scope, method = groups[0].scope, groups[0].method
    scopes = list(dict.fromkeys(group.scope for group in members))
    methods = list(dict.fromkeys(group.method for group in members))
    points = [(group, entry) for group in groups if (entry := group.entry(metric)).value is not None]
    title = ", ".join(filter(None, (labels.weighting(method.id_weight), method.weighting)))
    # the paper's colours are scopes, and weightings its strokes; with one scope, weightings have the colours
    tone = SCOPES.get(scope, str(scopes.index(scope))) if len(scopes) > 1 else WEIGHTINGS.get(method.id_weight, "3")
    return Series(
        name=title if len(scopes) == 1 else f"{scope}, {title}", tone=tone,
        dash=DASHES[methods.index(method) % 3], hollow=method.id_weight == "none",
        x=tuple(100 * group.sparsity for group, _ in points), y=tuple(entry.value or 0.0 for _, entry in points),
        low=tuple(entry.low for _, entry in points), high=tuple(entry.high for _, entry in points),
        names=tuple(f"{group.method}, {group.scope}, {labels.percent(group.sparsity)}" for group, _ in points),
        facts={
            "runs": tuple(f"{entry.n}" for _, entry in points),
            "of all weights": tuple(share(group.runs[0].report["total"].get("model_sparsity")) for group, _ in points),
        },
        sources=tuple(source for _, entry in points for source in entry.sources),
    )  # fmt: skip


def _start(metric: str, groups: Sequence[Group], study: Study) -> Iterator[Series]:
    """The dense model, at sparsity 0, where its evaluation is among the runs."""
    quality = mean_of(dense_runs(runs_in(groups), study), metric)
    if quality.value is not None:
        yield Series(
            name="dense model", tone="ink", x=(0.0,), y=(quality.value,), low=(quality.low,), high=(quality.high,),
            names=("dense model",), sources=quality.sources, joined=False,
        )  # fmt: skip


def layer_sparsity(groups: Sequence[Group]) -> Figure:
    """Figure 3: each layer's sparsity, a curve for each modality (its colour) and weighting by ID (its stroke)."""
    modes = {group.method.id_weight for group in groups}
    title = "Sparsity of each layer" + (
        ", with and without weighting by ID" if len(modes) > 1 and "none" in modes else ""
    )

    def panels() -> Iterator[Panel]:
        for key, members in grouped(
            groups, lambda c: (c.subject, c.method.criterion, c.method.extra, c.scope, c.sparsity)
        ):
            subject, criterion, extra, scope, sparsity = key
            depths = _depths(members)
            dimensions = _dimensions(members)
            modalities = _modalities(members)
            series = tuple(
                _layers(group, modality, names, _dimensions([group]) or dimensions)
                for group in members
                for modality in MODALITIES
                if (names := {name: depth for name, depth in depths.items() if modalities[name] == modality})
            )
            words = [labels.criterion(criterion), labels.percent(sparsity), *filter(None, (extra,))]
            words += [] if scope == "all" else [scope]
            profile = next((run.profile for run in runs_in(members) if run.profile), None)
            shaded = blocks(profile) if profile else ()
            several = any(len(group.runs) > 1 for group in members)
            yield Panel(
                name=f"{', '.join(words)}: {model_of(members)} on {subject.dataset}", series=series, shaded=shaded,
                caption="means over runs; bands go from the smallest to the largest" if several else "",
            )  # fmt: skip

    return make(
        panels(), key="sparsity", title=title, paper="Figure 3", x_label=DEPTH, y_label="sparsity, %",
        bounds="smallest and largest of the runs",
    )  # fmt: skip


def _depths(groups: Sequence[Group]) -> dict[str, int]:
    """Layer -> its number, in order: the depth of a profile, else the order of the reports."""
    runs = runs_in(groups)
    names = list(dict.fromkeys(name for run in runs for name in run.report.get("layers") or {}))
    depths = {name: layer.depth for run in runs if run.profile for name, layer in run.profile.layers.items()}
    if all(name in depths for name in names):
        return {name: depths[name] for name in sorted(names, key=depths.__getitem__)}
    return {name: number for number, name in enumerate(names)}


def _modalities(groups: Sequence[Group]) -> dict[str, str]:
    """Layer -> its modality, as the reports say."""
    reports = (run.report.get("layers") or {} for run in runs_in(groups))
    return {name: layer["modality"] for layers in reports for name, layer in layers.items()}


def _dimensions(groups: Sequence[Group]) -> dict[str, str]:
    """Layer -> its dimension with its error, and whether it is unreliable, in words.

    Runs without weighting show that of the others.
    """
    unreliable: set[str] = set()
    estimates: dict[str, list[tuple[float, float | None]]] = {}
    for run in runs_in(groups):
        for name, layer in (run.report.get("layers") or {}).items():
            if layer.get("dimension") is not None:
                estimates.setdefault(name, []).append((layer["dimension"], layer.get("stderr")))
                if layer.get("substituted"):
                    unreliable.add(name)
    words = {}
    for name, values in estimates.items():
        error = values[0][1] if len(set(values)) == 1 else None
        mean = math.fsum(value for value, _ in values) / len(values)
        words[name] = f"{mean:.1f}" + (f" ± {error:.1f}" if error else "")
        words[name] += ", unreliable" if name in unreliable else ""
    return words


def _layers(group: Group, modality: str, depths: Mapping[str, int], dimensions: Mapping[str, str]) -> Series:
    """The mean sparsity over a group's runs of each layer of a modality, with the smallest and the largest."""
    points: list[tuple[str, list[float], int]] = []
    for name in depths:
        layers = [run.report["layers"][name] for run in group.runs if name in run.report.get("layers", {})]
        shares = [100 * layer["sparsity"] for layer in layers if layer.get("sparsity") is not None]
        if shares:
            points.append((name, shares, layers[0].get("weights") or 0))
    several, weighting = len(group.runs) > 1, group.method.id_weight
    facts = {"weights": tuple(f"{weights:,}" for *_, weights in points)}
    if dimensions:
        facts = {"ID": tuple(dimensions.get(name, "no estimate") for name, *_ in points)} | facts
    return Series(
        name=f"{group.method}, {modality}" + runs_of(len(group.runs)), tone=modality,
        hollow=weighting == "none", joined=modality != INTERLEAVED,
        dash="solid" if weighting == "multiply" else "dotted" if weighting == "divide" else "dashed",
        x=tuple(float(depths[name]) for name, *_ in points),
        y=tuple(math.fsum(shares) / len(shares) for _, shares, _ in points),
        low=tuple(min(shares) for _, shares, _ in points) if several else None,
        high=tuple(max(shares) for _, shares, _ in points) if several else None,
        names=tuple(name for name, *_ in points), facts=facts,
        sources=tuple(run.source("report.json") for run in group.runs),
    )  # fmt: skip
