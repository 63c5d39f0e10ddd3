"""Carry out a matrix: every cell a run folder of its own inside one folder, each in a process of its own.

cells -> shared profiles -> runs -> matrix.jsonl, a line a cell. A cell that fails is tried once more at the end, and
does not stop the others; an interrupted run is resumed. It does not know how a terminal looks.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from idvl import json_file, runs
from idvl.errors import RunError, UsageError, quoted
from idvl.files import write_text
from idvl.profile import finite
from idvl.recipe import ModelSection, Recipe
from idvl.reporter import Reporter, resumable
from idvl.session import read_by
from idvl.sweep import grid, profiles, remains, restartable
from idvl.sweep.grid import Cell, Grid
from idvl.sweep.worker import Failed, isolated
from idvl.units import duration

TRIES = 2
Work = Callable[..., dict[str, Any]]
# what each word of a matrix's `run` does
WORK: dict[str, Work] = {"prune": restartable.prune, "estimate-id": restartable.measure, "eval": restartable.evaluate}
# whether such a run has left all that it should, as its own --resume sees it
FINISHED = {
    "prune": restartable.is_pruned,
    "estimate-id": restartable.is_measured,
    "eval": restartable.is_evaluated,
}
State = Literal["done", "failed", "waiting", "left out"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """How far a cell is. `seconds` of the try that finished it; `value` of its `headline` among its `metrics`."""

    name: str
    state: State
    settings: Mapping[str, Any]
    published: Mapping[str, float]
    tries: int = 0
    seconds: float | None = None
    headline: str | None = None
    metrics: Mapping[str, float] | None = None
    reason: str | None = None
    trace: str | None = None

    def to_json(self) -> dict[str, Any]:
        return finite(vars(self))


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """Every cell's line, in the order in which they run, those left out last; `folder` None after a plan."""

    lines: list[Line]
    folder: Path | None = None


