"""A dataset on disk: its rows in a seeded order, uniformly and without replacement, or in their own.

It knows nothing of the Hub.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from idvl.data.catalog import CatalogEntry
from idvl.data.columns import ANSWERS_TO, FILE_NAME, LABEL_NAMES, METADATA_NAMES, SPLIT, Columns, Source, find_columns
from idvl.data.fields import (
    TRUTH_CLASSES,
    as_word,
    is_missing,
    is_truth,
    is_word,
    label,
    names_a_class,
    why_no_class,
)
from idvl.data.folder import table_at
from idvl.data.formats.table import WHOLE, DataTable, Row
from idvl.data.image_spool import ImageSpool
from idvl.data.splits import EVALUATION, SAME_SPLIT, SPLIT_ORDER, same_split
from idvl.errors import UsageError, listed, quoted

# rows drawn at a time once the first draw fell short
REDRAW = 256


def open_path(
    path: Path,
    *,
    split: str | None,
    seed: int | None,
    n: int,
    store: ImageSpool,
    overrides: Columns,
    entry: CatalogEntry | None = None,
    allow_outside: bool = False,
) -> Source:
    """The rows at a path in a uniformly random order, or without a seed in their own, one by one.

    `n` of those drawn are read together, their images into `store`. Images that a table names outside of the
    dataset's folder are no images unless `allow_outside`. The details have the smallest and the largest of all labels
    (`labels`) where classes are numbers without names, or true and false. Raises UsageError for a path without data, an
    unknown split or column, or an unreadable table.
    """
    table = table_at(path, split, entry)
    if table.size == 0:
        raise UsageError(f"{path} holds no rows: nothing to take samples from")
    # a known dataset has other splits; any other folder is what the user made it
    lacks_test = entry is not None and split == EVALUATION and same_split(table.split)[0] == "train"
    distinct = _distinct(path, table, entry)
    columns = find_columns(
        table.names,
        where=str(path),
        overrides=overrides,
        entry=entry,
        pixels=table.pixels,
        is_class=lambda name: bool(cells := distinct(name)) and names_a_class(_kind(cells)),
        metadata=any(file.name.lower() in METADATA_NAMES for file in table.files or [path]),
    )
    classes = _classes(table, columns.label, distinct)
    words = columns.label not in table.classes and classes not in (None, TRUTH_CLASSES)
    folder_of = _folder_of(table)

    def rows() -> Iterator[tuple[str, Row]]:
        for index, row in _ordered(table, columns, seed=seed, n=n, store=store):
            row = _rebased(row, folder_of(index), table.folder, columns)
            row = {**row, columns.label: as_word(row.get(columns.label))} if words else row
            yield _name(row.get(columns.id) if columns.id else None, index), row

    return Source(
        rows=rows(),
        columns=columns,
        folder=table.folder,
        method="whole" if seed is None else "uniform",
        details={"path": str(path), "split": table.split, "rows": table.size, **_labels(table, columns.label, classes)},
        size=table.size,
        classes=classes,
        within=None if allow_outside else path if path.is_dir() else path.parent,
        warnings=[
            *table.warnings,
            *([f"{path} has no split test or validation: {table.split} is read"] if lacks_test else []),
            *_unread_labels(table, columns, overrides, distinct),
            *_unread_questions(table, columns, overrides),
            *_unread_splits(table, columns),
        ],
    )


def _name(cell: Any, index: int) -> str:
    """What a row is called: its id, or its number where it has none."""
    if isinstance(cell, str | int | float) and cell != "":
        return str(cell)
    return str(index) if cell in (None, "") else quoted(cell)


def _folder_of(table: DataTable) -> Callable[[int], Path]:
    """The folder that the images of a row start from, by the row's index."""
    files, ends = [*table.files], np.cumsum([*table.files.values()])
    return lambda index: files[np.searchsorted(ends, index, side="right")].parent if files else table.folder


def _rebased(row: Row, folder: Path, root: Path, columns: Columns) -> Row:
    """A row, whose paths of images start from the `folder` of its file, as seen from the root; an id may be a path too.

    `file_name` always starts there; another column does where there is such a file, else from the root.
    """
    if folder == root:
        return row
    inside, moved = folder.relative_to(root), dict(row)
    for name in {columns.image, columns.second_image, columns.id} - {columns.text, None}:
        cell = row.get(name)
        struct = isinstance(cell, Mapping) and cell.get("bytes") is None
        path = cell.get("path") if struct else cell
        if isinstance(path, str) and path and (name.lower() == FILE_NAME or os.path.isfile(folder / path)):
            path = (inside / path).as_posix()
            moved[name] = {**cell, "path": path} if struct else path
    return moved


def _ordered(
    table: DataTable, columns: Columns, *, seed: int | None, n: int, store: ImageSpool
) -> Iterator[tuple[int, Row]]:
    """All rows with their indices: as they stand, or by seed, then read `n` at a time, later REDRAW."""
    if seed is None:
        yield from enumerate(table.read(range(table.size), columns.read))
        return
    order = np.random.default_rng(seed).permutation(table.size)
    start, size = 0, n
    while start < table.size:
        indices = order[start : start + size].tolist()
        ascending = sorted(indices)
        cells = zip(ascending, table.read(ascending, columns.read), strict=True)
        rows = {index: _spooled(row, columns, store) for index, row in cells}
        yield from ((index, rows[index]) for index in indices)
        start, size = start + size, REDRAW


