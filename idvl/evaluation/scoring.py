"""Predictions on disk -> results: metrics with intervals, differences to another run, and what they rest on.

It loads no model: scoring can be repeated at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from idvl import json_file, predictions, runs, tasks
from idvl.errors import RunError, UsageError, first_line, quoted
from idvl.files import reading, write_json
from idvl.metrics import bootstrap, other
from idvl.metrics.measured import Measured, Skipped
from idvl.predictions import Record
from idvl.schemas import ResultsFile
from idvl.tasks import TaskScores

RESULTS, PREDICTIONS, REFINED = "results.json", "predictions", "matches"
LEVEL, RESAMPLES, MOST = 0.95, 1_000, 100_000

logger = logging.getLogger(__name__)


def numbers(
    task: str,
    path: Path,
    *,
    seed: int,
    resamples: int,
    fingerprint: str | None = None,
    compared: Path | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    other_metrics: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """What a predictions file is worth, as the part of results.json that needs no model.

    `fingerprint`: of the samples, where it is known. `compared`: the results.json of another run. `settings`: those of
    the predictions, as far as known. `other_metrics`: metrics of `evaluate` by the name that they get.
    UsageError for a file that is damaged, empty, or of another task.
    """
    draws = {"seed": seed, "resamples": resamples, "level": LEVEL}
    scores = _score(task, path)
    results: dict[str, Any] = {
        "schema": ResultsFile.NAME,
        "task": task,
        "headline": tasks.load(task).headline,
        "metrics": {name: _metric(measured, draws) for name, measured in scores.measures.items()}
        | {name: _skipped(skipped) for name, skipped in scores.skipped.items()},
        "bootstrap": draws,
        "scoring": dict(scores.details),
    }
    if other_metrics:
        records = predictions.read(path)
        values = {name: _computed(metric, records) for name, metric in other_metrics.items()}
        results["other_metrics"] = values
    if compared:
        results["compared"] = _difference(task, scores, path, fingerprint, compared, settings, draws)
    return results


def score_again(
    path: Path, *, task: str | None = None, seed: int | None = None, resamples: int | None = None, **options: Any
) -> dict[str, Any]:
    """Score a predictions file once more; the results.json beside it, where there is one, gets the new numbers,
    or a warning says why it cannot.

    `seed` and `resamples` None are those of before; `options` are further ones of `numbers`. UsageError for a file that
    is not whole, and where neither the files beside it nor `task` say which task it is.
    """
    path = path / f"{PREDICTIONS}.jsonl" if path.is_dir() else path
    if path.name == RESULTS:
        raise UsageError(f"{path} holds scores, not predictions: name {path.with_name(f'{PREDICTIONS}.jsonl')}")
    if (compared := options.get("compared")) and compared.is_dir():
        options["compared"] = compared / RESULTS
    count = len(predictions.read(path))
    file = path.parent / RESULTS
    # another file is none of that run
    earlier = read_results(file) if file.exists() and path.stem == PREDICTIONS else {}
    signature = (runs.read_record(path.parent) or {"signature": {}})["signature"]
    task = _task_of(path, task, earlier, signature)
    expected = (signature.get("count") or earlier.get("samples")) if path.stem == PREDICTIONS else None
    if expected is not None and count != expected:
        end = "remove the lines that are repeated" if count > expected else "finish the run with --resume first"
        raise UsageError(f"{path} holds {count} of {quoted(expected)} predictions: {end}")
    draws = earlier.get("bootstrap") or {"seed": 0, "resamples": RESAMPLES}
    seed, resamples = draws["seed"] if seed is None else seed, resamples or draws["resamples"]
    if seed < 0 or not 1 <= resamples <= MOST:
        raise UsageError(f"a bootstrap has 1 to {MOST:,} resamples and a seed of 0 or more, not {resamples} and {seed}")
    scores = numbers(
        task,
        path,
        seed=seed,
        resamples=resamples,
        fingerprint=earlier.get("dataset", {}).get("fingerprint"),
        settings=earlier.get("settings") or {},
        **options,
    )
    earlier_values = {key: value for key, value in earlier.items() if key not in ("compared", "other_metrics")}
    results = earlier_values | scores | {"samples": count}
    if earlier:
        _replace(file, results)
    return results


def _task_of(path: Path, task: str | None, earlier: Mapping[str, Any], signature: Mapping[str, Any]) -> str:
    """The task of a predictions file: as it is given, or as the results or the run beside the file say."""
    task = task or earlier.get("task") or signature.get("task")
    if not isinstance(task, str):
        raise UsageError(f"nothing beside {path} says which task it is: set task (--task)")
    if earlier and earlier["task"] != task:
        raise UsageError(f"{path} is of the task {earlier['task']:.40}, not of {task}")
    return task


def _replace(file: Path, results: Mapping[str, Any]) -> None:
    """Write the new scores of a run, or warn where its folder cannot be written to."""
    try:
        write_json(file, results)
    except UsageError as error:
        logger.warning("%s keeps its earlier scores: %s", file, first_line(error.__cause__ or error))


def comparable(results: Path, task: str, ids: Sequence[str], fingerprint: str | None) -> dict[str, Any]:
    """The results to compare with. UsageError for those of another task or of other samples.

    The same samples may come in another order, as whole splits that are drawn by another seed do.
    """
    document = read_results(results)
    if document["task"] != task:
        raise UsageError(f"{results} is of the task {document['task']:.40}, not of {task}: nothing to compare")
    other_ids = [record.get("id") for record in predictions.read(results.with_name(f"{PREDICTIONS}.jsonl"))]
    # a fingerprint depends on the order
    if list(ids) == other_ids:
        alike = fingerprint in (None, document["dataset"]["fingerprint"])
    else:
        alike = sorted(ids) == sorted(map(str, other_ids))
    if not alike:
        raise UsageError(f"{results} is of other samples: compare runs of one dataset, split, limit and seed")
    return document


def read_results(path: Path) -> dict[str, Any]:
    """A results.json. UsageError for a file that is none."""
    hint = "; give the folder of an idvl eval run, or its results.json"
    with reading(path, "results file", invalid="is not the results of idvl eval", hint=hint):
        return json_file.read(path, ResultsFile)


def is_complete(folder: Path) -> bool:
    """Whether a folder holds predictions and their results."""
    try:
        read_results(folder / RESULTS)
    except UsageError:
        return False
    return (folder / f"{PREDICTIONS}.jsonl").exists()


def values(results: Mapping[str, Any]) -> dict[str, float]:
    """The value of every metric that has one."""
    return {name: metric["value"] for name, metric in results["metrics"].items() if metric["value"] is not None}


def _check(records: Sequence[Record], path: Path) -> None:
    """UsageError unless the lines are those of a finished run: numbered from 0, each for a sample of its own."""
    needed = "each needs number, from 0 on, and an id of its own"
    numbers = [record.get("number") for record in records]
    for line, number in enumerate(numbers, 1):
        if type(number) is not int:
            raise UsageError(f"{path} line {line} has no number ({quoted(number)}): {needed}")
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"{path} repeats predictions, of number {max(numbers, key=numbers.count)} first: remove them")
    if numbers != sorted(numbers):
        raise UsageError(f"{path} is in another order than it was written in: sort its lines by number")
    if numbers != list(range(len(records))):
        first = min({*range(len(records))} - {*numbers})
        raise UsageError(f"{path} lacks predictions, of number {first} first: finish the run with --resume first")
    ids = set()
    for line, record in enumerate(records, 1):
        name = record.get("id")
        if not isinstance(name, str) or name in ids:
            fault = "the id of another line" if isinstance(name, str) else "no id"
            raise UsageError(f"{path} line {line} has {fault} ({quoted(name)}): {needed}")
        ids.add(name)


def _score(task: str, path: Path) -> TaskScores:
    records, beside = predictions.read(path), path.with_name(f"{REFINED}.jsonl")
    refined = predictions.read(beside) if tasks.load(task).refine and beside.exists() else []
    for lines, file in ((records, path), (refined, beside)):
        _check(lines, file)
    if refined and len(refined) != len(records):
        raise UsageError(f"{beside} holds {len(refined)} of {len(records)} lines: finish the run with --resume first")
    try:
        return tasks.load(task).score(records, refined)
    except RunError:
        raise
    except KeyError as error:
        raise UsageError(f"{path} holds no predictions of the task {task}: no {error} in it") from error
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        raise UsageError(f"{path} holds no sound predictions of the task {task}: {error}") from error


def _computed(metric: Any, records: Sequence[Record]) -> dict[str, Any]:
    """What a metric gives, or why it does not: the others are not lost for it."""
    try:
        return other.compute(metric, *_pairs(records))
    except UsageError as error:
        return {"skipped": str(error)}


def _metric(measured: Measured, draws: dict[str, Any]) -> dict[str, Any]:
    low, high = bootstrap.interval(measured, **draws)
    return {"value": measured.value, "low": low, "high": high, "interval": measured.interval}


def _skipped(skipped: Skipped) -> dict[str, Any]:
    return {"value": None, "skipped": skipped.reason, "hint": skipped.hint}


def _difference(
    task: str,
    scores: TaskScores,
    path: Path,
    fingerprint: str | None,
    results: Path,
    settings: Mapping[str, Any],
    draws: dict[str, Any],
) -> dict[str, Any]:
    """The difference of every metric to another run's, over the same samples, paired, and of their settings."""
    records, beside = predictions.read(path), results.with_name(f"{PREDICTIONS}.jsonl")
    ids = [record.get("id") for record in records]
    document = comparable(results, task, ids, fingerprint)
    measures = _score(task, beside).measures
    other_records = predictions.read(beside)
    places = {record["id"]: place for place, record in enumerate(other_records)}
    order = [places[name] for name in ids]
    for record, place in zip(records, order, strict=True):
        own, other_inputs = predictions.inputs(record), predictions.inputs(other_records[place])
        if key := next((key for key in own if own[key] != other_inputs[key]), None):
            raise UsageError(f"{quoted(record['id'])} has another {key!r} in {beside}: compare runs of one dataset")
    differences = {
        name: asdict(bootstrap.paired(measured, replace(measures[name], parts=measures[name].parts[order]), **draws))
        for name, measured in scores.measures.items()
        if name in measures
    }
    theirs = document.get("settings") or {}
    # one that only one of the two records is the other's default
    named = (settings.keys() | theirs.keys()) - {"batch_size"} if settings and theirs else ()
    other_settings = {
        key: [settings.get(key), theirs.get(key)] for key in sorted(named) if settings.get(key) != theirs.get(key)
    }
    about = {"results": str(results), "model": document["model"]["name"], "settings": other_settings}
    return {**about, "differences": differences}


def _pairs(records: Sequence[Record]) -> tuple[list[Any], list[Any]]:
    """(predictions, references) as metrics of `evaluate` take them."""
    key = next((key for key in ("references", "answers", "label") if key in records[0]), None)
    if key is None:
        raise UsageError("metrics of evaluate compare texts or classes, and retrieval predicts neither")
    predicted = [record["prediction"] if "prediction" in record else record["top"][0] for record in records]
    return predicted, [record[key] for record in records]
