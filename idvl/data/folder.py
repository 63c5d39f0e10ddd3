"""A path on disk as a table: the format of what is there, and which of its files belong to the split.

It chooses no rows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from idvl.data.catalog import CatalogEntry
from idvl.data.columns import IMAGE_NAMES, SECOND_OF, Columns
from idvl.data.formats.karpathy import karpathy
from idvl.data.formats.parquet import parquet
from idvl.data.formats.records import records
from idvl.data.formats.saved import saved
from idvl.data.formats.table import WHOLE, DataTable, Row, table_of, whole
from idvl.data.splits import EVALUATION, SAME_SPLIT, SPLIT_ORDER, TRAINING, choose_split, spelling_of
from idvl.errors import UsageError, quoted
from idvl.files import open_regular

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
KARPATHY_NAMES = ("dataset_coco.json", "dataset_flickr30k.json", "dataset_flickr8k.json")
# the column whose paths start from the metadata's own folder, as in `datasets`
FILE_NAME = "file_name"
_SPELLINGS = {name for group in SAME_SPLIT for name in group} | set(SPLIT_ORDER)


def table_at(path: Path, split: str | None, entry: CatalogEntry | None, overrides: Columns) -> DataTable:
    """The table at a path. Raises UsageError for a path without data, an unknown split or an unreadable table."""
    if not path.is_dir():
        return _of_file(path, split, entry)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return saved(path, split, entry)
    if annotations := _annotations(path, entry):
        return karpathy(annotations, split, entry)
    # not rglob, which raises for a folder that vanishes meanwhile
    listing = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    every = [file for file in sorted(listing) if not _hidden(file, path)]
    files = [file for file in every if os.path.isfile(file)]
    if shards := [file for file in files if file.suffix == ".parquet"]:
        shards, name = _of_split(shards, path, split, entry)
        _check_numbered(shards)
        return parquet(shards, name)
    if metadata := [file for file in files if file.name in METADATA_NAMES]:
        return _of_metadata(metadata, path, split, entry, overrides)
    lists = [file for file in files if file.suffix == ".jsonl" and file.parent == path]
    if len(lists) == 1:
        return _of_file(lists[0], split, entry)
    if images := [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]:
        return _of_images(images, every, path, split, entry)
    raise UsageError(
        f"{path} holds no dataset: expected images, metadata.jsonl, one .jsonl, parquet files or a dataset_coco.json"
    )


def _of_file(path: Path, split: str | None, entry: CatalogEntry | None) -> DataTable:
    try:
        open_regular(path).close()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; pass a folder or a file") from error
    if path.suffix == ".parquet":
        return parquet([path], whole(path, split))
    if path.suffix in (".jsonl", ".csv"):
        return table_of(records(path), path.parent, whole(path, split))
    if path.suffix == ".json":
        return karpathy(path, split, entry)
    raise UsageError(f"{path} is not a dataset: expected a folder, .parquet, .jsonl, .csv or a Karpathy .json")


def _annotations(path: Path, entry: CatalogEntry | None) -> Path | None:
    """Karpathy's file in a folder, of several that of the dataset. UsageError where that leaves more than one."""
    files = [path / name for name in KARPATHY_NAMES if (path / name).is_file()]
    own = [file for file in files if entry and entry.name in file.name]
    if len(own or files) > 1:
        raise UsageError(f"{path} holds {' and '.join(file.name for file in files)}: name one of the files")
    return next(iter(own or files), None)


def _of_metadata(
    metadata: list[Path], path: Path, split: str | None, entry: CatalogEntry | None, overrides: Columns
) -> DataTable:
    """The rows of metadata files, one a folder, that lie beside the images which they name."""
    if len({file.parent for file in metadata}) < len(metadata):
        raise UsageError(f"{path} has both {' and '.join(METADATA_NAMES)} in a folder: remove one, or name its path")
    files, name = _of_split(metadata, path, split, entry)
    columns = {*IMAGE_NAMES, *SECOND_OF.values(), overrides.image, overrides.second_image} - {overrides.text, None}
    rows = [_rebased(row, file.parent, path, columns) for file in files for row in records(file)]
    return table_of(rows, path, name)


