"""Lists of samples in text, .jsonl, .csv and .tsv: what is doubtful is refused with its line, where libraries guess."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from idvl.data.formats.table import Row
from idvl.errors import UsageError, quoted
from idvl.files import open_regular
from idvl.json_file import unique

# characters of a line
LONGEST_LINE = 1 << 26
# what separates the columns of a table
SEPARATORS = {".csv": ",", ".tsv": "\t"}
NAMES = {",": "commas", "\t": "tabs", ";": "semicolons"}


def records(path: Path) -> list[Row]:
    """The rows of a .jsonl, .csv or .tsv file. Raises UsageError for a file that is none of them, with the line."""
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            lines = _lines(file, path)
            if path.suffix.lower() in SEPARATORS:
                return _cells(lines, path)
            return [_object(line, number, path) for number, line in enumerate(lines, 1) if line.strip()]
    except UnicodeDecodeError as error:
        utf_16 = error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        found = "UTF-16" if utf_16 else f"not UTF-8 (byte {error.object[error.start]:#x})"
        raise UsageError(f"{path} cannot be read as text: it is {found}; save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _lines(file: io.TextIOWrapper, path: Path) -> Iterator[str]:
    """Line by line. UsageError for one that is longer than LONGEST_LINE: the file is no text."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise UsageError(f"{path} has a line of more than {LONGEST_LINE:,} characters: it is not a list of samples")
        yield line


def _cells(lines: Iterable[str], path: Path) -> list[Row]:
    """The rows of a table, whose first line names the columns, with or without blanks around each name.

    Unnamed columns without a cell are left out.
    """
    separator = SEPARATORS[path.suffix.lower()]
    parsed = _parsed(lines, separator, path)
    names = [name.strip() for name in next(parsed, (0, []))[1]]
    # a blank after it is a sign of text, as in `question; or note`
    if len(names) == 1 and (other := re.search("[,;\t](?! )", names[0])):
        rename = next((f", or rename it to {suffix}" for suffix, by in SEPARATORS.items() if by == other[0]), "")
        raise UsageError(f"{path} separates its columns by {NAMES[other[0]]}: save it with {NAMES[separator]}{rename}")
    if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        raise UsageError(f"{path} names the column {quoted(twice[0])} twice: give each another name")
    rows, used = [], set()
    for number, cells in parsed:
        if any(cells[len(names) :]):
            raise UsageError(
                f"{path} line {number} has {len(cells)} cells for {len(names)} columns: "
                f"put quotation marks around cells that hold {NAMES[separator]}"
            )
        used.update(at for at, cell in enumerate(cells) if cell and not names[at])
        rows.append(cells)
    if len(used) > 1:
        raise UsageError(f"{path} has {len(used)} columns without a name: give each a name")
    columns = [(at, name) for at, name in enumerate(names) if name or at in used]
    return [{name: cells[at] if at < len(cells) else None for at, name in columns} for cells in rows]


def _parsed(lines: Iterable[str], separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, cells) of each row of a table that is not blank.

    Text may follow a closing quotation mark, as in `"so" she said`, but not in a row of several lines: there the mark
    is rather the next opening one. UsageError for that, for a row of several lines in TSV, where a mark is rather never
    closed, where it is not, and for marks escaped by a backslash, which would be read as closing ones.
    """
    csv.field_size_limit(LONGEST_LINE)
    text: list[str] = []
    reader = csv.reader((text.append(line) or line for line in lines), delimiter=separator)
    try:
        for cells in reader:
            if len(text) > 1 and separator == "\t":
                raise UsageError(
                    f"{path} line {reader.line_num - len(text) + 1} opens a quotation mark that the line does not "
                    "close: close it, or save the table as .csv for cells of several lines"
                )
            try:
                list(csv.reader(text, strict=True, delimiter=separator))
            except csv.Error as error:
                first = reader.line_num - len(text) + 1
                if escaped := [number for number, line in enumerate(text, first) if '\\"' in line]:
                    raise UsageError(
                        f'{path} line {escaped[0]} writes \\" in a cell: double the quotation marks inside cells ("") '
                        "instead of escaping them by a backslash"
                    ) from error
                if len(text) > 1 or "end of data" in str(error):
                    raise
            text.clear()
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise UsageError(f"{path} line {reader.line_num} is not {path.suffix[1:].upper()}: {error}") from error


def _object(line: str, number: int, path: Path) -> Row:
    try:
        row = json.loads(line, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} line {number} is not JSON that can be read: {error}") from error
    if not isinstance(row, dict):
        raise UsageError(f"{path} line {number} is a {type(row).__name__}, expected an object")
    return row
