"""What public functions take beside settings: whole numbers and paths. Anything else is refused in one line."""

from __future__ import annotations

import errno
import operator
import os
from pathlib import Path

from idvl.errors import UsageError, quoted


def whole_number(name: str, value: object, *, least: int = 0) -> int:
    """The value of an argument as an int, of NumPy's and torch's integers too. UsageError for anything else."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number < 2**63:
        raise UsageError(f"{name} is a whole number from {least} to 2**63 - 1, not {quoted(value)}")
    return number


def path(name: str, value: object, *, hint: str = "") -> Path:
    """The value of an argument as a Path. UsageError for anything else, and for what no file can be called."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UsageError(f"{name} is a name or a path, not {quoted(value)}{hint}")
    try:
        os.lstat(value)
    except ValueError as error:  # a null byte, a lone surrogate
        raise UsageError(f"{name} {quoted(value)} is no name of a file: {error}") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"{name} {quoted(value)}: {error.strerror}") from error
    return Path(os.fsdecode(value))
