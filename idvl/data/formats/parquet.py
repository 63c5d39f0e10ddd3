"""Parquet files, of which only the row groups and columns that are needed are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from idvl.data.formats.table import COLUMN_BATCH, DataTable, Row, first_cell, is_plain
from idvl.errors import UsageError, quoted

# rows decoded at a time
BATCH = 64
# bytes of a column read ahead
READ_BUFFER = 1 << 20


def parquet(files: list[Path], root: Path, split: str) -> DataTable:
    """Parquet files below the root, one after the other; only the row groups and columns that are needed are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footers = [pq.read_metadata(file) for file in files]
        names = [footer.schema.to_arrow_schema().names for footer in footers]
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{files[0].parent} holds a parquet file that cannot be read: {error}") from error
    classes = [_named_classes(file, footer.metadata or {}) for file, footer in zip(files, footers, strict=True)]
    for file, columns, classes_here in zip(files, names, classes, strict=True):
        if twice := [name for name in columns if columns.count(name) > 1]:
            raise UsageError(f"{file} has two columns {quoted(twice[0])}: give each another name")
        if classes_here != classes[0]:
            raise UsageError(f"{file} and {files[0]} name their classes differently: read them one at a time")
    starts = np.cumsum([0, *(footer.num_rows for footer in footers)])

    def read(indices: Sequence[int], columns: Sequence[str]) -> Iterator[Row]:
        ascending = np.asarray(indices)
        for number, file in enumerate(files):
            inside = _between(ascending, starts[number], starts[number + 1])
            if missing := [name for name in columns if name not in names[number]]:
                raise UsageError(f"{file} has no column {quoted(missing[0])}, but {files[0]} has")
            with _undamaged(file):
                yield from _parquet_rows(file, inside, columns)

    def distinct(column: str) -> Iterator[Any]:
        for file, own in zip(files, names, strict=True):
            if column not in own:
                raise UsageError(f"{file} has no column {quoted(column)}, but {files[0]} has")
            with _undamaged(file), pq.ParquetFile(file, buffer_size=READ_BUFFER) as opened:
                if not is_plain(opened.schema_arrow.field(column).type):
                    yield from first_cell(read, int(starts[-1]), column)
                    return
                for batch in opened.iter_batches(COLUMN_BATCH, columns=[column]):
                    yield from batch.column(0).unique().to_pylist()

    return DataTable(
        names=names[0],
        size=int(starts[-1]),
        read=read,
        folder=root,
        split=split,
        files={file: footer.num_rows for file, footer in zip(files, footers, strict=True)},
        classes=classes[0],
        distinct=distinct,
    )


@contextmanager
def _undamaged(file: Path) -> Iterator[None]:
    """UsageError for what Arrow raises of a file."""
    import pyarrow as pa

    try:
        yield
    except MemoryError:  # one of Arrow's exceptions too
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UsageError(f"{file} is damaged: {error}") from error


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
                for batch in file.iter_batches(BATCH, row_groups=[group], columns=list(columns)):
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
