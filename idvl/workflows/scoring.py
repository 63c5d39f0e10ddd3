"""Predictions on disk -> results: metrics with intervals, differences to another run, and what they rest on.

It loads no model: scoring can be repeated at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from idvl import predictions, runs, tasks
from idvl.errors import UsageError
from idvl.files import write_json
from idvl.metrics import bootstrap, other
from idvl.metrics.measured import Measured, Skipped
from idvl.predictions import Record
from idvl.tasks import Scores

SCHEMA = "idvl/results/1"
RESULTS, PREDICTIONS, REFINED = "results.json", "predictions", "matches"
LEVEL = 0.95


def numbers(
    task: str,
    path: Path,
    *,
    seed: int,
    resamples: int,
    compared: Path | None = None,
    other_metrics: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """What a predictions file is worth, as the part of results.json that needs no model.

    `compared`: the results.json of another run. `other_metrics`: metrics of `evaluate` by the name that they get.
    UsageError for a file that is damaged, empty, or of another task.
    """
    draws = {"seed": seed, "resamples": resamples, "level": LEVEL}
    scores = _score(task, path)
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "task": task,
        "headline": tasks.load(task).headline,
        "metrics": {name: _metric(measured, draws) for name, measured in scores.measures.items()}
        | {name: _skipped(skipped) for name, skipped in scores.skipped.items()},
        "bootstrap": draws,
        "scoring": dict(scores.details),
    }
    if other_metrics:
        given, wanted = _pairs(predictions.read(path))
        found["other_metrics"] = {name: other.compute(metric, given, wanted) for name, metric in other_metrics.items()}
    if compared:
        found["compared"] = _difference(task, scores, path, compared, draws)
    return found


def score_again(path: Path, *, task: str | None = None, **options: Any) -> dict[str, Any]:
    """Score a predictions file once more; the results.json beside it, where there is one, gets the new numbers.

    `options` are those of `numbers`. UsageError where neither these files nor `task` say which task it is.
    """
    beside = path.parent / RESULTS
    before = read_results(beside) if beside.exists() else {}
    record = runs.read_record(path.parent) or {"signature": {}}
    task = task or before.get("task") or record["signature"].get("task")
    if task is None:
        raise UsageError(f"nothing beside {path} says which task it is: name it with --task")
    results = before | numbers(task, path, **options)
    if before:
        write_json(beside, results)
    return {"samples": len(predictions.read(path)), **results}


def read_results(path: Path) -> dict[str, Any]:
    """A results.json. UsageError for a file that is none."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as results: {error}") from error
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise UsageError(f"{path} is no results.json of idvl eval (schema {SCHEMA})")
    return results


def _score(task: str, path: Path) -> Scores:
    records, refined = predictions.read(path), path.with_name(f"{REFINED}.jsonl")
    try:
        return tasks.load(task).score(records, predictions.read(refined) if refined.exists() else ())
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path} holds no predictions of the task {task}: no {error} in it") from error


def _metric(measured: Measured, draws: dict[str, Any]) -> dict[str, Any]:
    low, high = bootstrap.interval(measured, **draws)
    return {"value": measured.value, "low": low, "high": high, "interval": measured.interval}


def _skipped(skipped: Skipped) -> dict[str, Any]:
    return {"value": None, "skipped": skipped.reason, "hint": skipped.hint}


def _difference(task: str, scores: Scores, path: Path, results: Path, draws: dict[str, Any]) -> dict[str, Any]:
    """The difference of every metric to another run's, over the same samples, paired."""
    theirs = read_results(results)
    if theirs["task"] != task:
        raise UsageError(f"{results} is of the task {theirs['task']}, not of {task}: nothing to compare")
    their_path = results.with_name(f"{PREDICTIONS}.jsonl")
    ids, their_ids = ([record["id"] for record in predictions.read(each)] for each in (path, their_path))
    if ids != their_ids:
        raise UsageError(
            f"{results} is of other samples: compare runs of the same dataset, --split, --limit and --seed"
        )
    measures = _score(task, their_path).measures
    differences = {
        name: asdict(bootstrap.paired(measured, measures[name], **draws))
        for name, measured in scores.measures.items()
        if name in measures
    }
    return {"results": str(results), "model": theirs["model"]["name"], "differences": differences}


def _pairs(records: Sequence[Record]) -> tuple[list[Any], list[Any]]:
    """(predictions, references) as metrics of `evaluate` take them."""
    wanted = next((key for key in ("references", "answers", "label") if key in records[0]), None)
    if wanted is None:
        raise UsageError("--metric compares texts or classes, and retrieval predicts neither")
    given = [record["prediction"] if "prediction" in record else record["top"][0] for record in records]
    return given, [record[wanted] for record in records]
