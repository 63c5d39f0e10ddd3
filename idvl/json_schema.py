"""What idvl relies on in a JSON document: pydantic schemas that convert nothing, and their errors in one line.

It opens no file.
"""

from __future__ import annotations

from collections.abc import Sequence
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

# what a value should be, by the type of pydantic's error
EXPECTED = {
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
        return f"{field_name(above)} lacks {quoted(last)}"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{field_name(above)} has the unknown key {quoted(last)}"
    where = field_name(path if detail["loc"] else ())
    if kind == "too_long":
        return f"{where} has more than {detail['ctx']['max_length']:,} items"
    if kind == "value_error":
        return f"{where}: {detail['ctx']['error']}"
    expected = EXPECTED.get(kind) or detail["msg"].removeprefix("Input should be ")
    return f"{where} should be {expected}, not {quoted(detail['input'])}"


def field_name(path: Sequence[str | int]) -> str:
    """A field in a message: layers['text.0.query'].losses[0].ratio; the document itself is "it"."""
    text = ""
    for part in path:
        plain = isinstance(part, str) and part.isidentifier()
        text += f".{part:.60}" if plain else f"[{part!r:.60}]"
    return f"{text:.300}".removeprefix(".") or "it"
