"""The tables of a study: what each run measured, by method, sparsity and scope, with the files behind every number.

They are plain values; `export.py` writes them down. Intervals are t intervals over runs, or of a single run those over
its samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from idvl.data.catalog import unlike_published
from idvl.profile import MODALITIES, LayerProfile
from idvl.reliability import unsound_reason
from idvl.reporting.allocations import allocation_tables
from idvl.reporting.change import UNLIKE, changes_of
from idvl.reporting.collect import Study
from idvl.reporting.entry import Table, TableEntry, mean
from idvl.reporting.groups import Group, Subject, groups_of, mean_of, model_of, paired_changes, runs_in
from idvl.reporting.labels import percent, points
from idvl.reporting.lineage import (
    MeasuredProfile,
    dense_models,
    dense_runs,
    differing,
    evaluated_alike,
    is_overwritten,
    profiles_of,
)
from idvl.reporting.run_record import RunRecord
from idvl.reporting.sensitivity import sensitivity_tables
from idvl.reporting.settings import PROTOCOL, began_pruned, is_one_shot, is_recovery, replicate
from idvl.uncovered import in_words

PAIRED = (
    "paired: the same dense model and seed without weighting is subtracted; intervals are 95 % t intervals over pairs, "
    "which a single pair does not have: idvl eval compares its samples"
)
INTERVALS = (
    "95 % intervals: Student t over runs (may exceed a metric's range); over samples for a single run (score interval "
    "of a proportion, else bootstrap)"
)


def tables_of(study: Study) -> list[Table]:
    """All tables that the runs have numbers for."""
    groups = groups_of(study)
    every: list[Table | None] = []
    for number, subject in enumerate(dict.fromkeys(group.subject for group in groups), 1):
        members = [group for group in groups if group.subject == subject]
        name = f"{model_of(members)} on {subject.dataset}"
        every += [_quality(number, name, members, study), _paired_changes(number, name, members)]
        every += [_metrics(number, name, members, study), _sparsity(number, subject, name, members)]
        every.append(_change(number, name, members, study))
    every += [*_evaluations(study), _dimensions(study), *sensitivity_tables(study.of("sensitivity"))]
    every += allocation_tables(study.of("allocations"))
    return [table for table in every if table and table.rows]


def headline(runs: Sequence[RunRecord]) -> str | None:
    """The metric that most of these runs' results put first."""
    metrics = [run.results["headline"] for run in runs if run.results.get("headline")]
    return max(dict.fromkeys(metrics), key=metrics.count) if metrics else None


def _quality(number: int, name: str, groups: Sequence[Group], study: Study) -> Table | None:
    """The headline metric: a row per method and scope, a column per sparsity."""
    metric = headline(runs_in(groups))
    if metric is None:
        return None
    sparsities = sorted({group.sparsity for group in groups})
    dense = [run for run in dense_runs(runs_in(groups), study) if metric in run.metrics()]
    blank = (TableEntry(text=""),) * bool(dense)
    rows = [(("dense model", ""), (mean_of(dense, metric), *blank * len(sparsities)))] if dense else []
    for method, scope in dict.fromkeys((group.method, group.scope) for group in groups):
        members = [group for group in groups if (group.method, group.scope) == (method, scope)]
        entries = {group.sparsity: group.entry(metric) for group in members}
        rows.append(((str(method), scope), (*blank, *(entries.get(sparsity, TableEntry()) for sparsity in sparsities))))
    return Table(
        key=f"quality-{number}", title=f"{metric} by method and sparsity: {name}", paper="Tables 1 to 5",
        labels=("method", "scope"), columns=("0 %",) * bool(dense) + tuple(map(percent, sparsities)), rows=tuple(rows),
        over=metric, notes=(INTERVALS, of_all_weights(groups), *cautions(groups)),
    )  # fmt: skip


def _paired_changes(number: int, name: str, groups: Sequence[Group]) -> Table | None:
    """What weighting by ID changes: the difference to the same run without, replicate by replicate."""
    metric = headline(runs_in(groups))
    if metric is None:
        return None
    changes = list(paired_changes(groups, metric))
    sparsities = sorted({group.sparsity for group, _ in changes})
    rows, intervals = [], sum(entry.low is not None for _, entry in changes)
    for method, scope in dict.fromkeys((group.method, group.scope) for group, _ in changes):
        row = {group.sparsity: entry for group, entry in changes if (group.method, group.scope) == (method, scope)}
        rows.append(((str(method), scope), tuple(row.get(sparsity, TableEntry()) for sparsity in sparsities)))
    return Table(
        key=f"gain-{number}", title=f"What weighting by ID changes, in points of {metric}: {name}",
        paper="Tables 1 to 6 (× ID and / ID against the criterion alone)",
        labels=("method", "scope"), columns=tuple(map(percent, sparsities)), rows=tuple(rows), signed=True,
        counts="pairs", notes=tuple(filter(None, (PAIRED, _by_chance(intervals)))),
    )  # fmt: skip


