"""Run folders as plain values: which runs there are, what each measured, and what is wrong with some of them.

Nothing is computed here: a number stays what its file says, and the file is named beside it. Folders that cannot be
read are told with the reason, not dropped in silence. It knows neither tables nor figures.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from idvl import json_file, runs, yaml_file
from idvl.errors import UsageError, quoted
from idvl.files import open_regular
from idvl.json_file import Schema
from idvl.profile import Profile
from idvl.schemas import MatrixLine, MetricLine, RecipeFile, ReportFile, ResultsFile, RunFile, SensitivityFile

Kind = Literal["estimate-id", "prune", "eval", "sensitivity"]
# the file that a finished run of a kind ends with; a run of prune has profile.json too, so it comes first
ENDS: dict[Kind, str] = {
    "prune": "report.json",
    "eval": "results.json",
    "sensitivity": "sensitivity.json",
    "estimate-id": "profile.json",
}


@dataclass(frozen=True, kw_only=True)
class Number:
    """A value with its interval, as a file says it. `value` None: the file has none; `reason` then says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    source: str
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RunRecord:
    """One run folder. `record` is run.json, `recipe` recipe.yaml; `troubles` say what could not be read, and why.

    `broken`: run.json cannot be read, which leaves open what the run was to end with. `dense`: the profile of the model
    before it was pruned, where the run holds one beside a newer `profile`.
    """

    folder: Path
    label: str
    kind: Kind
    finished: bool
    record: dict[str, Any]
    recipe: dict[str, Any]
    profile: Profile | None = None
    dense: Profile | None = None
    report: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    sensitivity: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    troubles: tuple[str, ...] = ()
    broken: bool = False

    @property
    def signature(self) -> dict[str, Any]:
        return self.record.get("signature") or {}

    @property
    def damaged(self) -> bool:
        """Whether the run ended, but not with a file that can be read."""
        return not self.finished and (self.broken or os.path.lexists(self.folder / ENDS[self.kind]))

    @property
    def model(self) -> str:
        """The name of the model that the run began with."""
        asked = (self.recipe.get("model") or {}).get("name")
        described = (self.profile.model if self.profile else None) or self.results.get("model") or {}
        return asked or described.get("name") or "unknown model"

    @property
    def dataset(self) -> str:
        asked = self.recipe.get("data") or {}
        described = self.results.get("dataset") or (self.profile.dataset if self.profile else {})
        return asked.get("dataset") or asked.get("data_dir") or described.get("dataset") or "unknown data"

    @property
    def saved_fingerprint(self) -> str | None:
        """The fingerprint of the model that a run of prune saved, where it is known."""
        found = (self.report.get("verified"), self.results.get("model"))
        return next(filter(None, (part.get("fingerprint") for part in found if part)), None)

    @property
    def evaluated(self) -> str:
        """The name of the results file inside the folder."""
        return "eval/results.json" if self.kind == "prune" else "results.json"

    def source(self, name: str) -> str:
        """How a table names a file of this run."""
        return f"{self.label}/{name}"

    def metrics(self) -> dict[str, Number]:
        """Every metric of the run's evaluation, those without a value included."""
        source = self.source(self.evaluated)
        return {
            name: Number(
                value=_number(found.get("value")),
                low=_number(found.get("low")),
                high=_number(found.get("high")),
                source=source,
                reason=found.get("skipped") or (None if _number(found.get("value")) is not None else "not a number"),
            )
            for name, found in (self.results.get("metrics") or {}).items()
            if isinstance(found, dict)
        }


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
        found: dict[str, RunRecord] = {}
        for run in self.of("prune"):
            place = os.path.abspath(run.folder / "model")
            for key in (run.saved_fingerprint, place, os.path.realpath(place)):
                if key:
                    found.setdefault(key, run)
        return found


def collect(folders: Sequence[Path | str]) -> Study:
    """Read the runs in `folders`: run folders, or folders that hold some, at any depth.

    UsageError where a folder is not there, and where none of them holds a run.
    """
    places: dict[str, Path] = {}
    refused = []
    for folder in map(Path, folders):
        if not os.path.lexists(folder):
            raise UsageError(f"there is no folder {quoted(folder)}: name run folders, as in runs/*")
        found, none = _look(folder)
        for place in found:
            places.setdefault(os.path.realpath(place), place)
        refused += none or ([] if found else [(folder, _why_none(folder))])
    read = [_guarded(place, _label(place)) for place in places.values()]
    refused += [(place, found) for place, found in zip(places.values(), read, strict=True) if isinstance(found, str)]
    found = tuple(run for run in read if isinstance(run, RunRecord))
    told = tuple((_label(place), why) for place, why in refused)
    held = dict.fromkeys(place.parent for place in places.values())
    study = Study(
        runs=found, refused=told, matrices=tuple((_label(folder), why) for folder in held if (why := _missing(folder)))
    )
    refuse_empty(study)
    return study


