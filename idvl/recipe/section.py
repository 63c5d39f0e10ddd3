"""What all sections of a recipe share: what no setting may be, and how a setting is declared."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, ValidatorFunctionWrapHandler, field_validator

from idvl.errors import quoted

# settings of which an empty text is one
EMPTY = ("prompt",)


class Section(BaseModel):
    """Settings that belong together. Refused: unknown keys, empty text, infinities, true or false for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=4096)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"a number or text, not {str(value).lower()}")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and "\0" in text:
                raise ValueError(f"text without NUL characters, not {quoted(text)}")
            if isinstance(text, str) and text.encode("utf-8", "replace").decode() != text:
                raise ValueError(f"valid UTF-8, not {quoted(text)}")
        if value == "" and info.field_name not in EMPTY:
            raise ValueError("a value, not ''; leave it out for the default")
        return value

    @field_validator("*", mode="wrap")
    @classmethod
    def _digits(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        number = validate(value)
        if isinstance(value, str) and "_" in value and isinstance(number, int | float):
            raise ValueError(f"a number without underscores, not {quoted(value)}")
        return number


def setting(
    default: Any, text: str, *, shown: str | None = None, flag: str | None = None, value: str | None = None
) -> Any:
    """A setting's default and what the command line says of it.

    `shown` is the default in words; `flag` its option where that is not its name ("" for none); `value` a placeholder.
    """
    return Field(default, description=text, json_schema_extra={"shown": shown, "flag": flag, "value": value})