def run(
    path: Path | str,
    *,
    overrides: Mapping[str, Any],
    folder: Path | None,
    reporter: Reporter,
    budget: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    plan_only: bool = False,
) -> SweepResult:
    """Carry out the matrix in a YAML file. `overrides`: dotted key -> value on top of its base. `budget` in seconds.

    Raises UsageError, before anything is written, for a matrix that is refused; a cell that is refused is left out.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("the cells of a matrix run one after the other, in one process each: launch one process")
    matrix = grid.read(path, overrides)
    left_out = [
        Line(name=name, state="left out", settings={}, published={}, reason=reason)
        for name, reason in matrix.left_out.items()
    ]
    for line in left_out:
        reporter.warn(f"{line.name} is left out: {line.reason}")
    if plan_only:
        return SweepResult(lines=[*(_waiting(cell) for cell in matrix.cells), *left_out])
    if folder and overwrite:
        runs.keep(folder, [matrix.path, *(read for cell in matrix.cells for read in read_by(cell.recipe))])
    if not (resume and folder and (folder / runs.MATRIX).exists()):
        grid.refuse_missing(matrix.cells, matrix.path)
    folder = folder or runs.new_folder(runs.FolderName("matrix", matrix.path.stem))
    with runs.Run.open(folder, recipe=matrix.source, signature={}, resume=resume, overwrite=overwrite) as opened:
        opened.path(runs.MATRIX)
        study = SweepRun(matrix, opened, left_out, reporter)
        with resumable(folder, reporter):
            study.execute(None if budget is None else time.monotonic() + budget)
    return SweepResult(lines=study.every(), folder=folder)


class SweepRun:
    """A matrix in its folder, and how far each cell is."""

    def __init__(self, matrix: Grid, opened: runs.Run, left_out: list[Line], reporter: Reporter):
        self.matrix, self.opened, self.left_out, self.reporter = matrix, opened, left_out, reporter
        earlier = {line.get("name"): line for line in _lines(opened.folder / runs.MATRIX, reporter)}
        self.lines = {cell.name: self._line(cell, earlier.get(cell.name)) for cell in matrix.cells}
        # profiles measured, or found to be of the model as it is, by this process
        self.sound: set[Path] = set()
        self._write()

    def every(self) -> list[Line]:
        """All lines."""
        return [*self.lines.values(), *self.left_out]

    def execute(self, deadline: float | None) -> None:
        """Run what is not done, as long as the time that a cell is expected to take ends before the deadline."""
        pending = deque(cell for cell in self.matrix.cells if self.lines[cell.name].state != "done")
        if finished := len(self.lines) - len(pending):
            self.reporter.note(f"{finished} of {len(self.lines)} cells are done already")
        grid.refuse_missing(pending, self.matrix.path)
        self._refuse_other_models([cell.recipe.model for cell in pending])
        with self.reporter.progress("matrix") as progress:
            while pending:
                progress(len(self.lines) - len(pending), len(self.lines), self._expected(len(pending)))
                each = self._seconds()
                if deadline is not None and time.monotonic() + (each or 0.0) > deadline:
                    self.reporter.warn(f"the budget ends before {len(pending)} runs: --resume continues with them")
                    return
                cell = pending.popleft()
                line = self._attempt(cell)
                if line.state == "waiting":
                    pending.append(cell)
                self.lines[cell.name] = line
                self._write()
                self._tell(line, len(pending))

    def _refuse_other_models(self, models: list[ModelSection]) -> None:
        """UsageError where a model that cells are `models` of is not what it was when other cells of it finished."""
        fingerprints: dict[ModelSection, dict[str, Any]] = {}
        for cell in self.matrix.cells:
            model, folder = cell.recipe.model, self.opened.folder / cell.name
            fingerprint = (runs.read_record(folder) or {"signature": {}})["signature"].get("fingerprint")
            # the fingerprint of a model with a new head is another one
            if (
                self.lines[cell.name].state != "done"
                or model not in models
                or cell.recipe.train.new_head
                or not fingerprint
            ):
                continue
            if model not in fingerprints:
                fingerprints[model] = self._identified(cell)
            if fingerprints[model]:
                runs.refuse_difference(folder, {"fingerprint": fingerprint}, fingerprints[model])

    def _identified(self, cell: Cell) -> dict[str, Any] | None:
        """The fingerprint of a cell's model as it is; None, with a warning, where it does not open."""
        folder = self.opened.folder / cell.name
        try:
            return self._isolated(restartable.identify, cell.recipe, folder, f"the model of {cell.name}")
        except Failed as error:
            self.reporter.warn(f"whether the model of {cell.name} has changed is not known: {error}")
            return None

    def _attempt(self, cell: Cell) -> Line:
        """Run a cell. Its line: done, failed, or waiting for another try."""
        folder = self.opened.folder / cell.name
        line = self.lines[cell.name]
        line = replace(line, tries=line.tries + 1, reason=None, trace=None)
        try:
            if cell.name in self.opened.record["files"]:
                remains.clear(folder)
            self.opened.path(cell.name)
            return replace(line, state="done", **self._carried_out(cell))
        except Failed as error:
            again = line.tries < TRIES and not error.lasting
            return replace(line, state="waiting" if again else "failed", reason=str(error), trace=error.trace)

    def _carried_out(self, cell: Cell) -> dict[str, Any]:
        """Each of a cell's runs in turn; the first one's results, and its seconds. Raises Failed."""
        folder, recipe, run = self.opened.folder / cell.name, self._recipe(cell), self.matrix.run
        if recipe is not cell.recipe:
            shared = profiles.estimation_of(cell.recipe)
            profile = self._profile(shared)
            if profile not in self.sound:
                remains.clear(profile.parent)
                self._isolated(restartable.measure, shared, profile.parent, f"the profile of {cell.name}")
                self.sound.add(profile)
        start = time.perf_counter()
        outcome = self._isolated(WORK[run[0]], recipe, folder, cell.name)
        if run == ("prune", "estimate-id"):
            pruned = profiles.of_pruned(cell.recipe, folder / "model")
            again = self._profiles() / cell.name
            remains.clear(again)
            self._isolated(restartable.measure_again, pruned, again, f"{cell.name}, pruned")
        return {**outcome, "seconds": round(time.perf_counter() - start, 1)}

    def _isolated(self, work: Work, recipe: Recipe, folder: Path, name: str) -> dict[str, Any]:
        return isolated(work, recipe, folder, reporter=self.reporter, name=name)

    def _recipe(self, cell: Cell) -> Recipe:
        """A cell's recipe; where it would begin by estimating a profile, reading the one that it shares."""
        estimation = profiles.estimation_of(cell.recipe) if self.matrix.run[0] == "prune" else None
        return profiles.with_profile(cell.recipe, self._profile(estimation)) if estimation else cell.recipe

    def _profile(self, estimation: Recipe) -> Path:
        return self._profiles() / profiles.shared_name(estimation) / "profile.json"

    def _profiles(self) -> Path:
        return self.opened.path(grid.PROFILES)

    def _line(self, cell: Cell, earlier: dict[str, Any] | None) -> Line:
        """The line of a cell whose folder is finished; of any other one that has had no try yet.

        UsageError for a finished cell of other settings.
        """
        folder = self.opened.folder / cell.name
        if earlier is None or not _is_done(earlier):
            return _waiting(cell)
        before = remains.settings(folder)
        if before is not None:
            remains.refuse_others(folder, *before, self._recipe(cell))
        if before is None or runs.read_record(folder) is None or not self._is_finished(cell):
            self.reporter.warn(f"{cell.name} is run again: files that it left are missing or damaged")
            return _waiting(cell)
        return Line(**{**earlier, "settings": cell.settings, "published": cell.published})

    def _is_finished(self, cell: Cell) -> bool:
        """Whether a cell that was done still has what its runs left."""
        folders = (self.opened.folder / cell.name, self._profiles() / cell.name)
        try:
            return all(FINISHED[work](cell.recipe, folder) for work, folder in zip(self.matrix.run, folders))  # noqa: B905
        except (RunError, UsageError):
            return False

    def _seconds(self) -> float | None:
        """What a cell takes: the mean of those that are done."""
        measured = [line.seconds for line in self.lines.values() if line.state == "done"]
        return statistics.fmean(measured) if measured else None

    def _expected(self, count: int) -> str:
        each = self._seconds()
        return f"{count} to go, about {duration(each * count)}" if each is not None else ""

    def _tell(self, line: Line, count: int) -> None:
        if line.state == "done":
            value = f"{line.headline} {line.metrics[line.headline]:.4g}, " if line.headline else ""
            note = f"; {self._expected(count)}" if count else ""
            self.reporter.note(f"{line.name}: {value}{duration(line.seconds)}{note}")
        else:
            note = "; it is tried again at the end" if line.state == "waiting" else ""
            self.reporter.warn(f"{line.name} failed: {line.reason}{note}")

    def _write(self) -> None:
        text = "".join(json.dumps(line.to_json(), allow_nan=False) + "\n" for line in self.every())
        write_text(self.opened.folder / runs.MATRIX, text)


