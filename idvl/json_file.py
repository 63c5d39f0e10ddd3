"""JSON files, read within limits and checked against the schema that they have.

What idvl never writes is refused: text that is not Unicode, numbers that are not finite or too large, deep nesting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetPydanticSchema,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from idvl.errors import quoted
from idvl.files import open_regular, read_bytes

# levels of a document, and the largest number in it: beyond float32, and small enough to be squared and summed
DEEPEST, LARGEST = 50, 1e39
# limits for folders of others: bytes of a document, of the end of a log and of a line; items or characters of a value
BYTES, TAIL, LINE, MOST = 32 * 2**20, 2**20, 2**22, 100_000

# what a value should be, by the type of pydantic's error
WANTED = {
    **dict.fromkeys(("model_type", "dataclass_type", "dict_type"), "an object"),
    **{"list_type": "a list", "string_type": "text", "int_type": "a whole number", "float_type": "a number"},
    **{"bool_type": "true or false"},
}


class Schema(BaseModel):
    """What idvl relies on in a document. Nothing is converted; keys that are not declared may hold anything.

    `NAME` is the document's "schema", None for lines and parts of documents.
    """

    model_config = ConfigDict(strict=True, protected_namespaces=(), defer_build=True)
    NAME: ClassVar[str | None] = None


def read(path: Path | str, schema: type[Schema], *, limited: bool = False) -> dict[str, Any]:
    """The document in a file. OSError for one that cannot be opened; ValueError, naming the field, for any other.

    `limited` as in `parse`.
    """
    values = load(path, limited=limited)
    name = values.get("schema") if isinstance(values, dict) else None
    if name != schema.NAME:
        raise ValueError(f"it has the schema {quoted(name)}; this idvl reads {schema.NAME!r}")
    return check(values, schema)


def check(values: Any, schema: type[Schema]) -> dict[str, Any]:
    """The values themselves. ValueError, naming the field, where they do not fit the schema."""
    try:
        schema.model_validate(values)
    except ValidationError as error:
        raise ValueError(problem(error)) from error
    return values


def checked(schema: type[Schema]) -> GetPydanticSchema:
    """Annotates an object inside of a dataclass that is to fit a schema, and stays as it is written."""

    def unchanged(values: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        validate(values)
        return values

    return GetPydanticSchema(lambda _, handler: handler.generate_schema(Annotated[schema, WrapValidator(unchanged)]))


def problem(error: ValidationError) -> str:
    """The first of pydantic's errors on one line: "layers['text.0'].weights should be a whole number, not 'x'"."""
    detail = error.errors(include_url=False)[0]
    *above, last = path = detail["loc"] or ("",)
    kind = detail["type"]
    if kind in ("missing", "missing_keyword_only_argument"):
        return f"{place(above)} lacks {quoted(last)}"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{place(above)} has the unknown key {quoted(last)}"
    where = place(path if detail["loc"] else ())
    if kind == "too_long":
        return f"{where} has more than {detail['ctx']['max_length']:,} items"
    if kind == "value_error":
        return f"{where}: {detail['ctx']['error']}"
    wanted = WANTED.get(kind) or detail["msg"].removeprefix("Input should be ")
    return f"{where} should be {wanted}, not {quoted(detail['input'])}"


def place(path: Sequence[str | int]) -> str:
    """A field in a message: layers['text.0.query'].losses[0].ratio; the document itself is "it"."""
    text = ""
    for part in path:
        plain = isinstance(part, str) and part.isidentifier()
        text += f".{part:.60}" if plain else f"[{part!r:.60}]"
    return f"{text:.300}".removeprefix(".") or "it"


def load(path: Path | str, *, limited: bool = False) -> Any:
    """The values in a regular file. OSError for one that cannot be read, ValueError as of `parse`."""
    return parse(read_bytes(path, BYTES if limited else None), limited=limited)


def parse(text: bytes | str, *, limited: bool = False) -> Any:
    """The values in JSON text. ValueError for what is none, and for values that are not `sound`.

    `limited`: as reports read the folders of others, of at most `MOST` items or characters a value, with null for NaN.
    """
    try:
        constant = (lambda _: None) if limited else _refuse_constant
        return sound(json.loads(text, parse_constant=constant), most=MOST if limited else None)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None


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
    found = [line for line in whole.split(b"\n")[bool(start) :] if line.strip()]
    return check(parse(found[-1], limited=True), schema) if found else {}


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
            raise ValueError(f"{place(at)} is {quoted(value)}, which is not Unicode text")
    elif isinstance(value, int | float) and not abs(value) <= LARGEST:
        raise ValueError(f"{place(at)} is {'NaN' if value != value else f'a number beyond {LARGEST:g}'}")
    elif not isinstance(value, int | float | dict | list | None):
        raise ValueError(f"{place(at)} is {quoted(value)}, which JSON does not have")
    if most is not None and isinstance(value, str | dict | list) and len(value) > most:
        raise ValueError(f"{place(at)} has more than {most:,} {'characters' if isinstance(value, str) else 'items'}")
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
        raise ValueError(f"{place(at)} has the key {quoted(key)}, which is not text")
    sound(key, (*at, "key"), most=most)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")
