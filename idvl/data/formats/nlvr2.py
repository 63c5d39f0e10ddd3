"""BLIP's annotations of NLVR2: nlvr_train.json, nlvr_dev.json and nlvr_test.json beside the pairs of images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from idvl.data.catalog import CatalogEntry
from idvl.data.formats.table import DataTable, Row, table_of
from idvl.data.splits import choose_split
from idvl.errors import UsageError, quoted
from idvl.files import read_bytes

# files of a folder -> their splits; test is the public half, test-P
NAMES = {"nlvr_train.json": "train", "nlvr_dev.json": "dev", "nlvr_test.json": "test"}
# bytes; the largest has 30 million
LARGEST_ANNOTATIONS = 1 << 30
# what idvl's entry of the catalogue calls them
IMAGES = ("left_image", "right_image")


def nlvr2(files: list[Path], split: str | None, entry: CatalogEntry | None) -> DataTable:
    """Pairs of images (left, right) with a sentence and "True" or "False", of one of the files.

    Raises UsageError for an unknown split, and for a file of another form, with the entry.
    """
    by_split = {NAMES[file.name]: file for file in files}
    folder = files[0].parent
    name = choose_split(split, by_split, where=str(folder), entry=entry)
    path = by_split[name]
    try:
        pairs = json.loads(read_bytes(path, LARGEST_ANNOTATIONS).decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(pairs, list) or not pairs:
        raise UsageError(f"{path} is not BLIP's annotations of NLVR2: expected a list of pairs")
    rows = [_row(pair, number, path) for number, pair in enumerate(pairs)]
    prefix = _prefix(folder, rows)
    moved = [{**row, **{key: f"{prefix}{row[key]}" for key in IMAGES}} for row in rows]
    return table_of(moved, folder, name)


def _row(pair: Any, number: int, path: Path) -> Row:
    images = pair.get("images") if isinstance(pair, dict) else None
    if not isinstance(images, list) or len(images) != 2 or not all(isinstance(image, str) for image in images):
        raise UsageError(
            f"{path}: entry {number} is {quoted(pair)}, expected {{'images': [left, right], 'sentence', 'label'}}"
        )
    return {
        "id": f"{Path(path).stem}-{number}",
        **dict(zip(IMAGES, images, strict=True)),
        "question": pair.get("sentence"),
        "answer": pair.get("label"),
        # the same under its usual name, which is found where no entry of the catalogue names the columns
        "label": pair.get("label"),
    }


def _prefix(folder: Path, rows: list[Row]) -> str:
    """Where the images lie beside the annotations: as named, or below images/; tried on the first hundred."""
    for prefix in ("", "images/"):
        if any(os.path.isfile(folder / f"{prefix}{row['left_image']}") for row in rows[:100]):
            return prefix
    first = f"{folder / rows[0]['left_image']}"
    raise UsageError(f"the images of the annotations are not in the same folder: no {quoted(first)}")
