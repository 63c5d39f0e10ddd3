"""The two ways a run can end badly, each with one line for the user, and how such a line quotes a value."""

from __future__ import annotations

from pathlib import PurePath

# characters of a value that a message quotes
QUOTED = 200


def quoted(value: object) -> str:
    """A value as a message quotes it: its repr (a path's as text), the middle left out where it is long."""
    try:
        text = repr(str(value) if isinstance(value, PurePath) else value)
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits, a list inside itself
        text = f"{type(value).__name__} too large to show"
    return text if len(text) <= QUOTED else f"{text[: QUOTED - 60]} ... {text[-50:]}"


class UsageError(ValueError):
    """Something asked for cannot be done: exit code 2."""


class RunError(RuntimeError):
    """A run that was asked for correctly failed: exit code 1."""