def _rebased(row: Row, folder: Path, root: Path, columns: Collection[str]) -> Row:
    """A metadata row, whose paths of images start from the metadata's own `folder`, as seen from the root.

    `file_name` always starts there; another of the `columns` does where there is such a file, else from the root.
    """
    if folder == root:
        return row
    inside = folder.relative_to(root)
    moved = {
        name: (inside / cell).as_posix()
        for name in columns
        if isinstance(cell := row.get(name), str) and cell and (name == FILE_NAME or os.path.isfile(folder / cell))
    }
    return {**row, **moved}


def _of_images(
    images: list[Path], every: list[Path], path: Path, split: str | None, entry: CatalogEntry | None
) -> DataTable:
    """A folder of images without any table, whose folders may be classes; `every` file counts, images or not."""
    files, name = _of_split(images, path, split, entry)
    classes = _class_folders(images, path)
    rows = [{FILE_NAME: file.relative_to(path).as_posix()} for file in files]
    if classes:
        rows = [{**row, "label": classes.index(file.parent.name)} for row, file in zip(rows, files, strict=True)]
    others = [file.relative_to(path).as_posix() for file in sorted({*every} - {*images})]
    return replace(
        table_of(rows, path, name, classes={"label": classes} if classes else {}),
        warnings=[_left_out(others, len(every), path)] if others else [],
    )


def _left_out(others: list[str], n: int, path: Path) -> str:
    names = ", ".join([*(quoted(name) for name in others[:3]), *(["..."] if len(others) > 3 else [])])
    return f"left out {len(others)} of the {n} files in {path}, which are not images: {names}"


def _class_folders(images: list[Path], root: Path) -> list[str]:
    """The classes that folders of images stand for, sorted, as in `datasets`: all equally deep, and more than one.

    Folders that are named like a split are none.
    """
    names = {file.parent.name for file in images}
    depths = {len(file.relative_to(root).parts) for file in images}
    return sorted(names) if len(names) > 1 and depths != {1} and len(depths) == 1 and not names & _SPELLINGS else []


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _check_numbered(files: list[Path]) -> None:
    """UsageError where files are called train-00000-of-00003 and so on, and one of the number is not there."""
    series: dict[tuple[Path, str, str], set[int]] = {}
    for file in files:
        if match := re.fullmatch(r"(.*-)?(\d{5})-of-(\d{5})(-[^-]*)?", file.stem):
            series.setdefault((file.parent, match[1] or "", match[3]), set()).add(int(match[2]))
    for (folder, prefix, of), numbers in series.items():
        if missing := sorted({*range(int(of))} - numbers):
            raise UsageError(
                f"{folder} lacks {prefix}{missing[0]:05d}-of-{of}.parquet ({len(missing)} of {int(of)} missing): "
                "download it again, or name one file to read it alone"
            )


def _of_split(files: list[Path], root: Path, split: str | None, entry: CatalogEntry | None) -> tuple[list[Path], str]:
    """The files of a split, told by a folder's name or the first word of a file's, as in `data/train-00000.parquet`.

    When some files belong to no split, all files together are the split "all", which is then the default.
    """
    spellings = _SPELLINGS | set(entry.splits if entry else ())
    groups: dict[str, list[Path]] = {}
    for file in files:
        parts = file.relative_to(root).parts
        word = parts[-1].split(".")[0].split("-")[0]
        words = [*parts[:-1], *([] if file.suffix.lower() in IMAGE_SUFFIXES else [word])]
        groups.setdefault(next((part for part in words if part in spellings), WHOLE), []).append(file)
    if WHOLE in groups:
        groups[WHOLE] = files
        if split is None or (split in (TRAINING, EVALUATION) and spelling_of(split, groups, entry) is None):
            return files, WHOLE
    name = choose_split(split, groups, where=str(root), entry=entry)
    return groups[name], name
