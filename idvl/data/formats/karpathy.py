"""Karpathy's annotations of COCO and Flickr: dataset_*.json beside its images."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from idvl.data.catalog import CatalogEntry
from idvl.data.formats.table import DataTable, Row, table_of
from idvl.data.splits import choose_split
from idvl.errors import UsageError, quoted
from idvl.files import read_bytes

# bytes; COCO's annotations have 144 million
LARGEST_ANNOTATIONS = 1 << 31


def karpathy(path: Path, split: str | None, entry: CatalogEntry | None) -> DataTable:
    """Karpathy's annotations; `train` includes `restval`, as the models of the literature were trained."""
    try:
        images = json.loads(read_bytes(path, LARGEST_ANNOTATIONS).decode("utf-8-sig"))["images"]
        groups: dict[str, list[Row]] = {}
        for number, image in enumerate(images):
            _check_karpathy(image, number, path)
            groups.setdefault(image["split"], []).append(image)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        lines = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        raise UsageError(
            f"{path} is not a Karpathy annotation file: expected {{'images': [{{'filename', 'split', 'sentences'}}]}}"
            f"{'; if each of its lines is an object, rename it to .jsonl' if lines else ''}"
        ) from error
    if not groups:
        raise UsageError(f"{path} lists no images")
    name = choose_split(split, groups, where=str(path), entry=entry)
    selected = groups[name] + (groups.get("restval", []) if name.lower() == "train" else [])
    layout = _layout(path.parent, selected)
    rows = [
        {"file_name": layout(image), "captions": image.get("sentences"), "id": image.get("filename")}
        for image in selected
    ]
    return table_of(rows, path.parent, name)


def _check_karpathy(image: Row, number: int, path: Path) -> None:
    """UsageError for an image whose split or file is no text; KeyError without a split."""
    for key in ("split", "filename", "filepath"):
        value = image["split"] if key == "split" else image.get(key)
        if not isinstance(value, str) and (key == "split" or value is not None):
            raise UsageError(f"{path}: the {key!r} of images[{number}] is {quoted(value)}, expected a text")


def _layout(folder: Path, images: list[Row]) -> Callable[[Row], str | None]:
    """Where the images lie beside the annotations, in `filepath` folders or flat, tried on the first hundred."""

    def under(prefix: str, nested: bool) -> Callable[[Row], str | None]:
        def file(image: Row) -> str | None:
            parts = [prefix, image.get("filepath") or "" if nested else "", image.get("filename") or ""]
            return "/".join(part for part in parts if part) if parts[-1] else None

        return file

    layouts = [under(prefix, nested) for prefix in ("", "images") for nested in (True, False)]
    for layout in layouts:
        if any(os.path.isfile(folder / file) for image in images[:100] if (file := layout(image))):
            return layout
    example = quoted(f"{folder / str(layouts[0](images[0]))}")
    raise UsageError(f"the images of the annotations are not in the same folder: no {example}")
