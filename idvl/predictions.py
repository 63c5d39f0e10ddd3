"""Predictions on disk: JSON lines, one for each item of a dataset, written as they come and kept once.

Several processes append to a file each; `merge` makes one of them, in the order of the items. It knows neither models
nor what they predict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from idvl import files, json_file
from idvl.errors import RunError, UsageError, first_line, quoted
from idvl.files import disk_errors, read_bytes, write_text

Record = dict[str, Any]
# keys of a record that say what the task was, as far as it has them, with their values where a record lacks them
INPUT_KEYS = dict.fromkeys(("label", "captions", "references", "sentence", "question", "answers")) | {
    "evaluator": "vqa"
}


def file_of(folder: Path, name: str, rank: int = 0) -> Path:
    """The file that a process appends to; the first one's is the one that remains."""
    return folder / (f"{name}-{rank}.jsonl" if rank else f"{name}.jsonl")


def append(path: Path, records: Iterable[Record]) -> None:
    """Add whole lines. RunError when the disk is full."""
    files.append(path, "".join(f"{_line(record)}\n" for record in records).encode())


def collect(
    folder: Path, name: str, ids: Sequence[str], fits: Callable[[int, Record], bool] = lambda number, record: True
) -> tuple[dict[int, Record], int]:
    """(item number -> its record, how many lines could not be used), over the files of all processes.

    A line counts when it is a JSON object whose number and id are those of an item, which it `fits`; of several the
    first.
    """
    records: dict[int, Record] = {}
    dropped = 0
    for path in _files(folder, name):
        with disk_errors(path):
            lines = path.read_bytes().split(b"\n")
        for line in filter(None, lines):
            record = _parsed(line)
            number = record.get("number") if record else None
            is_item = type(number) is int and 0 <= number < len(ids) and record.get("id") == ids[number]
            if is_item and fits(number, record):
                records.setdefault(number, record)
            else:
                dropped += 1
    return records, dropped


def merge(folder: Path, name: str, records: Mapping[int, Record]) -> None:
    """Make NAME.jsonl hold exactly these records, in the order of their numbers, and remove the other files."""
    write_text(file_of(folder, name), "".join(f"{_line(records[number])}\n" for number in sorted(records)))
    for path in _files(folder, name):
        if path != file_of(folder, name):
            path.unlink()


def read(path: Path) -> list[Record]:
    """All records of a finished file, in its order. UsageError for one that is missing, empty or damaged."""
    try:
        lines = read_bytes(path).split(b"\n")
    except OSError as error:
        hint = "give the folder of an idvl eval run, or its predictions.jsonl"
        raise UsageError(f"cannot read the predictions {quoted(path)}: {error.strerror}; {hint}") from error
    records = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record = json_file.parse(line)
                if not isinstance(record, dict):
                    raise ValueError("it is not a JSON object")
            except ValueError as error:
                reason = first_line(error)
                raise UsageError(f"{path} line {number}: {reason}; use --resume to predict it again") from error
            records.append(record)
    if not records:
        raise UsageError(f"{path} holds no predictions: nothing to score")
    return records


def inputs(record: Record) -> dict[str, Any]:
    """What the task was."""
    return {key: record.get(key, usual) for key, usual in INPUT_KEYS.items()}


def _files(folder: Path, name: str) -> list[Path]:
    parts = (path for path in folder.glob(f"{name}-*.jsonl") if path.stem.removeprefix(f"{name}-").isdecimal())
    return [path for path in (file_of(folder, name), *sorted(parts)) if path.exists()]


def _line(record: Record) -> str:
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise RunError(f"the prediction for {record.get('id')} is not a number: is the model damaged?") from error


def _parsed(line: bytes) -> Record | None:
    """The object that a line holds; None where it is none, or one that could not be written: NaN, lone surrogates."""
    try:
        record = json_file.parse(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
