"""The two ways a run can end badly, each with one line for the user, and how such a line quotes a value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath

# characters of a value that a message quotes, and names that it lists
QUOTED, MOST_LISTED = 200, 40


def quoted(value: object) -> str:
    """A value as a message quotes it: its repr (a path's as text), the middle left out where it is long."""
    try:
        text = repr(str(value) if isinstance(value, PurePath) else value)
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits, a list inside itself
        text = f"{type(value).__name__} too large to show"
    text = " ".join(text.splitlines())  # the repr of a module or an array has many
    return text if len(text) <= QUOTED else f"{text[: QUOTED - 60]} ... {text[-50:]}"


def did_you_mean(word: object, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """A hint at the nearest known name, as in "; did you mean 'val'?", empty where none is near."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=cutoff)
    return f"; did you mean {quoted(near[0])}?" if near else ""


def listed(names: Sequence[str]) -> str:
    """Names in a row; of many the first, and how many there are."""
    more = f", ... ({len(names):,} in all)" if len(names) > MOST_LISTED else ""
    return (", ".join(name[:QUOTED] for name in names[:MOST_LISTED]) or "none") + more


def first_line(error: object) -> str:
    """The first line of an error's message, its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def worker_errors() -> Iterator[None]:
    """Inside, an error in a process of torch's DataLoader is raised with its message alone.

    torch puts the whole traceback into the message, whose last part is the error's own.
    """
    try:
        yield
    except (UsageError, RunError) as error:
        kind = type(error)
        _, wrapped, message = str(error).rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")
        if wrapped:
            raise kind(message.strip()) from error
        raise


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, what caused that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def statuses(error: BaseException) -> Iterator[int]:
    """The statuses of HTTP answers among the causes of an error."""
    found = (getattr(getattr(cause, "response", None), "status_code", None) for cause in causes(error))
    return filter(None, found)


class UsageError(ValueError):
    """Something asked for cannot be done: exit code 2."""


class RunError(RuntimeError):
    """A run that was asked for correctly failed: exit code 1."""


def unknown(kind: str, value: str, known: Iterable[str], hint: str = "") -> UsageError:
    """The error for a name that does not exist: what was asked, the nearest name there is, and all of them."""
    known = list(known)
    guess = did_you_mean(value, known, cutoff=0.5)
    return UsageError(f"no {kind} {quoted(value)}{guess} (there is {listed(known)}){hint and '; ' + hint}")
