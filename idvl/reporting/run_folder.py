"""A run folder, read: what its documents say, and what is wrong with those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from idvl import json_file, json_schema, yaml_file
from idvl.errors import UsageError
from idvl.files import open_regular
from idvl.json_schema import Schema
from idvl.profile import Profile
from idvl.reporting.allocations import ALLOCATIONS, AllocationsFile
from idvl.reporting.run_record import ENDS, Kind, RunRecord
from idvl.reporting.sensitivity import SensitivityFile
from idvl.runs import MetricLine, RunFile
from idvl.schemas import ReportFile, ResultsFile

T = TypeVar("T")


class RecipeFile(Schema):
    """The part of recipe.yaml that reports show; idvl.recipe checks all of it."""

    class RecipeModel(Schema):
        name: str | None = None

    class RecipeData(Schema):
        dataset: str | None = None
        data_dir: str | None = None

    model: RecipeModel | None = None
    data: RecipeData | None = None
    prune: dict[str, Any] | None = None


def read_run(folder: Path, label: str) -> RunRecord:
    """The run in a folder. Whatever is missing or damaged is left out, and is among its troubles."""
    troubles: list[str] = []
    record = _record(folder, troubles)
    broken = bool(troubles)
    kind = _kind(folder, record)
    parts: dict[str, Any] = {}
    if kind == "prune":
        parts["report"] = _document(folder / "report.json", ReportFile, troubles)
        parts["results"] = _evaluation(folder, parts["report"], troubles)
        parts["dense"] = _profile(folder / "profile" / "profile.json", troubles)
    elif kind == "eval":
        parts["results"] = _document(folder / "results.json", ResultsFile, troubles)
    elif kind == "sensitivity":
        parts["sensitivity"] = _document(folder / "sensitivity.json", SensitivityFile, troubles)
    elif kind == "allocations":
        parts["allocations"] = _document(folder / ALLOCATIONS, AllocationsFile, troubles)
    parts["profile"] = _profile(folder / "profile.json", troubles)
    finished = bool(parts[ENDS[kind].removesuffix(".json")])
    return RunRecord(
        folder=folder,
        label=label,
        kind=kind,
        finished=finished,
        record=record,
        recipe=_attempt(folder / "recipe.yaml", _recipe, troubles) or {},
        last={} if finished else _attempt(folder / "metrics.jsonl", _last, troubles) or {},
        troubles=tuple(troubles),
        broken=broken,
        **parts,
    )


def has_schema(path: Path) -> bool:
    """Whether a file begins as a document of its name by idvl does, of whatever version."""
    try:
        with open_regular(path) as file:
            head = file.read(200).decode("utf-8", errors="replace")
    except OSError:
        return False
    return f'"schema": "idvl/{path.stem}/' in head


def _attempt(path: Path, read: Callable[[Path], T], troubles: list[str]) -> T | None:
    """What `read` makes of a file; None where there is none, and, with the problem recorded, where it is damaged."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except UsageError as error:  # names the file itself
        troubles.append(str(error))
    except (OSError, ValueError) as error:
        troubles.append(f"{path.name} cannot be read: {json_file.reason(error)}")
    return None


def _document(path: Path, schema: type[Schema], troubles: list[str]) -> dict[str, Any]:
    return _attempt(path, lambda path: json_file.read(path, schema, limited=True), troubles) or {}


def _record(folder: Path, troubles: list[str]) -> dict[str, Any]:
    """run.json; {} with the problem recorded if it is missing or damaged."""
    record = _document(folder / "run.json", RunFile, troubles)
    if not record:
        why = troubles.pop() if troubles else "run.json is not there"
        troubles.append(f"{why}: versions and settings are not known")
    return record


def _profile(path: Path, troubles: list[str]) -> Profile | None:
    return _attempt(path, lambda path: Profile.from_json(json_file.load(path, limited=True), path.name), troubles)


def _recipe(path: Path) -> dict[str, Any]:
    return json_schema.check(json_file.sound(yaml_file.load(path), most=json_file.MOST), RecipeFile)


def _last(path: Path) -> dict[str, Any]:
    """The last line of metrics.jsonl: how far an unfinished run came."""
    return json_file.last_line(path, MetricLine)


def _evaluation(folder: Path, report: dict[str, Any], troubles: list[str]) -> dict[str, Any]:
    """The results of a pruned model; {} with the reason recorded if it was not evaluated."""
    if skipped := (report.get("evaluation") or {}).get("skipped"):
        troubles.append(f"not evaluated: {skipped}")
        return {}
    before = len(troubles)
    results = _document(folder / "eval" / "results.json", ResultsFile, troubles)
    if report and not results and len(troubles) == before:
        troubles.append("not evaluated in this folder: no eval/results.json")
    return results


def _kind(folder: Path, record: dict[str, Any]) -> Kind:
    """By what the run ended with, else by what its signature asks for."""
    signature = record.get("signature") or {}
    if "allocations" in signature:
        return "allocations"
    if "prune.criterion" in signature or "recover.method" in signature:
        return "prune"
    for kind, name in ENDS.items():
        if has_schema(folder / name):
            return kind
    if "task" in signature:
        return "eval"
    # what an estimate of its own asks for, and a sensitivity run does not
    return "estimate-id" if "tokens" in signature or not signature else "sensitivity"
