"""The numbers of the paper's tables beside the measured ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from idvl.data.catalog import unlike_published
from idvl.reporting import labels
from idvl.reporting.collect import Study
from idvl.reporting.entry import Table, TableEntry
from idvl.reporting.groups import Group, groups_of, mean_of, model_of, runs_in
from idvl.reporting.lineage import dense_runs
from idvl.reporting.run_record import RunRecord
from idvl.reporting.settings import is_one_shot
from idvl.reporting.tables import cautions

PAPER = Path(__file__).parent / "paper.json"
# sparsities this close are the same
CLOSE = 0.005


def expected(study: Study) -> list[Table]:
    """A table for every one of the paper's that these runs can be held against, and all rows of it.

    Runs on the paper's dataset first; where there are none, runs of the same task on another one, whose order can be
    compared and whose values cannot.
    """
    published = json.loads(PAPER.read_text(encoding="utf-8"))
    groups = groups_of(study)
    tables = []
    for table in published["tables"]:
        evaluated = [group for group in groups if any(run.results.get("task") == table["task"] for run in group.runs)]
        fitting = [group for group in evaluated if _one_shot(group) == (table["schedule"] == "one-shot")]
        same = [group for group in fitting if group.subject.dataset == table["dataset"]]
        for subject in dict.fromkeys(group.subject for group in same or fitting):
            members = [group for group in fitting if group.subject == subject]
            if any(_group_of(row, members) for row in table["rows"]):
                tables.append(_table(table, members, study, len(tables) + 1, same=bool(same)))
    return tables


def _table(table: Mapping[str, Any], groups: Sequence[Group], study: Study, number: int, *, same: bool) -> Table:
    """`same`: the runs are on the paper's dataset. Differences are shown where they are on its samples too."""
    here, paper = f"{model_of(groups)} on {groups[0].subject.dataset}", f"{table['model']} on {table['dataset']}"
    metrics = table["metrics"]
    used = list(dict.fromkeys(group for row in table["rows"] if (group := _group_of(row, groups))))
    dense = dense_runs(runs_in(used), study)
    evaluated = [run for run in (*runs_in(used), *dense) if run.results]
    others = [run for run in evaluated if not _whole_test_split(run)]
    comparable = same and not others
    rows = [(("dense model", "", ""), _entries(table["dense"], metrics, dense, comparable))] if table["dense"] else []
    for row in table["rows"]:
        criterion, id_weight, scope, sparsity, *values = row
        group = _group_of(row, groups)
        setting = (labels.method(criterion, id_weight), scope, labels.percent(sparsity))
        rows.append((setting, _entries(values, metrics, group.runs if group else (), comparable)))
    count = f"{len(others)} of {len(evaluated)} runs"
    partial = f"CAUTION: no differences: {count} were not evaluated on the whole test split as published"
    notes = (_dense(table, dense, same), *[partial] * (same and bool(others)), *_special(used, table["schedule"]))
    words = ("paper", "here", "difference") if comparable else ("paper", "here")
    return Table(
        key=f"expected-{number}", title=f"Published and measured: {paper}, {here}", paper=table["name"],
        labels=("method", "scope", "sparsity"), rows=tuple(rows), published=True,
        columns=tuple(f"{metric}, {word}" for metric in metrics for word in words),
        notes=(*notes, *cautions(used)),
    )  # fmt: skip


def _whole_test_split(run: RunRecord) -> bool:
    about = run.results.get("dataset") or {}
    is_whole = run.results.get("limit") is None and not unlike_published(about)
    return is_whole and about.get("split") not in ("train", "validation")


def _dense(table: Mapping[str, Any], dense: Sequence[RunRecord], same: bool) -> str:
    """How far the numbers can be held against each other, by the models that they begin with."""
    if not same:
        paper = f"{table['model']} on {table['dataset']}"
        return f"CAUTION: the paper's numbers are of {paper}: compare the order of the numbers here, not their values"
    if not table["dense"]:
        return f"the paper says of its dense {table['model']} no metric: whether it is the same is not known"
    metric, value = table["metrics"][0], table["dense"][0]
    here = mean_of(dense, metric)
    if here.value is None:
        return f"CAUTION: the paper's dense model has {metric} {value}; add the idvl eval of the one here to compare"
    return f"the paper's dense model has {metric} {value}, the one here {here.value:.1f}: compare what is lost of it"


def _special(groups: Sequence[Group], schedule: str) -> list[str]:
    """The settings of their own that groups of the table have."""

    def is_special(group: Group) -> bool:
        words = {*group.method.extra.split(", "), group.method.weighting} - {"", schedule}
        return bool(words) or any(run.signature.get("prune.schedule", schedule) != schedule for run in group.runs)

    methods = [str(group.method) for group in groups if is_special(group)]
    return [f"CAUTION: here with settings of its own: {'; '.join(dict.fromkeys(methods))}"] if methods else []


def _entries(
    published: Sequence[float], metrics: Sequence[str], runs: Sequence[RunRecord], comparable: bool
) -> tuple[TableEntry, ...]:
    """For every metric the paper's number, the measured one, and the difference where it means something."""
    entries = []
    for value, metric in zip(published, metrics, strict=True):
        measured = mean_of(runs, metric)
        entries += [TableEntry(value=value), measured]
        if comparable:
            entries.append(TableEntry() if measured.value is None else TableEntry(value=measured.value - value))
    return tuple(entries)


def _group_of(row: Sequence[Any], groups: Sequence[Group]) -> Group | None:
    """The group of a row: the one with the fewest settings of its own."""
    criterion, id_weight, scope, sparsity = row[:4]
    fitting = [
        group
        for group in groups
        if (group.method.criterion, group.method.id_weight, group.scope) == (criterion, id_weight, scope)
        and abs(group.sparsity - sparsity) < CLOSE
    ]
    return min(fitting, key=lambda group: len(group.method.extra + group.method.weighting), default=None)


def _one_shot(group: Group) -> bool:
    return any(map(is_one_shot, group.runs))
