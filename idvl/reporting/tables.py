"""The tables of a study: what each run measured, by method, sparsity and scope, with the files behind every number.

They are plain values; `formats.py` writes them down. Intervals are t intervals over runs, or of a single run those over
its samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from idvl.profile import MODALITIES, LayerProfile, Profile
from idvl.reporting.cells import (
    Cell,
    Entry,
    Subject,
    cells_of,
    dense_runs,
    entry,
    gains,
    judged_on,
    model_of,
    pruned_by,
)
from idvl.reporting.collect import Number, Run, Study
from idvl.reporting.prunability import correlation, ratios

INTERVALS = "intervals are of 95 %: a t interval over runs, of a single run the bootstrap over its samples"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of words, then entries: one of `labels` and one of `columns` for each. `paper`: its counterpart there."""

    key: str
    title: str
    paper: str | None
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Entry, ...]], ...]
    notes: tuple[str, ...] = ()


def tables_of(study: Study) -> list[Table]:
    """All tables that the runs have numbers for."""
    cells = cells_of(study)
    made: list[Table | None] = []
    for number, subject in enumerate(dict.fromkeys(cell.subject for cell in cells), 1):
        ours = [cell for cell in cells if cell.subject == subject]
        name = f"{model_of(ours)} on {subject.dataset}"
        made += [_quality(number, name, ours, study), _gains(number, name, ours), _metrics(number, name, ours, study)]
        made.append(_sparsity(number, subject, name, ours))
    return [
        table
        for table in [*made, *_evaluations(study), _dimensions(study), *_prunability(study)]
        if table and table.rows
    ]


def headline(runs: Sequence[Run]) -> str | None:
    """The metric that most of these runs' results put first."""
    found = [run.results["headline"] for run in runs if run.results.get("headline")]
    return max(dict.fromkeys(found), key=found.count) if found else None


def percent(share: float) -> str:
    """0.95 -> "95 %", 0.995 -> "99.5 %"."""
    return f"{100 * share:.4g} %"


def _quality(number: int, name: str, cells: Sequence[Cell], study: Study) -> Table | None:
    """The headline metric: a row per method and scope, a column per sparsity."""
    metric = headline([run for cell in cells for run in cell.runs])
    if metric is None:
        return None
    sparsities = sorted({cell.sparsity for cell in cells})
    dense = [run.metrics()[metric] for run in dense_runs(cells, study) if metric in run.metrics()]
    rows = [(("dense model", ""), (entry(dense), *(Entry(text="") for _ in sparsities)))] if dense else []
    blank = (Entry(text=""),) if dense else ()
    for method, scope in dict.fromkeys((cell.method, cell.scope) for cell in cells):
        found = {cell.sparsity: cell.entry(metric) for cell in cells if (cell.method, cell.scope) == (method, scope)}
        rows.append(((str(method), scope), (*blank, *(found.get(sparsity, Entry()) for sparsity in sparsities))))
    return Table(
        key=f"quality-{number}", title=f"{metric} by method and sparsity: {name}", paper="Tables 1 to 5",
        labels=("method", "scope"), columns=("0 %",) * bool(dense) + tuple(map(percent, sparsities)), rows=tuple(rows),
        notes=(INTERVALS, *_cautions(cells)),
    )  # fmt: skip


def _gains(number: int, name: str, cells: Sequence[Cell]) -> Table | None:
    """What weighting by ID changes: the difference to the same run without, replicate by replicate."""
    metric = headline([run for cell in cells for run in cell.runs])
    if metric is None:
        return None
    found = list(gains(cells, metric))
    sparsities = sorted({cell.sparsity for cell, _ in found})
    rows = []
    for method, scope in dict.fromkeys((cell.method, cell.scope) for cell, _ in found):
        ours = {cell.sparsity: made for cell, made in found if (cell.method, cell.scope) == (method, scope)}
        rows.append(((str(method), scope), tuple(ours.get(sparsity, Entry()) for sparsity in sparsities)))
    return Table(
        key=f"gain-{number}", title=f"What weighting by ID changes, in points of {metric}: {name}",
        paper="Tables 1 to 6 (× ID and / ID against the criterion alone)",
        labels=("method", "scope"), columns=tuple(map(percent, sparsities)), rows=tuple(rows),
        notes=("paired: the same dense model and seed without weighting is subtracted; intervals are 95 % t intervals "
               "over pairs, which a single pair does not have",),
    )  # fmt: skip