def _by_chance(intervals: int) -> str:
    """How many of several intervals of 95 % leave out 0 where there is no difference."""
    if intervals < 2:
        return ""
    return f"if weighting changed nothing, {intervals / 20:.1f} of these {intervals} intervals would still leave out 0"


def _metrics(number: int, name: str, groups: Sequence[Group], study: Study) -> Table | None:
    """Every metric: a row per group."""
    runs = runs_in(groups)
    names = _metrics_of(runs)
    dense = dense_runs(runs_in(groups), study)
    rows = []
    if dense:
        every = tuple(mean_of(dense, metric) for metric in names)
        rows.append((("dense model", "", "", f"{len(dense)}"), every))
    for group in groups:
        if any(run.results for run in group.runs):
            evaluated = f"{sum(bool(run.results) for run in group.runs)}"
            labels = (str(group.method), group.scope, percent(group.sparsity), evaluated)
            rows.append((labels, tuple(group.entry(metric) for metric in names)))
    return Table(
        key=f"metrics-{number}", title=f"All metrics: {name}", paper="Tables 1 to 7",
        labels=("method", "scope", "sparsity", "runs"), columns=tuple(names), rows=tuple(rows),
        notes=(INTERVALS, of_all_weights(groups), *cautions(groups)), folded=True,
    )  # fmt: skip


def of_all_weights(groups: Sequence[Group]) -> str:
    """What each sparsity, which is of the weights in scope, comes to in all weights of the model."""
    shares: dict[float, list[float]] = {}
    for group in groups:
        shares.setdefault(group.sparsity, []).extend(run.report["total"]["model_sparsity"] for run in group.runs)
    words = []
    for sparsity, found in sorted(shares.items()):
        spread = dict.fromkeys(f"{100 * share:.1f}" for share in (min(found), max(found)))
        words.append(f"{percent(sparsity)} is {' to '.join(spread)} %")
    return f"sparsity is of the weights in scope; of all weights of the model, {', '.join(words)}"


def _metrics_of(runs: Sequence[RunRecord]) -> list[str]:
    """The metrics that any of the runs has a value of, the headline first."""
    names = dict.fromkeys(name for run in runs for name, number in run.metrics().items() if number.value is not None)
    return sorted(names, key=lambda name: name != headline(runs))


def _sparsity(number: int, subject: Subject, name: str, groups: Sequence[Group]) -> Table:
    """What was pruned where: in scope, by modality, and of the other two denominators."""
    runs = runs_in(groups)
    reports = [run.report for run in runs]
    further = any(is_recovery(run) and began_pruned(run) for run in runs)
    modalities = [word for word in MODALITIES if any(word in (report.get("modalities") or {}) for report in reports)]
    picks: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
        ("in scope", lambda report: report["total"].get("sparsity")),
        *((word, lambda report, word=word: report["modalities"].get(word, {}).get("sparsity")) for word in modalities),
        ("all prunable", lambda report: report["total"].get("prunable_sparsity")),
        ("all weights", lambda report: report["total"].get("model_sparsity")),
    ]
    rows = []
    for group in groups:
        entries = []
        for _, pick in picks:
            numbers = [(run, pick(run.report)) for run in group.runs]
            entries.append(
                mean(
                    TableEntry(value=100 * share, sources=(run.source("report.json"),))
                    for run, share in numbers
                    if share is not None
                )
            )
        rows.append(((str(group.method), group.scope, percent(group.sparsity), f"{len(group.runs)}"), tuple(entries)))
    return Table(
        key=f"sparsity-{number}", title=f"Sparsity by modality, in percent: {name}", paper="Figure 3",
        labels=("method", "scope", "target", "runs"), columns=tuple(word for word, _ in picks), rows=tuple(rows),
        notes=(*_model_weights(subject, reports),
               *(["of recovered models, in scope has the layers of earlier prunings too, whose zeros stay"] * further),
               *([] if any(run.results for run in runs) else _repeats(groups)),
               "intervals, if any, are 95 % t intervals over runs"), folded=True,
    )  # fmt: skip


