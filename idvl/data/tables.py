"""Readers of what datasets are on disk: each makes a table whose rows can be taken by index.

They neither choose rows nor say which column is which.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from idvl.data.catalog import CatalogEntry, choose_split
from idvl.errors import QUOTED, UsageError, quoted
from idvl.files import open_regular, read_bytes

# the split of data that is not divided
WHOLE = "all"
# characters of a line of a list, and bytes of Karpathy's annotations, of which COCO's have 144 million
LONGEST_LINE = 1 << 26
LARGEST_ANNOTATIONS = 1 << 31
# rows of a parquet file decoded at a time
PARQUET_BATCH = 64
# bytes of a parquet column read ahead
READ_BUFFER = 1 << 20

# the column whose paths start from the metadata's own folder, as in `datasets`
FILE_NAME = "file_name"

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """`size` rows with the columns `names`; `read` gives those at ascending indices, one by one.

    It may leave out columns that it is not asked for. Image paths start from `folder`. `pixels` lists the columns
    known to hold images (None: any may), `classes` the names of the classes of a column of numbers, `warnings` what was
    left out.
    """

    names: list[str]
    size: int
    read: Callable[[Sequence[int], Sequence[str]], Iterator[Row]]
    folder: Path
    split: str
    pixels: list[str] | None = None
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def whole(path: Path, split: str | None) -> str:
    """The split of undivided data. Raises UsageError when another is asked for."""
    return WHOLE if split is None else choose_split(split, [WHOLE], where=str(path))


def listing(rows: list[Row], folder: Path, split: str, classes: Mapping[str, Sequence[str]] | None = None) -> DataTable:
    """Rows that are in memory; a column that only some of them have counts."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return DataTable(
        names=names,
        size=len(rows),
        read=lambda indices, columns: (rows[index] for index in indices),
        folder=folder,
        split=split,
        classes=classes or {},
    )


