"""A dataset on disk as a table whose rows are taken in a seeded order, uniformly and without replacement.

A folder of images (with metadata.jsonl or metadata.csv), parquet files, JSON lines, a CSV table, a Karpathy
dataset_*.json beside its images, or what `save_to_disk` wrote. It knows nothing of the Hub.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from idvl.data import tables
from idvl.data.catalog import EVALUATION, SAME_SPLIT, SPLIT_ORDER, TRAINING, CatalogEntry, choose_split, wished
from idvl.data.columns import IMAGE_NAMES, SECOND_OF, Columns, Source, find_columns
from idvl.data.fields import names_a_class
from idvl.data.image_spool import ImageSpool
from idvl.data.tables import WHOLE, DataTable, Row
from idvl.errors import UsageError, quoted
from idvl.files import open_regular

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
TABLE_NAMES = ("metadata.jsonl", "metadata.csv")
KARPATHY_NAMES = ("dataset_coco.json", "dataset_flickr30k.json", "dataset_flickr8k.json")
_SPELLED = {name for group in SAME_SPLIT for name in group} | set(SPLIT_ORDER)
# rows drawn at a time once the first draw fell short
REDRAW = 256


def open_path(
    path: Path,
    *,
    split: str | None,
    seed: int | None,
    wanted: int,
    store: ImageSpool,
    asked: Columns,
    entry: CatalogEntry | None = None,
    allow_outside: bool = False,
) -> Source:
    """The rows at a path in a uniformly random order, or without a seed in their own, one by one.

    `wanted` of those drawn are read together, their images into `store`. Images that a table names outside of the
    dataset's folder are no images unless `allow_outside`. Raises UsageError for a path
    without data, an unknown split or column, or an unreadable table.
    """
    table = _table(path, split, entry, asked)
    if table.size == 0:
        raise UsageError(f"{path} holds no rows: nothing to take samples from")
    first = _firsts(table)
    columns = find_columns(
        table.names,
        where=str(path),
        asked=asked,
        entry=entry,
        pixels=table.pixels,
        is_class=lambda name: first(name) is not None and names_a_class(first(name)),
    )

    def rows() -> Iterator[tuple[str, Row]]:
        for index, row in _ordered(table, columns, seed=seed, wanted=wanted, store=store):
            yield _name(row.get(columns.id) if columns.id else None, index), row

    return Source(
        rows=rows(),
        columns=columns,
        folder=table.folder,
        method="whole" if seed is None else "uniform",
        details={"path": str(path), "split": table.split, "rows": table.size},
        size=table.size,
        classes=_classes(table, columns.label, first),
        within=None if allow_outside else path if path.is_dir() else path.parent,
        warnings=table.warnings,
    )


def _name(cell: Any, index: int) -> str:
    """What a row is called: its id, or its number where it has none."""
    if isinstance(cell, str | int | float) and cell != "":
        return str(cell)
    return str(index) if cell in (None, "") else quoted(cell)


def _ordered(
    table: DataTable, columns: Columns, *, seed: int | None, wanted: int, store: ImageSpool
) -> Iterator[tuple[int, Row]]:
    """All rows with their indices: as they stand, or by seed, then read `wanted` at a time, later REDRAW."""
    if seed is None:
        yield from enumerate(table.read(range(table.size), columns.read))
        return
    order = np.random.default_rng(seed).permutation(table.size)
    start, size = 0, wanted
    while start < table.size:
        indices = order[start : start + size].tolist()
        inside = sorted(indices)
        read = zip(inside, table.read(inside, columns.read), strict=True)
        rows = {index: _put_away(row, columns, store) for index, row in read}
        yield from ((index, rows[index]) for index in indices)
        start, size = start + size, REDRAW


def _firsts(table: DataTable) -> Callable[[str], Any]:
    """The first cell of a column that is not empty; None where all are."""

    def first(name: str) -> Any:
        cells = (row.get(name) for row in table.read(range(table.size), [name]))
        return next((cell for cell in cells if cell not in (None, "")), None)

    return first


def _put_away(row: Row, columns: Columns, store: ImageSpool) -> Row:
    """The row, its encoded images in the store."""
    row = dict(row)
    for name in {columns.image, columns.second_image} - {None}:
        cell = row.get(name)
        data = cell.get("bytes") if isinstance(cell, Mapping) else cell
        row[name] = store.keep(data) if isinstance(data, bytes) else cell
    return row


def _classes(table: DataTable, label: str | None, first: Callable[[str], Any]) -> Sequence[str] | None:
    """The names of the classes: those that the table comes with, or all words that stand in the column, sorted."""
    if label is None or label in table.classes:
        return table.classes.get(label)
    if not isinstance(first(label), str) or names_a_class(first(label)):
        return None
    cells = (row.get(label) for row in table.read(range(table.size), [label]))
    return sorted({cell.strip() for cell in cells if isinstance(cell, str)} - {""})


def _table(path: Path, split: str | None, entry: CatalogEntry | None, asked: Columns) -> DataTable:
    if not path.is_dir():
        return _file(path, split, entry)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return tables.saved(path, split, entry)
    annotations = [path / name for name in KARPATHY_NAMES if (path / name).is_file()]
    preferred = [file for file in annotations if entry and entry.name in file.name]
    if annotations:
        if len(preferred or annotations) > 1:
            raise UsageError(f"{path} holds {' and '.join(file.name for file in annotations)}: name one of the files")
        return tables.karpathy((preferred or annotations)[0], split, entry)
    found = [file for file in sorted(path.rglob("*")) if not file.is_dir() and not _hidden(file, path)]
    files = [file for file in found if file.is_file()]
    if parquet := [file for file in files if file.suffix == ".parquet"]:
        chosen, name = _of_split(parquet, path, split, entry)
        _check_numbered(chosen)
        return tables.parquet(chosen, name)
    if listed := [file for file in files if file.name in TABLE_NAMES]:
        if len({file.parent for file in listed}) < len(listed):
            raise UsageError(f"{path} has both {' and '.join(TABLE_NAMES)} in a folder: remove one, or name its path")
        chosen, name = _of_split(listed, path, split, entry)
        places = {*IMAGE_NAMES, *SECOND_OF.values(), asked.image, asked.second_image} - {asked.text, None}
        rows = [tables.rebased(row, file.parent, path, places) for file in chosen for row in tables.records(file)]
        return tables.listing(rows, path, name)
    lists = [file for file in files if file.suffix == ".jsonl" and file.parent == path]
    if len(lists) == 1:
        return _file(lists[0], split, entry)
    if images := [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]:
        chosen, name = _of_split(images, path, split, entry)
        classes = _class_folders(images, path)
        rows = [{"file_name": file.relative_to(path).as_posix()} for file in chosen]
        if classes:
            rows = [{**row, "label": classes.index(file.parent.name)} for row, file in zip(rows, chosen, strict=True)]
        others = [file.relative_to(path).as_posix() for file in sorted({*found} - {*images})]
        return replace(
            tables.listing(rows, path, name, classes={"label": classes} if classes else {}),
            warnings=[_left_out(others, len(found), path)] if others else [],
        )
    raise UsageError(
        f"{path} holds no dataset: expected images, metadata.jsonl, one .jsonl, parquet files or a dataset_coco.json"
    )


def _check_numbered(files: list[Path]) -> None:
    """UsageError where files are called train-00000-of-00003 and so on, and one of the number is not there."""
    found: dict[tuple[Path, str, str], set[int]] = {}
    for file in files:
        if match := re.fullmatch(r"(.*-)?(\d{5})-of-(\d{5})(-[^-]*)?", file.stem):
            found.setdefault((file.parent, match[1] or "", match[3]), set()).add(int(match[2]))
    for (folder, prefix, of), numbers in found.items():
        if missing := sorted({*range(int(of))} - numbers):
            raise UsageError(
                f"{folder} lacks {prefix}{missing[0]:05d}-of-{of}.parquet ({len(missing)} of {int(of)} missing): "
                "download it again, or name one file to read it alone"
            )


def _left_out(others: list[str], n: int, path: Path) -> str:
    shown = ", ".join([*(quoted(name) for name in others[:3]), *(["..."] if len(others) > 3 else [])])
    return f"left out {len(others)} of the {n} files in {path}, which are not images: {shown}"


def _class_folders(images: list[Path], root: Path) -> list[str]:
    """The classes that folders of images stand for, sorted, as in `datasets`: all equally deep, and more than one.

    Folders that are named like a split are none.
    """
    names = {file.parent.name for file in images}
    depths = {len(file.relative_to(root).parts) for file in images}
    return sorted(names) if len(names) > 1 and depths != {1} and len(depths) == 1 and not names & _SPELLED else []


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _file(path: Path, split: str | None, entry: CatalogEntry | None) -> DataTable:
    try:
        open_regular(path).close()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; pass a folder or a file") from error
    if path.suffix == ".parquet":
        return tables.parquet([path], tables.whole(path, split))
    if path.suffix in (".jsonl", ".csv"):
        return tables.listing(tables.records(path), path.parent, tables.whole(path, split))
    if path.suffix == ".json":
        return tables.karpathy(path, split, entry)
    raise UsageError(f"{path} is not a dataset: expected a folder, .parquet, .jsonl, .csv or a Karpathy .json")


def _of_split(files: list[Path], root: Path, split: str | None, entry: CatalogEntry | None) -> tuple[list[Path], str]:
    """The files of a split, told by a folder's name or the first word of a file's, as in `data/train-00000.parquet`.

    When some files belong to no split, all files together are the split "all", which is then the default.
    """
    spelled = _SPELLED | set(entry.splits if entry else ())
    groups: dict[str, list[Path]] = {}
    for file in files:
        parts = file.relative_to(root).parts
        word = parts[-1].split(".")[0].split("-")[0]
        named = file.suffix.lower() not in IMAGE_SUFFIXES
        words = [*parts[:-1], *([word] if named else [])]
        groups.setdefault(next((part for part in words if part in spelled), WHOLE), []).append(file)
    if WHOLE in groups:
        groups[WHOLE] = files
        if split is None or (split in (TRAINING, EVALUATION) and wished(split, groups, entry) is None):
            return files, WHOLE
    name = choose_split(split, groups, where=str(root), entry=entry)
    return groups[name], name
