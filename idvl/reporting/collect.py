"""A study: the runs in some folders. Folders that hold no run, or one that cannot be read, keep their reason."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from idvl import json_file
from idvl.errors import UsageError, quoted
from idvl.json_schema import Schema
from idvl.reporting.run_folder import has_schema, read_run
from idvl.reporting.run_record import ENDS, Kind, RunRecord
from idvl.runs import MATRIX

# how an unfinished run is continued, whose command may have had no --output
CONTINUE = "continue with the same command and --output {}"


class MatrixLine(Schema):
    """A line of matrix.jsonl: a run of a sweep."""

    state: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs that are looked at together, in the order given, and the folders that are none with the reason.

    `matrices`: those whose cells are not all among the runs, and what is missing.
    """

    runs: tuple[RunRecord, ...]
    refused: tuple[tuple[str, str], ...] = ()
    matrices: tuple[tuple[str, str], ...] = ()

    def of(self, *kinds: Kind) -> list[RunRecord]:
        """The finished runs of these kinds."""
        return [run for run in self.runs if run.kind in kinds and run.finished]

    @cached_property
    def saved(self) -> dict[str, RunRecord]:
        """The run of prune that saved a model, by the model's fingerprint where it is known, and by its folder."""
        runs: dict[str, RunRecord] = {}
        for run in self.of("prune"):
            path = os.path.abspath(run.folder / "model")
            for key in (run.saved_fingerprint, path, os.path.realpath(path)):
                if key:
                    runs.setdefault(key, run)
        return runs


def collect(folders: Sequence[Path | str]) -> Study:
    """Read the runs in `folders`: run folders, or folders that hold some, at any depth.

    UsageError where a folder is not there, and where none of them holds a run.
    """
    by_path: dict[str, Path] = {}
    refused: list[tuple[Path, str]] = []
    for folder in map(Path, folders):
        if not os.path.lexists(folder):
            raise UsageError(f"there is no folder {quoted(folder)}: name run folders, as in runs/*")
        with_run, damaged = _look(folder)
        for path in with_run:
            by_path.setdefault(os.path.realpath(path), path)
        refused += damaged or ([] if with_run else [(folder, _why_none(folder))])
    runs = []
    for folder in by_path.values():
        run = _guarded(folder, label_of(folder))
        if isinstance(run, RunRecord):
            runs.append(run)
        else:
            refused.append((folder, run))
    above = dict.fromkeys(folder.parent for folder in by_path.values())
    study = Study(
        runs=tuple(runs),
        refused=tuple((label_of(folder), why) for folder, why in refused),
        matrices=tuple((label_of(folder), why) for folder in above if (why := _missing(folder))),
    )
    refuse_empty(study)
    return study


def refuse_empty(study: Study) -> None:
    """UsageError for a study without a run."""
    if not study.runs:
        reasons = "; ".join(f"{name}: {why}" for name, why in study.refused[:3])
        raise UsageError(f"no run to analyze ({reasons}): make one with idvl estimate-id, prune or eval")


def unforeseen(error: Exception) -> str:
    """Why a run is left out that damages what no check here knows."""
    name = type(error).__name__
    return f"left out: it is damaged in a way that idvl does not know ({name}: {json_file.reason(error)})"


def _guarded(folder: Path, label: str) -> RunRecord | str:
    """The run, or why it is left out: one run never takes the page from the others."""
    try:
        return read_run(folder, label)
    except Exception as error:
        return unforeseen(error)


def _missing(folder: Path) -> str | None:
    """What is not there of the matrix in a folder; None where it is whole, or there is none."""
    try:
        lines = list(json_file.lines(folder / MATRIX, MatrixLine))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"{MATRIX} cannot be read: {json_file.reason(error)}"
    counts = {state: sum(line.get("state") == state for line in lines) for state in ("failed", "waiting")}
    verbs = {"failed": "failed", "waiting": "have not run"}
    words = [f"{n} of {len(lines)} cells {verbs[state]}" for state, n in counts.items() if n]
    if not words:
        return None
    why = next((f" ({line['reason']})" for line in lines if line.get("state") == "failed" and line.get("reason")), "")
    return f"{' and '.join(words)}{why}: {CONTINUE.format(shlex.quote(label_of(folder)))} --resume"


def _look(folder: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The folder if it is a run, else the runs below it; runs inside of runs belong to these. And what is damaged."""
    with_run, damaged, waiting = [], [], [folder]
    while waiting:
        path = waiting.pop()
        try:
            os.stat(os.path.join(path, "."))  # refused where nothing in it can be looked at
            if _is_run(path):
                with_run.append(path)
                continue
            with os.scandir(path) as entries:
                below = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError as error:
            damaged += [(path, f"cannot be read: {json_file.reason(error)}")] if path != folder else []
            continue
        if path != folder and os.path.lexists(path / "run.json") and not os.path.lexists(path / MATRIX):
            damaged.append((path, _why_none(path)))
        waiting += [path / name for name in reversed(below)]
    return with_run, damaged


def holds_run(folder: Path) -> bool:
    """Whether the folder is that of a run, or of a matrix of runs."""
    return os.path.lexists(folder / MATRIX) or _is_run(folder)


def _is_run(folder: Path) -> bool:
    if os.path.lexists(folder / MATRIX):  # its cells are the runs
        return False
    return _has_record(folder) or any(has_schema(folder / name) for name in ENDS.values())


def _has_record(folder: Path) -> bool:
    """Whether there is a run.json of any idvl's, or one that cannot be read."""
    try:
        record = json_file.load(folder / "run.json", limited=True)
    except OSError:
        return os.path.lexists(folder / "run.json")
    except ValueError:
        return True
    return isinstance(record, dict) and str(record.get("schema")).startswith("idvl/run/")


def _why_none(folder: Path) -> str:
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            return "a file, not the folder of a run"
        if os.path.lexists(folder / MATRIX):
            return _missing(folder) or "none of its cells is there"
        if (folder / "run.json").exists():
            return "its run.json was not written by idvl"
        return "no run folder (no run.json), and none below it" if os.listdir(folder) else "empty"
    except OSError as error:
        return f"cannot be read: {json_file.reason(error)}"


def label_of(path: Path) -> str:
    """The path from the current folder where it is inside, else as it was given; bytes that are no text as \\xff."""
    plain = Path(os.path.normpath(path))
    path = plain if os.path.realpath(plain) == os.path.realpath(path) else path
    here = Path.cwd()
    path = path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")
