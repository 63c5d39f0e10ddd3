"""Datasets whose documents are damaged one field at a time: each is read, or refused in a line."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idvl.data.samples import select
from idvl.errors import RunError, UsageError
from tests.support.damage import GONE, damaged, spots
from tests.support.hub import jpeg

DEEP: Any = "x"
for _ in range(400):
    DEEP = [DEEP]
VALUES = (
    *(GONE, None, "", "x", "\ud800", "\0", "y" * 5_000, 5, -7, 1e308, 10**400, float("nan"), float("inf"), True),
    *([], {}, [[{}]], DEEP, {"a": "b"}, {"bytes": 5}, {"path": "/dev/zero"}, ["x", 5], "../x", "val"),
)
PAIR = {"file_name": "a.jpg", "left_image": "a.jpg", "right_image": "b.jpg", "label": 1, "id": "one", "answers": ["x"]}
ROWS = [{**PAIR, "text": "a dog"}, {**PAIR, "text": ["a cat", {"raw": "two"}], "label": "true"}]
KARPATHY = [
    {"filename": name, "filepath": ".", "split": "val", "sentences": [{"raw": "a dog"}], "cocoid": 1, "imgid": 2}
    for name in ("a.jpg", "b.jpg")
]
EVERYTHING = {"distinct": False, "force": True}
FEATURES = {"label": {"_type": "ClassLabel", "names": ["x", "y"]}, "image": {"_type": "Image"}}


def lines(folder: Path, rows: list) -> Path:
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def table(folder: Path, rows: list) -> Path:
    """A CSV file, whose cells are words; a row that is no object has none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(PAIR), extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: str(value) for key, value in row.items()} for row in rows if isinstance(row, dict))
    (folder / "list.csv").write_bytes(text.getvalue().encode("utf-8", "surrogatepass"))
    return folder / "list.csv"


def karpathy(folder: Path, document: Any) -> Path:
    (folder / "dataset_coco.json").write_text(json.dumps(document))
    return folder


def parquet(folder: Path, metadata: Any) -> Path:
    rows = pa.table({"image": [jpeg(0), jpeg(1)], "label": [0, 1]})
    pq.write_table(rows.replace_schema_metadata({"huggingface": json.dumps(metadata)}), folder / "a.parquet")
    return folder


def cells(folder: Path, rows: list) -> Path:
    """A parquet file of what may be cells; what may not is none."""
    try:
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    except (pa.ArrowException, AttributeError, UnicodeError, OverflowError):
        pq.write_table(pa.table({"image": pa.nulls(2)}), folder / "a.parquet")
    return folder


def saved(folder: Path, documents: dict[str, Any]) -> Path:
    """What `datasets` saved, with other documents."""
    from datasets import ClassLabel, Dataset, Features, Image

    if not (folder / "set").exists():
        features = Features(image=Image(), label=ClassLabel(names=["x", "y"]))
        images = [{"bytes": jpeg(i), "path": None} for i in range(2)]
        Dataset.from_dict({"image": images, "label": [0, 1]}, features=features).save_to_disk(folder / "set")
    for name, document in documents.items():
        (folder / "set" / name).write_text(json.dumps(document))
    return folder / "set"


DOCUMENTS: dict[str, tuple[Callable[[Path, Any], Path], Any]] = {
    "metadata.jsonl": (lines, ROWS),
    "csv": (table, ROWS),
    "karpathy": (karpathy, {"images": KARPATHY}),
    "parquet metadata": (parquet, {"info": {"features": FEATURES}}),
    "parquet cells": (cells, [{"image": "a.jpg", "caption": "a dog", "label": 1, "id": 1}]),
    "save_to_disk": (
        saved,
        {
            "state.json": {
                "_data_files": [{"filename": "data-00000-of-00001.arrow"}],
                "_fingerprint": "f",
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": None,
            },
            "dataset_info.json": {"features": {"image": {"_type": "Image"}, "label": FEATURES["label"]}},
        },
    ),
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_one_damaged_field_ends_in_samples_or_in_one_line(kind: str, tmp_path: Path) -> None:
    write, document = DOCUMENTS[kind]
    for i, name in enumerate(("a.jpg", "b.jpg")):
        (tmp_path / name).write_bytes(jpeg(i))
    assert select(str(write(tmp_path, document)), **EVERYTHING).samples
    turn = itertools.cycle(VALUES)
    # of every field two values, the next ones in turn; the names of the files that datasets saved are no fields
    for spot in [*spots(document)] * 2:
        if kind == "save_to_disk" and len(spot) == 1:
            continue
        value = next(turn)
        path = write(tmp_path, damaged(document, spot, value))
        try:
            found = select(str(path), **EVERYTHING)
            assert {image.mode for sample in found.samples for image in sample.images} <= {"RGB"}
            json.dumps(found.description, ensure_ascii=False, allow_nan=False).encode()
        except (UsageError, RunError) as error:
            assert "\n" not in str(error) and len(str(error)) < 2_000, (spot, value)
        except Exception as error:
            pytest.fail(f"{spot} = {str(value)[:50]!r} ends in {error!r}")
