"""Run folders as plain values: which runs there are, what each measured, and what is wrong with some of them.

Nothing is computed here: a number stays what its file says, and the file is named beside it. Folders that cannot be
read are told with the reason, not dropped in silence. It knows neither tables nor figures.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from idvl import runs, yaml_file
from idvl.errors import RunError, UsageError, quoted
from idvl.profile import Profile
from idvl.reporting import documents

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
class Run:
    """One run folder. `record` is run.json, `recipe` recipe.yaml; `troubles` say what could not be read, and why.

    `dense`: the profile of the model before it was pruned, where the run holds one beside a newer `profile`.
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

    @property
    def signature(self) -> dict[str, Any]:
        return self.record.get("signature") or {}

    @property
    def damaged(self) -> bool:
        """Whether the run ended, but not with a file that can be read."""
        return not self.finished and (self.folder / ENDS[self.kind]).exists()

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

    runs: tuple[Run, ...]
    refused: tuple[tuple[str, str], ...] = ()
    matrices: tuple[tuple[str, str], ...] = ()

    def of(self, *kinds: Kind) -> list[Run]:
        """The finished runs of these kinds."""
        return [run for run in self.runs if run.kind in kinds and run.finished]

    @cached_property
    def saved(self) -> dict[str | Path, Run]:
        """The run of prune that saved a model, by the model's fingerprint where it is known, and by its folder."""
        found: dict[str | Path, Run] = {}
        for run in self.of("prune"):
            fingerprint = (run.results.get("model") or {}).get("fingerprint")
            for key in (fingerprint, (run.folder / "model").resolve()):
                if key:
                    found.setdefault(key, run)
        return found


def collect(folders: Sequence[Path | str]) -> Study:
    """Read the runs in `folders`: run folders, or folders that hold some, at any depth.

    UsageError where a folder is not there, and where none of them holds a run.
    """
    places: dict[Path, Path] = {}
    refused = []
    for folder in map(Path, folders):
        if not folder.exists():
            raise UsageError(f"there is no folder {quoted(folder)}: name run folders, as in runs/*")
        found = list(_runs_in(folder)) if folder.is_dir() else []
        if not found:
            refused.append((str(folder), _why_none(folder)))
        places.update((place.resolve(), place) for place in found if place.resolve() not in places)
    if not places:
        told = "; ".join(f"{name}: {why}" for name, why in refused[:3])
        raise UsageError(f"no run to analyze ({told}): make one with idvl estimate-id, prune or eval")
    held = dict.fromkeys(place.parent for place in places.values())
    return Study(
        runs=tuple(_read(place, _label(place)) for place in places.values()),
        refused=tuple(refused),
        matrices=tuple((_label(folder), why) for folder in held if (why := _missing(folder))),
    )


def _missing(folder: Path) -> str | None:
    """What is not there of the matrix in a folder; None where it is whole, or there is none."""
    try:
        lines = runs.read_metrics(folder / runs.MATRIX)
    except RunError as error:
        return str(error)
    left = [line for line in lines if line.get("state") in ("waiting", "failed")]
    if not left:
        return None
    return f"{len(left)} of {len(lines)} cells are not there: go on with the same command and --resume"


def _runs_in(folder: Path) -> Iterator[Path]:
    """The folder if it is a run, else the runs below it; runs inside of runs belong to these."""
    if _is_run(folder):
        yield folder
        return
    try:
        below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return
    for path in below:
        yield from _runs_in(path)


def _is_run(folder: Path) -> bool:
    if (folder / runs.MATRIX).exists():  # its cells are the runs
        return False
    return runs.read_record(folder) is not None or any(_schema(folder / name) for name in ENDS.values())


def _schema(path: Path) -> str | None:
    """The schema of a document of ours, None for any other file; looked for in its beginning alone."""
    try:
        with path.open(encoding="utf-8") as file:
            head = file.read(200)
    except (OSError, UnicodeDecodeError):
        return None
    return path.name if f'"schema": "idvl/{path.stem}/' in head else None


def _why_none(folder: Path) -> str:
    if not folder.is_dir():
        return "a file, not the folder of a run"
    if (folder / "run.json").exists():
        return "its run.json is no record of idvl's"
    return "no run folder (no run.json), and none below it" if any(folder.iterdir()) else "empty"


def _label(place: Path) -> str:
    """The path from the current folder where it is inside, else as it was given."""
    place = Path(os.path.normpath(place))
    here = Path.cwd()
    return str(place.relative_to(here)) if place.is_absolute() and place.is_relative_to(here) else str(place)


def _read(folder: Path, label: str) -> Run:
    troubles: list[str] = []
    record = _record(folder, troubles)
    kind = _kind(folder, record)
    found: dict[str, Any] = {}
    if kind == "prune":
        found["report"] = documents.read(folder / "report.json", "idvl/report/1", troubles)
        found["results"] = documents.read(folder / "eval" / "results.json", "idvl/results/1", troubles)
        if (folder / "profile" / "profile.json").exists():
            found["dense"] = _profile(folder / "profile" / "profile.json", troubles)
    elif kind == "eval":
        found["results"] = documents.read(folder / "results.json", "idvl/results/1", troubles)
    elif kind == "sensitivity":
        found["sensitivity"] = documents.read(folder / "sensitivity.json", "idvl/sensitivity/1", troubles)
    if (folder / "profile.json").exists():
        found["profile"] = _profile(folder / "profile.json", troubles)
    finished = _finished(folder, kind, found)
    if kind == "prune" and finished and not (folder / "eval" / "results.json").exists():
        told = found["report"].get("evaluation", {}).get("skipped")
        troubles.append(f"not evaluated: {told or 'no eval/results.json'}")
    return Run(
        folder=folder,
        label=label,
        kind=kind,
        finished=finished,
        record=record,
        recipe=_recipe(folder / "recipe.yaml", troubles),
        last={} if finished else _last(folder, troubles),
        troubles=tuple(troubles),
        **found,
    )


def _record(folder: Path, troubles: list[str]) -> dict[str, Any]:
    """run.json; {} with the trouble told where it is none."""
    record = runs.read_record(folder)
    if record is not None:
        wrong = documents.misfit(record, documents.RECORD)
        why = f"is damaged ({wrong})" if wrong else ""
    else:
        why = "is no record of idvl's" if (folder / "run.json").exists() else "is not there"
    if why:
        troubles.append(f"run.json {why}: versions and settings are not known")
    return {} if why else record or {}


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
    try:
        profile = Profile.load(path)
    except UsageError as error:
        troubles.append(f"{path.name} was refused: {error}")
        return None
    layers = {name: vars(layer) | {"estimate": vars(layer.estimate)} for name, layer in profile.layers.items()}
    if wrong := documents.misfit(vars(profile) | {"layers": layers}, documents.PROFILE):
        troubles.append(f"{path.name} is damaged: {wrong}")
        return None
    return profile


def _recipe(path: Path, troubles: list[str]) -> dict[str, Any]:
    try:
        values = yaml_file.load(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        troubles.append(f"recipe.yaml cannot be read: {error}")
        return {}
    if wrong := documents.misfit(values, documents.RECIPE):
        troubles.append(f"recipe.yaml is damaged: {wrong}")
        return {}
    return values


def _last(folder: Path, troubles: list[str]) -> dict[str, Any]:
    """The last line of metrics.jsonl: how far an unfinished run came."""
    try:
        lines = runs.read_metrics(folder / "metrics.jsonl")
    except (RunError, OSError) as error:
        troubles.append(str(error))
        return {}
    return lines[-1] if lines else {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
