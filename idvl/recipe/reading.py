"""A recipe read from a YAML file, with overrides on top. What it refuses is told in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from idvl import yaml_file
from idvl.errors import UsageError, quoted
from idvl.recipe.messages import message, unknown_key
from idvl.recipe.schema import READ, SECTIONS, UNREAD, Recipe, names
from idvl.recipes import find


def load(path: Path | str | None = None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in a YAML file, or the packaged one of that name, with `overrides` on top.

    `overrides`: dotted key -> value, as in {"estimate.tokens": "mean"}. Raises UsageError, in one line, for a file that
    can't be read, unknown keys and values that are not allowed.
    """
    values = {} if path is None else _read(find(path, "recipe"))
    for key, value in (overrides or {}).items():
        section, _, name = key.partition(".")
        if key in SECTIONS:
            raise UsageError(f"{key} is a section: set one of its keys, as in --set {key}.{next(iter(names(key)))}=...")
        if not name or not isinstance(values.setdefault(section, {}), dict):
            raise UsageError(unknown_key(key))
        values[section][name] = value
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        where = "" if path is None else f" (recipe {quoted(path)})"
        raise UsageError("; ".join(dict.fromkeys(message(detail) for detail in error.errors())) + where) from error


def refuse_unread(command: str, settings: Mapping[str, Any]) -> None:
    """UsageError for a setting, dotted key -> value, that a user names and a command does not read.

    In a recipe file it may stay, as several commands may read one.
    """
    read, unread = READ.get(command, SECTIONS), UNREAD.get(command, {})
    for key in [key for key, value in settings.items() if value is not None]:
        section = key.partition(".")[0]
        if key in unread or (section in SECTIONS and section not in read):
            instead = unread.get(key)
            raise UsageError(
                f"{key} has no effect on idvl {command}: {f'set {instead} instead' if instead else 'leave it out'}"
            )


def sections(path: Path | str) -> list[str]:
    """The sections that a recipe file has. UsageError for a file that can't be read."""
    return [key for key in _read(find(path, "recipe")) if key in SECTIONS]


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """{"estimate.tokens": "mean"} from ["estimate.tokens=mean"]; "null" is None, and "none" a word like others.

    UsageError for a missing "=".
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes key=value, as in --set estimate.tokens=mean, not {quoted(assignment)}")
        values[key.strip()] = None if text.strip().lower() == "null" else text.strip()
    return values


def _read(path: Path) -> dict[str, Any]:
    values = yaml_file.read(path, "recipe")
    if not isinstance(values, dict):
        raise UsageError(f"the recipe {quoted(path)} holds no sections; it has {', '.join(SECTIONS)}")
    return {key: {} if value is None and key in SECTIONS else value for key, value in values.items()}
