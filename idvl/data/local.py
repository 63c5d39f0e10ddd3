"""A dataset on disk as a table whose rows are taken in a seeded order, uniformly and without replacement.

A folder of images (with metadata.jsonl or metadata.csv), parquet files, JSON lines, a CSV table, a Karpathy
dataset_*.json beside its images, or what `save_to_disk` wrote. It knows nothing of the Hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from idvl.data import tables
from idvl.data.catalog import SAME_SPLIT, SPLIT_ORDER, TRAINING, Entry, choose_split
from idvl.data.rows import Source, find_columns
from idvl.data.tables import WHOLE, Row, Table
from idvl.errors import UsageError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
TABLE_NAMES = ("metadata.jsonl", "metadata.csv")
KARPATHY_NAMES = ("dataset_coco.json", "dataset_flickr30k.json", "dataset_flickr8k.json")
# rows drawn at a time once the first draw fell short
REDRAW = 256


def open_path(
    path: Path,
    *,
    split: str | None,
    seed: int,
    wanted: int,
    entry: Entry | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
) -> Source:
    """The rows at a path in a uniformly random order; `wanted` of them are read together.

    Raises UsageError for a path without data, an unknown split or column, or an unreadable table.
    """
    table = _table(path, split, entry)
    if table.size == 0:
        raise UsageError(f"{path} holds no rows: nothing to take samples from")
    columns = find_columns(
        table.names, where=str(path), image=image_column, text=text_column, entry=entry, pixels=table.pixels
    )

    def rows() -> Iterator[tuple[str | None, Row]]:
        order = np.random.default_rng(seed).permutation(table.size)
        start, size = 0, wanted
        while start < table.size:
            indices = order[start : start + size].tolist()
            for index, row in zip(indices, table.take(indices), strict=True):
                name = row.get(columns.id) if columns.id else None
                yield str(index if name is None else name), row
            start, size = start + size, REDRAW

    details = {"path": str(path), "split": table.split, "rows": table.size}
    return Source(rows=rows(), columns=columns, folder=table.folder, method="uniform", details=details)


def _table(path: Path, split: str | None, entry: Entry | None) -> Table:
    if path.is_file():
        return _file(path, split, entry)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return tables.saved(path, split, entry)
    annotations = [path / name for name in KARPATHY_NAMES if (path / name).is_file()]
    preferred = [file for file in annotations if entry and entry.name in file.name]
    if annotations:
        if len(preferred or annotations) > 1:
            raise UsageError(f"{path} holds {' and '.join(file.name for file in annotations)}: name one of the files")
        return tables.karpathy((preferred or annotations)[0], split, entry)
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and not _hidden(file, path)]
    if parquet := [file for file in files if file.suffix == ".parquet"]:
        chosen, name = _of_split(parquet, path, split, entry)
        return tables.parquet(chosen, name)
    if listed := [file for file in files if file.name in TABLE_NAMES]:
        chosen, name = _of_split(listed, path, split, entry)
        rows = [tables.rebased(row, file.parent.relative_to(path)) for file in chosen for row in tables.records(file)]
        return tables.listing(rows, path, name)
    lists = [file for file in files if file.suffix == ".jsonl" and file.parent == path]
    if len(lists) == 1:
        return _file(lists[0], split, entry)
    if images := [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]:
        chosen, name = _of_split(images, path, split, entry)
        return tables.listing([{"file_name": file.relative_to(path).as_posix()} for file in chosen], path, name)
    raise UsageError(
        f"{path} holds no dataset: expected images, metadata.jsonl, one .jsonl, parquet files or a dataset_coco.json"
    )


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _file(path: Path, split: str | None, entry: Entry | None) -> Table:
    if path.suffix == ".parquet":
        return tables.parquet([path], tables.whole(path, split))
    if path.suffix in (".jsonl", ".csv"):
        return tables.listing(tables.records(path), path.parent, tables.whole(path, split))
    if path.suffix == ".json":
        return tables.karpathy(path, split, entry)
    raise UsageError(f"{path} is no dataset: expected a folder, .parquet, .jsonl, .csv or a Karpathy .json")


def _of_split(files: list[Path], root: Path, split: str | None, entry: Entry | None) -> tuple[list[Path], str]:
    """The files of a split, told by a folder's name or the first word of a file's, as in `data/train-00000.parquet`.

    When some files belong to no split, all files together are the split "all", which is then the default.
    """
    spelled = {name for group in SAME_SPLIT for name in group} | set(SPLIT_ORDER)
    groups: dict[str, list[Path]] = {}
    for file in files:
        parts = file.relative_to(root).parts
        word = parts[-1].split(".")[0].split("-")[0]
        named = file.suffix.lower() not in IMAGE_SUFFIXES
        words = [*parts[:-1], *([word] if named else [])]
        groups.setdefault(next((part for part in words if part in spelled), WHOLE), []).append(file)
    if WHOLE in groups:
        groups[WHOLE] = files
        if split is None or (split == TRAINING and not groups.keys() & {"train", "training"}):
            return files, WHOLE
    name = choose_split(split, groups, where=str(root), entry=entry)
    return groups[name], name
