"""The numbers of the paper's tables beside the measured ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from idvl.reporting.cells import Cell, Entry, Method, cells_of, dense_runs, entry, model_of
from idvl.reporting.collect import Run, Study
from idvl.reporting.tables import Table, percent

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
    made = []
    for table in published["tables"]:
        judged = [cell for cell in cells if any(run.results.get("task") == table["task"] for run in cell.runs)]
        fitting = [cell for cell in judged if _one_shot(cell) == (table["schedule"] == "one-shot")]
        same = [cell for cell in fitting if cell.subject.dataset == table["dataset"]]
        for subject in dict.fromkeys(cell.subject for cell in same or fitting):
            ours = [cell for cell in fitting if cell.subject == subject]
            if any(_found(row, ours) for row in table["rows"]):
                made.append(_table(table, ours, study, len(made) + 1, same=bool(same)))
    return made


def _table(table: Mapping[str, Any], cells: Sequence[Cell], study: Study, number: int, *, same: bool) -> Table:
    ours = f"{model_of(cells)} on {cells[0].subject.dataset}"
    metrics = table["metrics"]
    rows = []
    if table["dense"]:
        dense = dense_runs(cells, study)
        rows.append((("dense model", "", ""), _entries(table["dense"], metrics, dense, same)))
    for row in table["rows"]:
        criterion, id_weight, scope, sparsity, *values = row
        cell = _found(row, cells)
        labels = (str(Method(criterion, id_weight)), scope, percent(sparsity))
        rows.append((labels, _entries(values, metrics, cell.runs if cell else (), same)))
    words = ("paper", "here", "difference") if same else ("paper", "here")
    theirs = f"{table['model']} on {table['dataset']}"
    caution = (
        f"CAUTION: the paper's numbers are of {theirs}, those here of {ours}: compare their order, not their values"
    )
    return Table(
        key=f"expected-{number}", title=f"Published and measured: {theirs}, {ours}", paper=table["name"],
        labels=("method", "scope", "sparsity"), rows=tuple(rows), notes=() if same else (caution,),
        columns=tuple(f"{metric}, {word}" for metric in metrics for word in words),
    )  # fmt: skip


def _entries(published: Sequence[float], metrics: Sequence[str], runs: Sequence[Run], same: bool) -> tuple[Entry, ...]:
    """For every metric the paper's number, the measured one, and the difference where it means something."""
    found = []
    for value, metric in zip(published, metrics, strict=True):
        measured = entry([run.metrics()[metric] for run in runs if metric in run.metrics()])
        found += [Entry(value=value), measured]
        if same:
            found.append(Entry() if measured.value is None else Entry(value=measured.value - value))
    return tuple(found)


def _found(row: Sequence[Any], cells: Sequence[Cell]) -> Cell | None:
    """The cell of a row: the one with the fewest settings of its own."""
    criterion, id_weight, scope, sparsity = row[:4]
    fitting = [
        cell
        for cell in cells
        if (cell.method.criterion, cell.method.id_weight, cell.scope) == (criterion, id_weight, scope)
        and abs(cell.sparsity - sparsity) < CLOSE
    ]
    return min(fitting, key=lambda cell: len(cell.method.extra), default=None)


def _one_shot(cell: Cell) -> bool:
    return any(run.signature.get("prune.schedule") == "one-shot" for run in cell.runs)
