"""Samples side by side: what several runs said about the same image, beside what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from idvl import json_file
from idvl.json_schema import Schema
from idvl.reporting.collect import Study
from idvl.reporting.groups import Group, groups_of, model_of, runs_in
from idvl.reporting.labels import percent
from idvl.reporting.lineage import dense_runs
from idvl.reporting.run_record import RunRecord
from idvl.schemas import Word

SAMPLES, MODELS = 9, 6
# characters of a text that a page shows; predictions of a run that are looked at
LONGEST, MOST = 1_000, 50_000
KEPT = ("prediction", "top", "label", "references", "answers", "question")


class PredictionLine(Schema):
    """A line of predictions.jsonl: what a model said of a sample, and what it is compared with."""

    id: Word
    prediction: Word | None = None
    label: Word | None = None
    top: list[Word | None] | None = None
    references: list[str] | None = None
    answers: list[str] | None = None
    question: str | None = None


@dataclass(frozen=True, kw_only=True)
class ShownSample:
    """One image: what it is compared with, and (model, its prediction, whether it is that of the dense model)."""

    id: str
    references: tuple[str, ...]
    predictions: tuple[tuple[str, str, bool], ...]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Samples of one subject. `notes` say how they were chosen and what is missing."""

    title: str
    samples: tuple[ShownSample, ...]
    notes: tuple[str, ...]


def galleries(study: Study) -> list[Gallery]:
    """For every subject with predictions some samples; those on which models differ come first."""
    every = []
    groups = groups_of(study)
    for subject in dict.fromkeys(group.subject for group in groups):
        members = [group for group in groups if group.subject == subject]
        every.append(
            _gallery(f"{model_of(members)} on {subject.dataset}", members, dense_runs(runs_in(members), study))
        )
    alone = [run for run in study.of("eval") if not groups]
    every += [_gallery(f"{run.model} on {run.dataset}", [], [run]) for run in alone]
    return [gallery for gallery in every if gallery.samples or gallery.notes]


def _gallery(title: str, groups: Sequence[Group], dense: Sequence[RunRecord]) -> Gallery:
    notes, columns = [], []
    models = [("dense model", dense[0])] if dense else []
    evaluated = [(group, run) for group in groups if (run := next((run for run in group.runs if run.results), None))]
    models += [(f"{group.method}, {group.scope}, {percent(group.sparsity)}", run) for group, run in evaluated[:MODELS]]
    for name, run in models:
        records, trouble = _predictions(run)
        if trouble:
            notes.append(f"{name}: {trouble}")
        if records:
            columns.append((name, records, run))
    if groups and not dense:
        notes.append("what the dense model says is not among these runs: add its idvl eval")
    if len(evaluated) > MODELS:
        notes.append(f"the first {MODELS} of {len(evaluated)} settings are shown")
    shared = [id_ for id_ in columns[0][1] if all(id_ in records for _, records, _ in columns)] if columns else []
    if len(columns) > 1 and not shared:
        notes.append("the predictions of these runs have no sample in common")
    differ = [id_ for id_ in shared if len({_words_of(records[id_], run) for _, records, run in columns}) > 1]
    ids = list(dict.fromkeys([*differ[: SAMPLES - 2], *shared]))[:SAMPLES]
    if shared and len(columns) > 1:
        notes.insert(0, f"models differ on {len(differ):,} of {len(shared):,} samples, which come first")
    return Gallery(title=title, samples=tuple(_sample(id_, columns) for id_ in ids), notes=tuple(notes))


def _predictions(run: RunRecord) -> tuple[dict[str, dict[str, Any]], str | None]:
    """(sample's id -> its record, what is wrong); neither for tasks whose predictions are no words."""
    path = run.folder / run.evaluated.replace("results.json", "predictions.jsonl")
    records: dict[str, dict[str, Any]] = {}
    count, expected = 0, run.results.get("samples")
    try:
        for record in islice(json_file.lines(path, PredictionLine), MOST + 1):
            if _words_of(record, run) is None:
                return {}, None
            if count < MOST:
                records[str(record["id"])] = {key: record.get(key) for key in KEPT}
            count += 1
    except FileNotFoundError:
        return {}, f"no {path.name} in {run.label}"
    except (OSError, ValueError) as error:
        return {}, f"{path.name} of {run.label} cannot be read: {json_file.reason(error)}"
    if expected and count != min(expected, MOST + 1):
        return {}, f"{path.name} of {run.label} has {count:,} samples, its results are of {expected:,}"
    return records, f"only the first {MOST:,} samples are looked at" if count > MOST else None


def _words_of(record: Mapping[str, Any], run: RunRecord) -> str | None:
    """A prediction in words; None where it has none (retrieval)."""
    if record.get("prediction") is not None:
        return _class(record["prediction"], run)
    top = record.get("top")
    return _class(top[0], run) if top else None


def _class(value: Any, run: RunRecord) -> str:
    """The name of a class where the dataset has one."""
    classes = run.results["dataset"].get("classes") or []
    return str(classes[value]) if isinstance(value, int) and 0 <= value < len(classes) else str(value)


def _sample(id_: str, columns: Sequence[tuple[str, Mapping[str, Mapping[str, Any]], RunRecord]]) -> ShownSample:
    _, records, run = columns[0]
    record = records[id_]
    references = record.get("references") or record.get("answers") or ()
    if record.get("label") is not None:
        references = [_class(record["label"], run)]
    question = [f"question: {record['question']}"] if record.get("question") else []
    first = _words_of(record, run)
    predictions = [
        (name, _cut(_words_of(of[id_], which) or ""), _words_of(of[id_], which) == first) for name, of, which in columns
    ]
    texts = dict.fromkeys(_cut(str(text)) for text in [*question, *references])
    return ShownSample(id=_cut(id_), references=tuple(texts), predictions=tuple(predictions))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
