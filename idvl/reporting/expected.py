"""The numbers of the paper's tables beside the measured ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from idvl.reporting import labels
from idvl.reporting.collect import Study
from idvl.reporting.entry import Table, TableEntry
from idvl.reporting.groups import Replicates, cells_of, mean_of, model_of, runs_in
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
    cells = cells_of(study)
    tables = []
    for table in published["tables"]:
        judged = [cell for cell in cells if any(run.results.get("task") == table["task"] for run in cell.runs)]
        fitting = [cell for cell in judged if _one_shot(cell) == (table["schedule"] == "one-shot")]
        same = [cell for cell in fitting if cell.subject.dataset == table["dataset"]]
        for subject in dict.fromkeys(cell.subject for cell in same or fitting):
            ours = [cell for cell in fitting if cell.subject == subject]
            if any(_found(row, ours) for row in table["rows"]):
                tables.append(_table(table, ours, study, len(tables) + 1, same=bool(same)))
    return tables


def _table(table: Mapping[str, Any], cells: Sequence[Replicates], study: Study, number: int, *, same: bool) -> Table:
    """`same`: the runs are on the paper's dataset. Differences are shown where they are on its samples too."""
    ours, theirs = f"{model_of(cells)} on {cells[0].subject.dataset}", f"{table['model']} on {table['dataset']}"
    metrics, runs = table["metrics"], [run for run in runs_in(cells) if run.results]
    comparable = same and all(_whole_test_split(run) for run in runs)
    dense = dense_runs(runs, study)
    rows = [(("dense model", "", ""), _entries(table["dense"], metrics, dense, comparable))] if table["dense"] else []
    for row in table["rows"]:
        criterion, id_weight, scope, sparsity, *values = row
        cell = _found(row, cells)
        setting = (labels.method(criterion, id_weight), scope, labels.percent(sparsity))
        rows.append((setting, _entries(values, metrics, cell.runs if cell else (), comparable)))
    used = list(dict.fromkeys(cell for row in table["rows"] if (cell := _found(row, cells))))
    words = ("paper", "here", "difference") if comparable else ("paper", "here")
    return Table(
        key=f"expected-{number}", title=f"Published and measured: {theirs}, {ours}", paper=table["name"],
        labels=("method", "scope", "sparsity"), rows=tuple(rows), published=True,
        columns=tuple(f"{metric}, {word}" for metric in metrics for word in words),
        notes=(_dense(table, dense, same), *_special(used, table["schedule"]), *cautions(used)),
    )  # fmt: skip


def _whole_test_split(run: RunRecord) -> bool:
    split = (run.results.get("dataset") or {}).get("split")
    return run.results.get("limit") is None and split not in ("train", "validation")


def _dense(table: Mapping[str, Any], dense: Sequence[RunRecord], same: bool) -> str:
    """How far the numbers can be held against each other, by the models that they begin with."""
    if not same:
        theirs = f"{table['model']} on {table['dataset']}"
        return f"CAUTION: the paper's numbers are of {theirs}: compare the order of the numbers here, not their values"
    if not table["dense"]:
        return f"the paper says of its dense {table['model']} no metric: whether it is the same is not known"
    metric, value = table["metrics"][0], table["dense"][0]
    ours = mean_of(dense, metric)
    if ours.value is None:
        return f"CAUTION: the paper's dense model has {metric} {value}; add the idvl eval of the one here to compare"
    return f"the paper's dense model has {metric} {value}, the one here {ours.value:.1f}: compare what is lost of it"


def _special(cells: Sequence[Replicates], schedule: str) -> list[str]:
    """The settings of their own that cells of the table have."""

    def is_special(cell: Replicates) -> bool:
        words = {*cell.method.extra.split(", "), cell.method.weighting} - {"", schedule}
        return bool(words) or any(run.signature.get("prune.schedule", schedule) != schedule for run in cell.runs)

    methods = [str(cell.method) for cell in cells if is_special(cell)]
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


def _found(row: Sequence[Any], cells: Sequence[Replicates]) -> Replicates | None:
    """The cell of a row: the one with the fewest settings of its own."""
    criterion, id_weight, scope, sparsity = row[:4]
    fitting = [
        cell
        for cell in cells
        if (cell.method.criterion, cell.method.id_weight, cell.scope) == (criterion, id_weight, scope)
        and abs(cell.sparsity - sparsity) < CLOSE
    ]
    return min(fitting, key=lambda cell: len(cell.method.extra + cell.method.weighting), default=None)


def _one_shot(cell: Replicates) -> bool:
    return any(map(is_one_shot, cell.runs))
