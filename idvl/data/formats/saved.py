"""What `datasets` wrote with save_to_disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from idvl.data.catalog import CatalogEntry
from idvl.data.formats.table import COLUMN_BATCH, DataTable, Row, first_cell, is_plain, whole
from idvl.data.splits import choose_split
from idvl.errors import QUOTED, UsageError, quoted
from idvl.files import open_regular, read_bytes


def saved(path: Path, split: str | None, entry: CatalogEntry | None) -> DataTable:
    """What `datasets` wrote with save_to_disk, images left encoded."""
    from datasets import ClassLabel, DatasetDict, Image, load_from_disk

    _check_saved(path)
    try:
        data = load_from_disk(str(path))
    except Exception as error:
        reason = " ".join(str(error)[:QUOTED].split())
        raise UsageError(f"{path} looks like save_to_disk's but cannot be read: {reason}") from error
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

    def distinct(column: str) -> Iterator[Any]:
        if not is_plain(data.features.arrow_schema.field(column).type):
            yield from first_cell(read, len(data), column)
            return
        try:
            for part in data.select_columns([column]).with_format("arrow").iter(COLUMN_BATCH):
                yield from part.column(0).unique().to_pylist()
        except (ValueError, TypeError, OSError, OverflowError) as error:
            raise UsageError(f"{path} is damaged: {str(error)[:QUOTED]}") from error

    return DataTable(
        names=data.column_names,
        size=len(data),
        read=read,
        folder=path,
        split=name,
        pixels=pixels or None,
        classes={name: kind.names for name, kind in data.features.items() if isinstance(kind, ClassLabel)},
        distinct=distinct,
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
