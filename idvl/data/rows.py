"""Rows of a table: which column is the image, which the text, which names the row, and what a cell of each holds.

It knows neither where rows come from nor which of them a run takes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idvl.data.catalog import Entry, unknown
from idvl.errors import UsageError

log = logging.getLogger(__name__)

# the usual names, the likeliest first
IMAGE_NAMES = (
    *("image", "img", "images", "picture", "photo", "pixels", "jpg", "jpeg", "png", "webp", "image_bytes"),
    *("file_name", "filename", "image_path", "img_path", "filepath", "file", "path"),
)
TEXT_NAMES = (
    *("caption", "captions", "text", "texts", "sentences", "sentence", "txt", "description", "title", "alt_text"),
    *("question", "answer", "answers", "raw"),
)
ID_NAMES = ("id", "image_id", "img_id", "imgid", "cocoid", "question_id", "key", "__key__", "file_name", "filename")
NO_COLUMN = "none"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that a run reads, None where there is none. `guessed` names those found by their usual names."""

    image: str | None
    text: str | None
    id: str | None
    guessed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rows, each with an id or None, in the order in which they are to be looked at.

    `folder` is what relative image paths start from, `method` how the order came about ("uniform" or "stream"), and
    `details` goes into the description of the selection.
    """

    rows: Iterator[tuple[str | None, Mapping[str, Any]]]
    columns: Columns
    folder: Path | None
    method: str
    details: dict[str, Any]


def find_columns(
    names: Sequence[str],
    *,
    where: str,
    image: str | None = None,
    text: str | None = None,
    entry: Entry | None = None,
    pixels: Sequence[str] | None = None,
) -> Columns:
    """The columns to read: those asked for, else the catalogue's, else those with a usual name.

    `pixels` lists the columns known to hold images (None: any may). `text="none"` takes the images alone. Raises
    UsageError for a column that does not exist, for a catalogued dataset without its images, and when there is
    neither image nor text.
    """
    for asked in (image, text):
        if asked not in (None, NO_COLUMN, *names):
            raise unknown("column", asked, names, hint=f"in {where}")
    found = Columns(
        image=image or _pick(entry and entry.image_column, IMAGE_NAMES, names if pixels is None else pixels),
        text=text or _pick(entry and entry.text_column, TEXT_NAMES, [name for name in names if name != image]),
        id=_pick(entry and entry.id_column, ID_NAMES, names),
    )
    if found.image is None and pixels:
        found = Columns(image=pixels[0], text=found.text, id=found.id)
    if found.image is None and (found.text is None or (entry and entry.image_column)):
        raise UsageError(
            f"{where} has no column of images{'' if found.text else ' or text'} (it has {', '.join(names) or 'none'}): "
            "name it with --image-column, or give --data-dir a folder with the images"
        )
    declared = (image, text, entry and entry.image_column, entry and entry.text_column)
    guessed = tuple(name for name in (found.image, found.text) if name is not None and name not in declared)
    if guessed:
        log.info("%s: taking image = %s, text = %s", where, found.image, found.text)
    return Columns(
        image=found.image, text=None if found.text == NO_COLUMN else found.text, id=found.id, guessed=guessed
    )


def _pick(expected: str | None, usual: Sequence[str], names: Sequence[str]) -> str | None:
    if expected in names:
        return expected
    lowered = {name.lower(): name for name in reversed(names)}
    return next((lowered[name] for name in usual if name in lowered), None)


def encoded_image(cell: Any, folder: Path | None) -> bytes | Path:
    """What a cell of an image column holds, still encoded: the bytes, or the path of the file.

    Raises ValueError when it holds neither.
    """
    if isinstance(cell, Mapping):
        cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, str | Path) and str(cell) and folder is not None:
        return folder / cell
    raise ValueError("no image" if not cell else f"a {type(cell).__name__} where an image is expected")


def texts(cell: Any) -> tuple[str, ...]:
    """The texts in a cell, which is a string, a list of them, or dicts with one (`raw`, `caption` or `text`)."""
    if isinstance(cell, Mapping):
        cell = next((cell[key] for key in ("raw", "caption", "text") if key in cell), None)
    if isinstance(cell, str):
        line = " ".join(cell.encode("utf-8", "ignore").decode("utf-8").split())  # lone surrogates are no text
        return (line,) if line else ()
    if isinstance(cell, Sequence) and not isinstance(cell, bytes):
        return tuple(text for item in cell for text in texts(item))
    return ()