def refuse_empty(study: Study) -> None:
    """UsageError for a study without a run."""
    if not study.runs:
        told = "; ".join(f"{name}: {why}" for name, why in study.refused[:3])
        raise UsageError(f"no run to analyze ({told}): make one with idvl estimate-id, prune or eval")


def unforeseen(error: Exception) -> str:
    """Why a run is left out that damages what no check here knows."""
    name = type(error).__name__
    return f"left out: it is damaged in a way that idvl does not know ({name}: {json_file.reason(error)})"


def _guarded(folder: Path, label: str) -> RunRecord | str:
    """The run, or why it is left out: one run never takes the page from the others."""
    try:
        return _read(folder, label)
    except Exception as error:
        return unforeseen(error)


def _missing(folder: Path) -> str | None:
    """What is not there of the matrix in a folder; None where it is whole, or there is none."""
    try:
        lines = list(json_file.lines(folder / runs.MATRIX, MatrixLine))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"{runs.MATRIX} cannot be read: {json_file.reason(error)}"
    left = [line for line in lines if line.get("state") in ("waiting", "failed")]
    if not left:
        return None
    return f"{len(left)} of {len(lines)} runs are missing: continue with the same command and --resume"


def _look(folder: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The folder if it is a run, else the runs below it; runs inside of runs belong to these. And what is damaged."""
    found, refused, waiting = [], [], [folder]
    while waiting:
        place = waiting.pop()
        try:
            os.stat(os.path.join(place, "."))  # refused where nothing in it can be looked at
            if _is_run(place):
                found.append(place)
                continue
            with os.scandir(place) as entries:
                below = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError as error:
            refused += [(place, f"cannot be read: {json_file.reason(error)}")] if place != folder else []
            continue
        if place != folder and os.path.lexists(place / "run.json") and not os.path.lexists(place / runs.MATRIX):
            refused.append((place, _why_none(place)))
        waiting += [place / name for name in reversed(below)]
    return found, refused


def holds_run(folder: Path) -> bool:
    """Whether the folder is that of a run, or of a matrix of runs."""
    return os.path.lexists(folder / runs.MATRIX) or _is_run(folder)


def _is_run(folder: Path) -> bool:
    if os.path.lexists(folder / runs.MATRIX):  # its cells are the runs
        return False
    return _has_record(folder) or any(_schema(folder / name) for name in ENDS.values())


def _has_record(folder: Path) -> bool:
    """Whether there is a run.json of any idvl's, or one that cannot be read."""
    try:
        found = json_file.load(folder / "run.json", limited=True)
    except OSError:
        return os.path.lexists(folder / "run.json")
    except ValueError:
        return True
    return isinstance(found, dict) and str(found.get("schema")).startswith("idvl/run/")


def _schema(path: Path) -> str | None:
    """The schema of a document of ours, None for any other file; looked for in its beginning alone."""
    try:
        with open_regular(path) as file:
            head = file.read(200).decode("utf-8", errors="replace")
    except OSError:
        return None
    return path.name if f'"schema": "idvl/{path.stem}/' in head else None


def _why_none(folder: Path) -> str:
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            return "a file, not the folder of a run"
        if (folder / "run.json").exists():
            return "its run.json was not written by idvl"
        return "no run folder (no run.json), and none below it" if os.listdir(folder) else "empty"
    except OSError as error:
        return f"cannot be read: {json_file.reason(error)}"


def _label(place: Path) -> str:
    """The path from the current folder where it is inside, else as it was given; bytes that are no text as \\xff."""
    plain = Path(os.path.normpath(place))
    place = plain if os.path.realpath(plain) == os.path.realpath(place) else place
    here = Path.cwd()
    place = place.relative_to(here) if place.is_absolute() and place.is_relative_to(here) else place
    return os.fsencode(place).decode("utf-8", errors="backslashreplace")


def _read(folder: Path, label: str) -> RunRecord:
    troubles: list[str] = []
    record = _record(folder, troubles)
    broken = bool(troubles)
    kind = _kind(folder, record)
    found: dict[str, Any] = {}
    if kind == "prune":
        found["report"] = _document(folder / "report.json", ReportFile, troubles)
        found["results"] = _evaluation(folder, found["report"], troubles)
        found["dense"] = _profile(folder / "profile" / "profile.json", troubles)
    elif kind == "eval":
        found["results"] = _document(folder / "results.json", ResultsFile, troubles)
    elif kind == "sensitivity":
        found["sensitivity"] = _document(folder / "sensitivity.json", SensitivityFile, troubles)
    found["profile"] = _profile(folder / "profile.json", troubles)
    finished = _finished(folder, kind, found)
    return RunRecord(
        folder=folder,
        label=label,
        kind=kind,
        finished=finished,
        record=record,
        recipe=_recipe(folder / "recipe.yaml", troubles),
        last={} if finished else _last(folder / "metrics.jsonl", troubles),
        troubles=tuple(troubles),
        broken=broken,
        **found,
    )


def _record(folder: Path, troubles: list[str]) -> dict[str, Any]:
    """run.json; {} with the problem recorded if it is missing or damaged."""
    path, before = folder / "run.json", len(troubles)
    record = _document(path, RunFile, troubles)
    if not record:
        why = troubles.pop() if len(troubles) > before else "run.json is not there"
        troubles.append(f"{why}: versions and settings are not known")
    return record


def _document(path: Path, schema: type[Schema], troubles: list[str]) -> dict[str, Any]:
    """The document at `path`; {} if it is missing; {} with the problem recorded if it is damaged or newer."""
    try:
        return json_file.read(path, schema, limited=True)
    except FileNotFoundError:
        return {}
    except OSError as error:
        troubles.append(f"{path.name} cannot be read: {json_file.reason(error)}")
    except ValueError as error:
        troubles.append(str(error))
    return {}


def _evaluation(folder: Path, report: dict[str, Any], troubles: list[str]) -> dict[str, Any]:
    """The results of a pruned model; {} with the reason recorded if it was not evaluated."""
    if skipped := (report.get("evaluation") or {}).get("skipped"):
        troubles.append(f"not evaluated: {skipped}")
        return {}
    before = len(troubles)
    results = _document(folder / "eval" / "results.json", ResultsFile, troubles)
    if report and not results and len(troubles) == before:
        troubles.append("not evaluated: no eval/results.json")
    return results


def _finished(folder: Path, kind: Kind, found: dict[str, Any]) -> bool:
    """Whether the file that a run ends with is there and readable."""
    document = {"prune": "report", "eval": "results", "sensitivity": "sensitivity", "estimate-id": "profile"}[kind]
    return bool(found.get(document)) and (folder / ENDS[kind]).exists()


def _kind(folder: Path, record: dict[str, Any]) -> Kind:
    """By what the run ended with, else by what its signature asks for."""
    signature = record.get("signature") or {}
    if "prune.criterion" in signature:
        return "prune"
    for kind, name in ENDS.items():
        if _schema(folder / name):
            return kind
    if "task" in signature:
        return "eval"
    # what an estimate of its own asks for, and a sensitivity run does not
    return "estimate-id" if "tokens" in signature or not signature else "sensitivity"


def _profile(path: Path, troubles: list[str]) -> Profile | None:
    """The profile in a file, None where there is none; damage is told."""
    try:
        profile = Profile.from_json(json_file.load(path, limited=True), path.name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        troubles.append(f"{path.name} cannot be read: {json_file.reason(error)}")
        return None
    except UsageError as error:
        troubles.append(f"{path.name} was refused: {error}")
        return None
    return profile


def _recipe(path: Path, troubles: list[str]) -> dict[str, Any]:
    try:
        values = json_file.sound(yaml_file.load(path), most=json_file.MOST)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        troubles.append(f"recipe.yaml cannot be read: {json_file.reason(error)}")
        return {}
    try:
        return json_file.check(values, RecipeFile)
    except ValueError as error:
        troubles.append(f"recipe.yaml is damaged: {error}")
        return {}


def _last(path: Path, troubles: list[str]) -> dict[str, Any]:
    """The last line of metrics.jsonl: how far an unfinished run came."""
    try:
        return json_file.last_line(path, MetricLine)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        troubles.append(f"{path.name} has a broken line or cannot be read: {json_file.reason(error)}")
        return {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