def _model_weights(subject: Subject, reports: Sequence[dict[str, Any]]) -> list[str]:
    """How many weights the model has, which of them are not covered, where a report says so, and what zeros count."""
    words = (in_words(report["not_covered"], subject.weights) for report in reports if report.get("not_covered"))
    notes = list(dict.fromkeys(words)) or [f"the model has {subject.weights:,} weights"]
    totals = [report["total"] for report in reports]
    if any(total.get("model_zeros", total["zeros"]) > total["zeros"] for total in totals):
        notes.append("all prunable and all weights count zeros that no mask has, too")
    return notes


def _change(number: int, name: str, groups: Sequence[Group], study: Study) -> Table:
    """What pruning did to the dimensions: by group the mean over a modality's layers, then over runs."""
    changes = changes_of(study, groups)
    modalities = [word for word in MODALITIES if any(change.pairs(word) for change in changes)]
    several = len(changes) > len({change.group for change in changes})
    pairs = [pair for change in changes for word in modalities for pair in change.pairs(word)]
    left_out = sum(any(map(unsound_reason, pair)) for pair in pairs)
    unreliable = f"left out, as their ID is unreliable before or after pruning: {left_out} of {len(pairs)} layers"
    both = [change for change in changes if change.before]
    protocols = {str([one.after.data, *(one.profile.protocol.get(key) for key in PROTOCOL)]) for one in both}
    total = sum(len(one.before.profile.layers.keys() | one.profile.layers.keys()) for one in both)
    rows = []
    for group in groups:
        measured = [change for change in changes if change.group is group and change.before]
        files = tuple(one.source for change in measured for one in (change.before, change.after) if one)
        means = (mean(TableEntry(value=change.of(word)) for change in measured) for word in modalities)
        entries = tuple(replace(number, decimals=2, sources=files) for number in means)
        if measured:
            rows.append(((str(group.method), group.scope, percent(group.sparsity), f"{len(measured)}"), entries))
    return Table(
        key=f"change-{number}", title=f"Change of intrinsic dimension by pruning: {name}", paper="Figures 5 and 6",
        labels=("method", "scope", "sparsity", "runs"), columns=tuple(modalities), rows=tuple(rows), signed=True,
        notes=("mean over the layers of a modality" + ("; intervals are 95 % t intervals over runs" * several),
               *([f"CAUTION: {unreliable}"] if left_out else []),
               *([f"CAUTION: {len(pairs)} of {total} layers have an ID both before and after pruning"]
                 if len(pairs) < total else []),
               *(["CAUTION: runs were measured by different protocols (estimator, tokens, samples, split)"]
                 if len(protocols) > 1 else []),
               *([f"CAUTION: {UNLIKE}"] if not all(one.alike for one in both) else [])),
    )  # fmt: skip


def _evaluations(study: Study) -> Iterator[Table]:
    """Runs of idvl eval, a table for each task."""
    every = [run for run in study.of("eval") if any(metrics.value is not None for metrics in run.metrics().values())]
    for task in dict.fromkeys(run.results.get("task") for run in every):
        runs = [run for run in every if run.results.get("task") == task]
        names = _metrics_of(runs)
        stale = [run.label for run in runs if is_overwritten(run, study)]
        rows, members = [], {}
        for run in runs:
            metrics = run.metrics()
            split = (run.results.get("dataset") or {}).get("split") or ""
            limit = f", {run.results['limit']:,} samples only" if run.results.get("limit") else ""
            labels = (run.label, run.model, f"{run.dataset} {split}{limit}".strip())
            members.setdefault(labels[2], []).append(run)
            rows.append((labels, tuple(metrics.get(name, TableEntry()) for name in names)))
        unlike = {data: differing(same) for data, same in members.items()}
        yield Table(
            key=f"evaluations-{task}", title=f"Standalone evaluations: {task}", paper=None,
            labels=("run", "model", "data"), columns=tuple(names), rows=tuple(rows),
            notes=("95 % intervals over samples: score interval of a proportion, else bootstrap", *_no_test(runs),
                   *(f"CAUTION: evaluations of {data} differ in {', '.join(words)}" for data, words in unlike.items()
                     if words),
                   *([f"CAUTION: of earlier weights, since the model's folder was overwritten: {', '.join(stale)}"]
                     if stale else [])),
        )  # fmt: skip