def _distinct(path: Path, table: DataTable, entry: CatalogEntry | None) -> Callable[[str], list[Any]]:
    """The distinct cells of a column that are not empty, of all splits, the table's own first.

    Of a column with known classes those of the table alone.
    """
    others = cache(lambda: list(_other_splits(path, table, entry)))

    @cache
    def distinct(name: str) -> list[Any]:
        cells = _cells(table, name)
        for other in others() if name not in table.classes else ():
            with suppress(UsageError):  # what another split lacks is its own affair
                cells |= _cells(other, name) if name in other.names else {}
        return list(cells.values())

    return distinct


def _cells(table: DataTable, name: str) -> dict[tuple, Any]:
    """The distinct cells of a column that are not empty, in their order; of those that are no numbers or texts one."""
    cells: dict[tuple, Any] = {}
    read = table.distinct or (lambda name: (row.get(name) for row in table.read(range(table.size), [name])))
    for cell in read(name):
        if cell not in (None, "") and cell == cell:  # not nan
            cells.setdefault((type(cell), cell if isinstance(cell, str | int | float) else None), cell)
    return cells


def _kind(cells: Sequence[Any]) -> Any:
    """The cell that says what labels are: a word, else one that is no class, a number, true or false, or -1."""

    def rank(cell: Any) -> tuple[bool, ...]:
        missing = is_missing(cell)
        return names_a_class(cell), is_truth(cell) or missing, missing

    return next(filter(is_word, cells), None) or min(cells, key=rank, default=None)


def _unread_labels(
    table: DataTable, columns: Columns, overrides: Columns, distinct: Callable[[str], Sequence[Any]]
) -> Iterator[str]:
    """Why columns with the usual names of labels are not read, where there is no other one."""
    if columns.label or overrides.label:
        return
    for name in table.names:
        cell = _kind(distinct(name)) if name.lower() in LABEL_NAMES and name not in columns.read else None
        if is_word(cell):
            words = f"the column {quoted(name)} holds words ({quoted(cell)})"
            yield f"{words}: to read them as classes, set label_column (--label-column {name})"
        elif cell is not None:
            yield f"the column {quoted(name)} is not read as labels: {why_no_class(cell)}"


def _unread_questions(table: DataTable, columns: Columns, overrides: Columns) -> Iterator[str]:
    """That another column is the text, where a table holds questions and answers too."""
    if columns.text is None or columns.answers or overrides.text or overrides.answers:
        return
    written = {name.lower(): name for name in table.names}
    for question, told in ANSWERS_TO.items():
        if {question, told} <= written.keys():
            question, told = written[question], written[told]
            yield (
                f"the text is the column {quoted(columns.text)}: to read {quoted(question)} and its {quoted(told)} "
                f"instead, set text_column (--text-column {question})"
            )


def _unread_splits(table: DataTable, columns: Columns) -> Iterator[str]:
    """That splits named by a column are not told apart."""
    for name in table.names:
        if name not in columns.read and (named := _splits_in(table, name)):
            yield (
                f"the column {quoted(name)} is not read: rows of all its values ({listed(sorted(named))}) are one "
                "split; to keep them apart, put each into a folder train, validation or test"
            )


def _splits_in(table: DataTable, name: str) -> set[str]:
    """The values of a column called SPLIT, or of another that holds spellings of splits alone; none for one split."""
    values: set[str] = set()
    with suppress(UsageError):  # what is wrong with a column that is not read is its own affair
        for row in table.read(range(table.size), [name]):
            cell = row.get(name)
            if name.lower() == SPLIT:
                values.add(str(cell))
            elif isinstance(cell, str) and any(cell.strip().lower() in group for group in SAME_SPLIT):
                values.add(cell)
            elif cell not in (None, ""):
                return set()
    splits = values if name.lower() == SPLIT else {same_split(value.strip()) for value in values}
    return values if len(splits) > 1 else set()


def _spooled(row: Row, columns: Columns, store: ImageSpool) -> Row:
    """The row, its encoded images in the store."""
    row = dict(row)
    for name in {columns.image, columns.second_image} - {None}:
        cell = row.get(name)
        data = cell.get("bytes") if isinstance(cell, Mapping) else cell
        row[name] = store.keep(data) if isinstance(data, bytes) else cell
    return row


def _classes(table: DataTable, label: str | None, distinct: Callable[[str], Sequence[Any]]) -> Sequence[str] | None:
    """The names of the classes: those that the table comes with, or all labels of the column, sorted, if one is a word.

    TRUTH_CLASSES where all are true or false.
    """
    if label is None or label in table.classes:
        return table.classes.get(label)
    cells = distinct(label)
    kind = _kind(cells)
    if is_word(kind):
        return sorted({as_word(cell) for cell in cells if isinstance(cell, str | int | float) and not is_missing(cell)})
    return TRUTH_CLASSES if is_truth(kind) else None


def _other_splits(path: Path, table: DataTable, entry: CatalogEntry | None) -> Iterator[DataTable]:
    """The splits of the same dataset beside a table's, as far as they can be read."""
    for split in SPLIT_ORDER if table.split != WHOLE else ():
        if split != same_split(table.split)[0]:
            with suppress(UsageError):
                yield table_at(path, split, entry)


def _labels(table: DataTable, name: str | None, classes: Sequence[str] | None) -> dict[str, list[int]]:
    """The smallest and the largest class of all rows, where classes are numbers without names, or TRUTH_CLASSES."""
    if name is None or classes not in (None, TRUTH_CLASSES):
        return {}
    numbers = {label(cell, None) for cell in _cells(table, name).values() if names_a_class(cell)} - {None}
    return {"labels": [min(numbers), max(numbers)]} if numbers else {}
