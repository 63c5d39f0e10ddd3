"""Rows of a table: which column is the image, which the text, the class and so on, and which names the row.

It knows neither where rows come from nor which of them a run takes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from idvl.data.catalog import CatalogEntry
from idvl.errors import UsageError, listed, unknown

log = logging.getLogger(__name__)

# the usual names, the likeliest first
IMAGE_NAMES = (
    *("image", "img", "images", "picture", "photo", "pixels", "jpg", "jpeg", "png", "webp", "image_bytes"),
    *("file_name", "filename", "image_path", "img_path", "filepath", "file", "path", "left_image"),
)
TEXT_NAMES = (
    *("caption", "captions", "text", "texts", "sentences", "sentence", "txt", "description", "title", "alt_text"),
    *("caption_str", "question", "answer", "answers", "raw"),
)
# those of them that rarely hold captions
NOT_CAPTIONS = ("question", "answer", "answers")
# tables whose images are in the column FILE_NAME, as paths from the table's own folder, as in `datasets`
METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_NAME = "file_name"
LABEL_NAMES = ("label", "labels", "fine_label", "class")
# the second image and the answers are only looked for beside these
SECOND_OF = {"left_image": "right_image"}
ANSWERS_TO = {"question": "answers"}
ID_NAMES = (*("id", "question_id", "image_id", "img_id", "imgid", "cocoid", "key", "__key__", "file_name", "filename"),)
NO_COLUMN = "none"
# which often names a row's split, and is not read
SPLIT = "split"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that a user names or that are read, None where there is none.

    `second_image` is of tasks that show two. `guessed` names those found by their usual names; where there are some,
    `unread` names the columns that are not read.
    """

    image: str | None = None
    text: str | None = None
    id: str | None = None
    label: str | None = None
    answers: str | None = None
    second_image: str | None = None
    guessed: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def read(self) -> list[str]:
        """The names of all columns that are read."""
        return [name for name in self.by_use.values() if name is not None]

    @property
    def by_use(self) -> dict[str, str | None]:
        """What is read from which column."""
        return {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("guessed", "unread")
        }


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rows, each with an id or None, in the order in which they are to be looked at.

    `folder` is what relative image paths start from, `within` the folder that no path in a row may leave (None: it
    may), `warnings` what was left out, `method` how the order came about ("uniform", "stream" or "whole"), `size` the
    number of rows where it is known, `classes` the names of the classes where there are some; `details` goes into
    the description of the selection.
    """

    rows: Iterator[tuple[str | None, Mapping[str, Any]]]
    columns: Columns
    folder: Path | None
    method: str
    details: dict[str, Any]
    size: int | None = None
    classes: Sequence[str] | None = None
    within: Path | None = None
    warnings: Sequence[str] = ()


def find_columns(
    names: Sequence[str],
    *,
    where: str,
    overrides: Columns,
    entry: CatalogEntry | None = None,
    pixels: Sequence[str] | None = None,
    is_class: Callable[[str], bool] = lambda name: False,
    metadata: bool = False,
) -> Columns:
    """The columns to read: the `overrides`, else the catalogue's, else those with a usual name.

    `pixels` lists the columns known to hold images (None: any may), `is_class` tells whether a column holds numbers of
    classes. Of `metadata`, FILE_NAME holds the images, unless there is an override or a catalogued pair. "none" in
    place of a name reads nothing. Raises UsageError for a column that does not exist, for a catalogued dataset without
    its images, and when there is neither image nor text.
    """
    for name in overrides.read:
        if name not in (NO_COLUMN, *names):
            raise unknown("column", name, names, hint=f"in {where}")
    catalogued = Columns(**{use: getattr(entry, f"{use}_column", None) for use in Columns().by_use})
    columns = _chosen(names, overrides, catalogued, pixels, is_class, metadata)
    if columns["image"] is None and (columns["text"] is None or catalogued.image):
        lacking = "images" if columns["text"] or overrides.text else "images or text"
        folder = ", or data_dir (--data-dir) to a folder with the images" if entry else ""
        raise UsageError(
            f"{where} has no column of {lacking} (it has {listed(names)}): set image_column (--image-column){folder}"
        )
    declared = (*overrides.read, *catalogued.read)
    guessed = tuple(name for use, name in columns.items() if use != "id" and name is not None and name not in declared)
    if guessed:
        log.info(
            "%s: taking %s", where, ", ".join(f"{use} = {name}" for use, name in columns.items() if name in guessed)
        )
    unread = tuple(name for name in names if name and name not in columns.values()) if guessed else ()
    return Columns(**columns, guessed=guessed, unread=unread)


def _chosen(
    names: Sequence[str],
    overrides: Columns,
    catalogued: Columns,
    pixels: Sequence[str] | None,
    is_class: Callable[[str], bool],
    metadata: bool,
) -> dict[str, str | None]:
    """What is read from which column, as `find_columns` describes it."""
    named = _pick(None, [FILE_NAME], names) if metadata and catalogued.second_image not in names else None
    image = overrides.image or named or _pick(catalogued.image, IMAGE_NAMES, names if pixels is None else pixels)
    if image is None and pixels:
        image = pixels[0]
    taken = (overrides.image, *(each for source in (overrides, catalogued) for each in (source.label, source.answers)))
    others = [name for name in names if name not in taken]
    text = overrides.text or _pick(catalogued.text, TEXT_NAMES, others)
    classes = [name for name in names if name.lower() in LABEL_NAMES and name not in (image, text) and is_class(name)]
    columns = {
        "image": image,
        "text": text,
        "id": _pick(catalogued.id, ID_NAMES, names),
        "label": overrides.label or _pick(catalogued.label, LABEL_NAMES, names, among=classes),
        "answers": overrides.answers or _pick(catalogued.answers, [ANSWERS_TO.get((text or "").lower())], names),
        "second_image": overrides.second_image
        or _pick(catalogued.second_image, [SECOND_OF.get((image or "").lower())], names),
    }
    return {use: None if name == NO_COLUMN else name for use, name in columns.items()}


def _pick(
    expected: str | None, usual: Sequence[str | None], names: Sequence[str], among: Sequence[str] | None = None
) -> str | None:
    """The expected name, else the first usual one, in any case, of those in `among`."""
    if expected in names:
        return expected
    by_lower_case = {name.lower(): name for name in reversed(names if among is None else among)}
    return next((by_lower_case[name] for name in usual if name in by_lower_case), None)