def _dimensions(study: Study) -> Table:
    """Intrinsic dimensions by modality: median, smallest and largest of the layers whose ID is reliable."""
    rows, left_out = [], []
    shown = profiles_of(study)
    repeated = [run.label for run in study.of("estimate-id") if all(one.run is not run for one in shown)]
    for one in shown:
        layers, protocol = one.profile.layers.values(), one.profile.protocol
        modalities = {word: [layer for layer in layers if layer.modality == word] for word in MODALITIES}
        entries = [_spread(members, one) for members in modalities.values()]
        counts = {word: sum(unsound_reason(layer) is not None for layer in modalities[word]) for word in MODALITIES}
        words = [f"{count} of {len(modalities[word])} {word}" for word, count in counts.items() if count]
        left_out += [f"{one.run.label} ({', '.join(words)})"] * bool(words)
        without = sum(layer.estimate.dimension is None for layer in layers)
        entries += [
            TableEntry(value=count, n=len(layers), sources=(one.source,), decimals=0)
            for count in (without, sum(counts.values()))
        ]
        how = f"{protocol.get('estimator', '?')}, {protocol.get('tokens', '?')}"
        how += ", layer inputs" if protocol.get("capture") == "input" else ""
        rows.append(((one.run.label, one.model, one.data, points(one.profile), how), entries))
    columns = (*MODALITIES, "no estimate", "unreliable")
    kept = [i for i, _ in enumerate(columns) if any(entries[i].sources for _, entries in rows)]
    return Table(
        key="dimensions", title="Intrinsic dimension by modality", paper="Figure 2",
        labels=("run", "model", "data", "points", "protocol"),
        columns=tuple(columns[i] for i in kept),
        rows=tuple((labels, tuple(entries[i] for i in kept)) for labels, entries in rows),
        notes=(
            "median over the layers, with the smallest and the largest",
            *([f"CAUTION: left out, as their ID is unreliable: {', '.join(left_out)}"] * bool(left_out)),
            *([f"left out, as repeats of the same model and dimensions: {', '.join(repeated)}"] if repeated else []),
        ),
        bounds="smallest and largest", counts="layers",
    )  # fmt: skip


def _spread(layers: Sequence[LayerProfile], measured: MeasuredProfile) -> TableEntry:
    estimated = [layer for layer in layers if layer.estimate.dimension is not None]
    dimensions = [layer.estimate.dimension for layer in estimated if unsound_reason(layer) is None]
    if not dimensions:
        return TableEntry(text="unreliable", sources=(measured.source,)) if estimated else TableEntry()
    return TableEntry(
        value=median(dimensions),
        low=min(dimensions),
        high=max(dimensions),
        n=len(dimensions),
        sources=(measured.source,),
    )


def _no_test(runs: Sequence[RunRecord]) -> list[str]:
    """Which evaluations are of samples that the model was made with."""
    learnt = [run.label for run in runs if (run.results.get("dataset") or {}).get("learnt")]
    used = f"CAUTION: no test, since the split evaluated was used to make the models: {', '.join(learnt)}"
    return [used] if learnt else []


def _repeats(groups: Sequence[Group]) -> list[str]:
    """Which runs are left out because another one is the same replicate, or saved the same weights."""
    notes: dict[str, list[str]] = {}
    for group in groups:
        seeds = {replicate(run) for run in group.runs}
        for run in group.repeated:
            alike = not run.signature or replicate(run) in seeds
            why = "repeats of the same model, seed and settings" if alike else "other seeds that gave the same weights"
            notes.setdefault(why, []).append(run.label)
    return [f"left out, as {why}: {', '.join(runs)}" for why, runs in notes.items()]


def cautions(groups: Sequence[Group]) -> list[str]:
    """What makes numbers of a table less comparable than they look."""
    runs = [run for run in runs_in(groups) if run.results]
    notes = []
    if any(len(dense_models(group.runs)) > 1 for group in groups):
        notes.append(f"means are over models that share their class and size: {', '.join(dense_models(runs))}")
    notes += _no_test(runs)
    if any(not evaluated_alike(runs[0], run) for run in runs):
        notes.append("CAUTION: runs were evaluated with different samples, settings or tokenizers")
    if runs and all(map(is_one_shot, runs)):
        notes.append("all of these runs are one-shot")
    if any(run.results.get("limit") for run in runs):
        notes.append("CAUTION: some runs were evaluated on a part of the split (--eval-limit)")
    whole = [run.results.get("dataset") or {} for run in runs if run.results.get("limit") is None]
    notes += [f"CAUTION: {told}" for told in dict.fromkeys(map(unlike_published, whole)) if told]
    notes += _repeats(groups)
    reasons = {run: (run.report.get("evaluation") or {}).get("skipped") for run in runs_in(groups) if not run.results}
    if blank := [f"{run.label} ({reason})" if reason else run.label for run, reason in reasons.items()]:
        notes.append(f"not evaluated: {', '.join(blank)}")
    return notes
