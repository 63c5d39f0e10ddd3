"""A table whose rows can be taken by index. It neither chooses rows nor says which column is which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from idvl.data.splits import choose_split

# the split of data that is not divided
WHOLE = "all"

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """`size` rows with the columns `names`; `read` gives those at ascending indices, one by one.

    It may leave out the other columns. Image paths start from `folder`, or, where `files` lists the files that the rows
    come from, each with its number of rows, from the folder of the row's file. `pixels` lists the columns
    known to hold images (None: any may), `classes` the names of the classes of a column of numbers, `warnings` what was
    left out.
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