def _metrics(number: int, name: str, cells: Sequence[Cell], study: Study) -> Table | None:
    """Every metric: a row per cell."""
    runs = [run for cell in cells for run in cell.runs]
    names = [
        metric
        for metric in dict.fromkeys(metric for run in runs for metric in run.metrics())
        if any(run.metrics().get(metric, _NONE).value is not None for run in runs)
    ]
    dense = dense_runs(cells, study)
    rows = []
    if dense:
        every = tuple(entry([run.metrics()[metric] for run in dense if metric in run.metrics()]) for metric in names)
        rows.append((("dense model", "", "", f"{len(dense)}"), every))
    for cell in cells:
        if any(run.results for run in cell.runs):
            labels = (str(cell.method), cell.scope, percent(cell.sparsity), f"{len(cell.runs)}")
            rows.append((labels, tuple(cell.entry(metric) for metric in names)))
    return Table(
        key=f"metrics-{number}", title=f"All metrics: {name}", paper="Tables 1 to 7",
        labels=("method", "scope", "sparsity", "runs"), columns=tuple(names), rows=tuple(rows), notes=(INTERVALS,),
    )  # fmt: skip


_NONE = Number(value=None, source="")


def _sparsity(number: int, subject: Subject, name: str, cells: Sequence[Cell]) -> Table:
    """What was pruned where: in scope, by modality, and of the other two denominators."""
    reports = [run.report for cell in cells for run in cell.runs]
    modalities = [word for word in MODALITIES if any(word in (report.get("modalities") or {}) for report in reports)]
    picks: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
        ("in scope", lambda report: report["total"].get("sparsity")),
        *((word, lambda report, word=word: report["modalities"].get(word, {}).get("sparsity")) for word in modalities),
        ("all prunable", lambda report: report["total"].get("prunable_sparsity")),
        ("all weights", lambda report: report["total"].get("model_sparsity")),
    ]
    rows = []
    for cell in cells:
        entries = []
        for _, pick in picks:
            numbers = [(run, pick(run.report)) for run in cell.runs]
            known = [
                Number(value=None if share is None else 100 * share, source=run.source("report.json"))
                for run, share in numbers
                if share is not None
            ]
            entries.append(entry(known))
        rows.append(((str(cell.method), cell.scope, percent(cell.sparsity), f"{len(cell.runs)}"), tuple(entries)))
    return Table(
        key=f"sparsity-{number}", title=f"Sparsity by modality, in percent: {name}", paper="Figure 3",
        labels=("method", "scope", "asked", "runs"), columns=tuple(word for word, _ in picks), rows=tuple(rows),
        notes=(f"the model has {subject.weights:,} weights", "intervals are 95 % t intervals over runs"),
    )  # fmt: skip


def _evaluations(study: Study) -> Iterator[Table]:
    """Runs of idvl eval, a table for each task."""
    every = [run for run in study.of("eval") if any(found.value is not None for found in run.metrics().values())]
    for task in dict.fromkeys(run.results.get("task") for run in every):
        runs = [run for run in every if run.results.get("task") == task]
        names = dict.fromkeys(name for run in runs for name, found in run.metrics().items() if found.value is not None)
        rows = []
        for run in runs:
            found = run.metrics()
            split = (run.results.get("dataset") or {}).get("split") or ""
            limit = f", {run.results['limit']:,} samples only" if run.results.get("limit") else ""
            labels = (run.label, run.model, f"{run.dataset} {split}{limit}".strip())
            rows.append((labels, tuple(entry([found[name]]) if name in found else Entry() for name in names)))
        yield Table(
            key=f"evaluations-{task}", title=f"Evaluations by themselves: {task}", paper=None,
            labels=("run", "model", "data"), columns=tuple(names), rows=tuple(rows),
            notes=("intervals are of 95 %, by bootstrap over samples",),
        )  # fmt: skip


def _dimensions(study: Study) -> Table:
    """Intrinsic dimensions by modality: median, smallest and largest of a profile's layers."""
    rows = []
    for run, profile in profiles_of(study):
        groups = {word: [layer for layer in profile.layers.values() if layer.modality == word] for word in MODALITIES}
        entries = tuple(_spread(layers, run) for layers in groups.values())
        points = max((layer.estimate.n_points for layer in profile.layers.values()), default=0)
        without = sum(layer.estimate.dimension is None for layer in profile.layers.values())
        protocol = profile.protocol
        pruned = pruned_by(run, study)
        labels = (
            run.label, f"{profile.model.get('name', run.model)}" + (", pruned" if pruned else ""),
            f"{points:,}", f"{protocol.get('estimator', '?')}, {protocol.get('tokens', '?')}", f"{without}",
        )  # fmt: skip
        rows.append((labels, entries))
    kept = [i for i, _ in enumerate(MODALITIES) if any(entries[i].value is not None for _, entries in rows)]
    return Table(
        key="dimensions", title="Intrinsic dimension by modality", paper="Figure 2",
        labels=("run", "model", "points", "protocol", "no estimate"), columns=tuple(MODALITIES[i] for i in kept),
        rows=tuple((labels, tuple(entries[i] for i in kept)) for labels, entries in rows),
        notes=("median over the layers, with the smallest and the largest",),
    )  # fmt: skip


