"""A table whose rows can be taken by index. It neither chooses rows nor says which column is which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from idvl.data.splits import choose_split

# the split of data that is not divided
WHOLE = "all"
# rows of a column in which Arrow looks for distinct cells at a time
COLUMN_BATCH = 1 << 16

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """`size` rows with the columns `names`; `read` gives those at ascending indices, one by one.

    `read` may leave out the other columns. Image paths start from `folder`, or, where `files` lists the files that the
    rows come from, each with its number of rows, from the folder of the row's file. `pixels` lists the columns known to
    hold images (None: any may), `classes` the names of the classes of a column of numbers, `warnings` what was left
    out. `distinct` gives the cells of a column, each at least once, where that is faster than `read`; of a column of
    lists, structs or bytes the first alone.
    """

    names: list[str]
    size: int
    read: Callable[[Sequence[int], Sequence[str]], Iterator[Row]]
    folder: Path
    split: str
    files: Mapping[Path, int] = field(default_factory=dict)
    pixels: list[str] | None = None
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    distinct: Callable[[str], Iterable[Any]] | None = None


def whole(path: Path, split: str | None) -> str:
    """The split of undivided data. Raises UsageError for the name of another."""
    return WHOLE if split is None else choose_split(split, [WHOLE], where=str(path))


def table_of(
    rows: list[Row], folder: Path, split: str, classes: Mapping[str, Sequence[str]] | None = None
) -> DataTable:
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


def is_plain(kind: Any) -> bool:
    """Whether the cells of an Arrow type are numbers, texts and the like, rather than lists, structs or bytes."""
    import pyarrow as pa

    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return not binary and not pa.types.is_nested(kind)


def first_cell(read: Callable[[Sequence[int], Sequence[str]], Iterator[Row]], size: int, column: str) -> list[Any]:
    """The first cell of a column that is there, if any, by a table's `read`."""
    cells = (row[column] for row in read(range(size), [column]))
    return list(islice((cell for cell in cells if cell is not None), 1))