def records(path: Path) -> list[Row]:
    """The rows of a .jsonl or .csv file. Raises UsageError for a file that is neither, with the line."""
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            lines = _lines(file, path)
            if path.suffix == ".csv":
                return _cells(lines, path)
            return [_object(line, number, path) for number, line in enumerate(lines, 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}") from error


def _lines(file: io.TextIOWrapper, path: Path) -> Iterator[str]:
    """Line by line. UsageError for one that is longer than LONGEST_LINE: the file is no text."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise UsageError(f"{path} has a line of more than {LONGEST_LINE:,} characters: it is not a list of samples")
        yield line


def _cells(lines: Iterable[str], path: Path) -> list[Row]:
    """The rows of a CSV table, whose first line names the columns; unnamed columns without a cell are left out."""
    parsed = _parsed(lines, path)
    names = next(parsed, (0, []))[1]
    if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        raise UsageError(f"{path} names the column {quoted(twice[0])} twice: give each another name")
    rows, used = [], set()
    for number, cells in parsed:
        if any(cells[len(names) :]):
            raise UsageError(
                f"{path} line {number} has {len(cells)} cells for {len(names)} columns: "
                "put quotation marks around cells that hold commas"
            )
        used.update(at for at, cell in enumerate(cells) if cell and not names[at])
        rows.append(cells)
    if len(used) > 1:
        raise UsageError(f"{path} has {len(used)} columns without a name: give each a name")
    kept = [(at, name) for at, name in enumerate(names) if name or at in used]
    return [{name: cells[at] if at < len(cells) else None for at, name in kept} for cells in rows]


def _parsed(lines: Iterable[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, cells) of each row of a CSV table that is not blank.

    Text may follow a closing quotation mark, as in `"so" she said`, but not in a row of several lines: there the mark
    is rather the next opening one. UsageError for that, and where a mark is never closed.
    """
    csv.field_size_limit(LONGEST_LINE)
    read: list[str] = []
    reader = csv.reader(read.append(line) or line for line in lines)
    try:
        for cells in reader:
            try:
                list(csv.reader(read, strict=True))
            except csv.Error as error:
                if len(read) > 1 or "end of data" in str(error):
                    raise
            read.clear()
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise UsageError(f"{path} line {reader.line_num} is not CSV: {error}") from error


def _object(line: str, number: int, path: Path) -> Row:
    try:
        row = json.loads(line, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} line {number} is not JSON that can be read: {error}") from error
    if not isinstance(row, dict):
        raise UsageError(f"{path} line {number} is a {type(row).__name__}, expected an object")
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. ValueError for one that has a key twice: the last would win in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {quoted(next(name for name in names if names.count(name) > 1))} twice")
    return found


def rebased(row: Row, folder: Path, root: Path, columns: Collection[str]) -> Row:
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
        raise UsageError(
            f"{path} is not a Karpathy annotation file: expected {{'images': [{{'filename', 'split', 'sentences'}}]}}"
        ) from error
    if not groups:
        raise UsageError(f"{path} lists no images")
    name = choose_split(split, groups, where=str(path), entry=entry)
    chosen = groups[name] + (groups.get("restval", []) if name == "train" else [])
    layout = _layout(path.parent, chosen)
    rows = [
        {"file_name": layout(image), "captions": image.get("sentences"), "id": image.get("filename")}
        for image in chosen
    ]
    return listing(rows, path.parent, name)


def _check_karpathy(image: Row, number: int, path: Path) -> None:
    """UsageError for an image whose split or file is no text; KeyError without a split."""
    for key in ("split", "filename", "filepath"):
        value = image["split"] if key == "split" else image.get(key)
        if not isinstance(value, str) and (key == "split" or value is not None):
            raise UsageError(f"{path}: the {key!r} of images[{number}] is {quoted(value)}, expected a text")


def _layout(folder: Path, images: list[Row]) -> Callable[[Row], str | None]:
    """Where the images lie beside the annotations, in `filepath` folders or flat, tried on the first hundred."""

    def under(prefix: str, nested: bool) -> Callable[[Row], str | None]:
        def place(image: Row) -> str | None:
            parts = [prefix, image.get("filepath") or "" if nested else "", image.get("filename") or ""]
            return "/".join(part for part in parts if part) if parts[-1] else None

        return place

    layouts = [under(prefix, nested) for prefix in ("", "images") for nested in (True, False)]
    for layout in layouts:
        if any(os.path.isfile(folder / place) for image in images[:100] if (place := layout(image))):
            return layout
    example = quoted(f"{folder / str(layouts[0](images[0]))}")
    raise UsageError(f"the images of the annotations are not in the same folder: no {example}")


def parquet(files: list[Path], split: str) -> DataTable:
    """Parquet files one after the other, of which only the row groups and columns asked for are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footers = [pq.read_metadata(file) for file in files]
        names = [footer.schema.to_arrow_schema().names for footer in footers]
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{files[0].parent} holds a parquet file that cannot be read: {error}") from error
    classes = [_named_classes(file, footer.metadata or {}) for file, footer in zip(files, footers, strict=True)]
    for file, known, named in zip(files, names, classes, strict=True):
        if twice := [name for name in known if known.count(name) > 1]:
            raise UsageError(f"{file} has two columns {quoted(twice[0])}: give each another name")
        if named != classes[0]:
            raise UsageError(f"{file} and {files[0]} name their classes differently: read them one at a time")
    starts = np.cumsum([0, *(footer.num_rows for footer in footers)])

    def read(indices: Sequence[int], columns: Sequence[str]) -> Iterator[Row]:
        wanted = np.asarray(indices)
        for number, file in enumerate(files):
            inside = _between(wanted, starts[number], starts[number + 1])
            if lacking := [name for name in columns if name not in names[number]]:
                raise UsageError(f"{file} has no column {quoted(lacking[0])}, but {files[0]} has")
            try:
                yield from _parquet_rows(file, inside, columns)
            except MemoryError:  # one of Arrow's exceptions too
                raise
            except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
                raise UsageError(f"{file} is damaged: {error}") from error

    return DataTable(
        names=names[0],
        size=int(starts[-1]),
        read=read,
        folder=files[0].parent,
        split=split,
        classes=classes[0],
    )


def _between(indices: np.ndarray, start: int, end: int) -> np.ndarray:
    """Those of the ascending indices that lie in [start, end), counted from start."""
    first, last = np.searchsorted(indices, [start, end])
    return indices[first:last] - start


def _parquet_rows(path: Path, indices: np.ndarray, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of one file at ascending indices; row groups without any are not read."""
    import pyarrow.parquet as pq

    if not len(indices):
        return
    # without a buffer a whole row group of images is held at once
    with pq.ParquetFile(path, buffer_size=READ_BUFFER) as file:
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            inside = _between(indices, start, end)
            at = 0
            if len(inside):
                for batch in file.iter_batches(PARQUET_BATCH, row_groups=[group], columns=list(columns)):
                    yield from batch.take(_between(inside, at, at + batch.num_rows)).to_pylist()
                    at += batch.num_rows
            start = end


def _named_classes(path: Path, metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The names of classes that `datasets` wrote into a file's metadata, by column. UsageError for anything else."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        kinds = {
            name: kind["names"]
            for name, kind in features.items()
            if isinstance(kind, Mapping) and kind.get("_type") == "ClassLabel"
        }
        if all(isinstance(names, list) and all(isinstance(one, str) for one in names) for names in kinds.values()):
            return kinds
    except (ValueError, AttributeError, KeyError, RecursionError):
        pass
    raise UsageError(
        f"the 'huggingface' metadata of {path} is not what datasets writes: write the file again with datasets, or "
        "without it (pyarrow's replace_schema_metadata)"
    )


def saved(path: Path, split: str | None, entry: CatalogEntry | None) -> DataTable:
    """What `datasets` wrote with save_to_disk, images left encoded."""
    from datasets import ClassLabel, DatasetDict, Image, load_from_disk

    _check_saved(path)
    try:
        data = load_from_disk(str(path))
    except Exception as error:
        said = " ".join(str(error)[:QUOTED].split())
        raise UsageError(f"{path} looks like save_to_disk's but cannot be read: {said}") from error
    if isinstance(data, DatasetDict):
        name = choose_split(split, data, where=str(path), entry=entry)
        data = data[name]
    else:
        name = whole(path, split)
    pixels = [name for name, kind in data.features.items() if isinstance(kind, Image)]
    for column in pixels:
        data = data.cast_column(column, Image(decode=False))

    def read(indices: Sequence[int], columns: Sequence[str]) -> Iterator[Row]:
        try:
            yield from data.select_columns(list(columns)).select(indices)
        except (ValueError, TypeError, OSError, OverflowError) as error:  # Arrow's errors are some of these
            raise UsageError(f"{path} is damaged: {str(error)[:QUOTED]}") from error

    return DataTable(
        names=data.column_names,
        size=len(data),
        read=read,
        folder=path,
        split=name,
        pixels=pixels or None,
        classes={name: kind.names for name, kind in data.features.items() if isinstance(kind, ClassLabel)},
    )


def _check_saved(path: Path) -> None:
    """UsageError where a state names data that is no regular file beside it."""
    for state in (file for file in [path / "state.json", *path.glob("*/state.json")] if os.path.lexists(file)):
        try:
            for part in json.loads(read_bytes(state))["_data_files"]:
                if os.path.basename(part["filename"]) != part["filename"]:
                    raise ValueError(f"it names {quoted(part['filename'])}, which is not in its folder")
                open_regular(state.parent / part["filename"]).close()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(f"{state} is damaged: {str(error)[:QUOTED]}") from error