def _prunability(study: Study) -> Iterator[Table]:
    """Whether layers of higher dimension lose more when they alone are pruned."""
    for number, run in enumerate(study.of("sensitivity"), 1):
        groups = [None, *(word for word in MODALITIES if word in run.sensitivity["modalities"])]
        source = (run.source("sensitivity.json"),)
        rows = []
        for ratio in ratios(run):
            entries: list[Entry] = []
            for group in groups:
                found = correlation(run, ratio, group)
                entries += [Entry(), Entry()] if found is None else [
                    Entry(value=found.rho, n=found.n, sources=source, decimals=2),
                    Entry(value=found.p, n=found.n, sources=source, decimals=4),
                ]  # fmt: skip
            rows.append(((percent(ratio),), tuple(entries)))
        columns = tuple(f"{group or 'all layers'}, {word}" for group in groups for word in ("rho", "p"))
        yield Table(
            key=f"prunability-{number}", paper="the hypothesis behind Figures 2 and 3",
            title=f"Spearman's rho of dimension and loss: {run.model} on {run.dataset}",
            labels=("of each layer alone",), columns=columns, rows=tuple(rows),
            notes=("two-sided p from 10,000 permutations; layers of one model are not independent, so it is a guide",),
        )  # fmt: skip


def _spread(layers: Sequence[LayerProfile], run: Run) -> Entry:
    found = [layer.estimate.dimension for layer in layers if layer.estimate.dimension is not None]
    if not found:
        return Entry()
    return Entry(
        value=median(found), low=min(found), high=max(found), n=len(found), sources=(run.source("profile.json"),)
    )


def profiles_of(study: Study) -> list[tuple[Run, Profile]]:
    """Every distinct profile with the first run that has it, those of pruned models last.

    Runs of one dense model share theirs; of equal ones that of a run of estimate-id stands for all.
    """
    found: dict[str, tuple[Run, Profile]] = {}
    for run in sorted(study.runs, key=lambda run: run.kind != "estimate-id"):
        for profile in (run.dense, run.profile):
            if profile is not None and profile.layers:
                estimates = [(name, layer.estimate.dimension) for name, layer in profile.layers.items()]
                found.setdefault(repr((profile.model.get("fingerprint"), estimates)), (run, profile))
    return sorted(found.values(), key=lambda pair: pruned_by(pair[0], study) is not None)


def profile_name(run: Run, profile: Profile, study: Study) -> str:
    """What a figure calls a profile: its model, pruned or not, its data and the run."""
    pruned = pruned_by(run, study)
    model = f"{pruned.model}, pruned," if pruned else profile.model.get("name", run.model)
    return f"{model} on {profile.dataset.get('dataset', run.dataset)}: {run.label}"


def _cautions(cells: Sequence[Cell]) -> list[str]:
    """What makes numbers of a table less comparable than they look."""
    runs = [run for cell in cells for run in cell.runs if run.results]
    said = []
    if len(names := list(dict.fromkeys(run.model for run in runs))) > 1:
        said.append(f"means are over models that share their class and size: {', '.join(names)}")
    if len({judged_on(run) for run in runs}) > 1:
        said.append("CAUTION: not all runs were judged on the same samples")
    if any(run.results.get("limit") for run in runs):
        said.append("CAUTION: some runs were judged on a part of the split (--eval-limit)")
    if len({repr(run.results.get("scoring")) for run in runs}) > 1:
        said.append("CAUTION: not all runs were scored with the same tokenizer")
    if left_out := [run.label for cell in cells for run in cell.repeated]:
        said.append(f"left out, as repeats of the same model, seed and settings: {', '.join(left_out)}")
    blank = [run.label for cell in cells for run in cell.runs if not run.results]
    if blank:
        said.append(f"not evaluated: {', '.join(blank)}")
    return said
