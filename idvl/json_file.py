"""JSON files, read within limits and checked against the schema that they have.

What idvl never writes is refused: text that is not Unicode, numbers that are not finite or too large, deep nesting,
and a key that stands twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from idvl.errors import quoted
from idvl.files import open_regular, read_bytes
from idvl.json_schema import Schema, check, field_name

# levels of a document, and the largest number in it: beyond float32, and small enough to be squared and summed
DEEPEST, LARGEST = 50, 1e39
# limits for folders of others: bytes of a document, of the end of a log and of a line; items or characters of a value
BYTES, TAIL, LINE, MOST = 32 * 2**20, 2**20, 2**22, 100_000


def read(path: Path | str, schema: type[Schema], *, limited: bool = False) -> dict[str, Any]:
    """The document in a file. OSError for one that cannot be opened; ValueError, naming the field, for any other.

    `limited` as in `parse`.
    """
    values = load(path, limited=limited)
    name = values.get("schema") if isinstance(values, dict) else None
    if name != schema.NAME:
        raise ValueError(f"it has the schema {quoted(name)}; this idvl reads {schema.NAME!r}")
    return check(values, schema)


def load(path: Path | str, *, limited: bool = False) -> Any:
    """The values in a regular file. OSError for one that cannot be read, ValueError as of `parse`."""
    return parse(read_bytes(path, BYTES if limited else None), limited=limited)


def parse(text: bytes | str, *, limited: bool = False) -> Any:
    """The values in JSON text. ValueError for what is none, and for values that are not `sound`.

    `limited`: as reports read the folders of others, of at most `MOST` items or characters a value, with null for NaN.
    """
    try:
        constant = (lambda _: None) if limited else _refuse_constant
        values = json.loads(text, parse_constant=constant, object_pairs_hook=unique)
        return sound(values, most=MOST if limited else None)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. ValueError for one that has a key twice: the last would win in silence."""
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"it has the key {quoted(next(name for name in counts if counts[name] > 1))} twice")
    return values


def lines(path: Path, schema: type[Schema]) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file, one by one, `limited`. OSError, and ValueError with the number of the line."""
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE + 1), b""), 1):
            try:
                if len(line) > LINE:
                    raise ValueError(f"it has more than {LINE:,} bytes")
                if line.strip():
                    yield check(parse(line, limited=True), schema)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error


def last_line(path: Path, schema: type[Schema]) -> dict[str, Any]:
    """The last whole line of a log, {} where there is none. OSError and ValueError as of `lines`."""
    with open_regular(path) as file:
        start = max(0, file.seek(0, 2) - TAIL)
        file.seek(start)
        whole = file.read(TAIL).rpartition(b"\n")[0]
    complete = [line for line in whole.split(b"\n")[bool(start) :] if line.strip()]
    return check(parse(complete[-1], limited=True), schema) if complete else {}


def reason(error: Exception) -> str:
    """Why a file cannot be read, on one line of a sane length."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text if len(text) <= 300 else f"{text[:300]}..."


def sound(value: Any, at: tuple[str | int, ...] = (), *, deepest: int = DEEPEST, most: int | None = None) -> Any:
    """The value itself. ValueError, naming the field, for what idvl never writes and could not write again.

    That is text that is not Unicode, numbers that are not finite or beyond `LARGEST`, types that JSON does not have,
    more than `deepest` levels, and more than `most` items or characters. `at`: the path to the value.
    """
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{field_name(at)} is {quoted(value)}, which is not Unicode text")
    elif isinstance(value, int | float) and not abs(value) <= LARGEST:
        raise ValueError(f"{field_name(at)} is {'NaN' if value != value else f'a number beyond {LARGEST:g}'}")
    elif not isinstance(value, int | float | dict | list | None):
        raise ValueError(f"{field_name(at)} is {quoted(value)}, which JSON does not have")
    if most is not None and isinstance(value, str | dict | list) and len(value) > most:
        raise ValueError(
            f"{field_name(at)} has more than {most:,} {'characters' if isinstance(value, str) else 'items'}"
        )
    if isinstance(value, dict | list):
        if len(at) == deepest:
            raise ValueError(f"it is nested more than {deepest} deep")
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict):
                _check_key(key, at, most)
            sound(item, (*at, key), deepest=deepest, most=most)
    return value


def _check_key(key: Any, at: tuple[str | int, ...], most: int | None) -> None:
    if not isinstance(key, str):
        raise ValueError(f"{field_name(at)} has the key {quoted(key)}, which is not text")
    sound(key, (*at, "key"), most=most)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")