def _waiting(cell: Cell) -> Line:
    return Line(name=cell.name, state="waiting", settings=cell.settings, published=cell.published)


def _lines(path: Path, reporter: Reporter) -> list[dict[str, Any]]:
    """The lines of a matrix as it was left; none, with a warning, of a damaged file: the folders of cells tell more.

    RunError for a file that cannot be read now.
    """
    try:
        lines = list(json_file.lines(path, runs.MetricLine))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"cannot read {quoted(path)}: {json_file.reason(error)}; no cell was run") from error
    except ValueError as error:
        reporter.warn(
            f"{quoted(path)} is damaged ({json_file.reason(error)}): every cell is opened again, and what is finished "
            "in its folder is kept"
        )
        return []
    return [line for line in lines if isinstance(line.get("name"), str)]


def _is_done(line: Mapping[str, Any]) -> bool:
    """Whether a line read from a file is that of a finished cell, as idvl writes it."""
    metrics, headline = line.get("metrics"), line.get("headline")
    numbers = [line.get("seconds"), *(metrics.values() if isinstance(metrics, dict) else [None])]
    sound = all(isinstance(number, int | float) for number in numbers)
    named = headline is None or (isinstance(headline, str) and sound and headline in metrics)
    return line.get("state") == "done" and line.keys() == set(Line.__dataclass_fields__) and sound and named
