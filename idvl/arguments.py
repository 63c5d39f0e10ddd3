"""What public functions take beside settings: numbers and paths. Anything else is refused in one line."""

from __future__ import annotations

import errno
import math
import operator
import os
from numbers import Real
from pathlib import Path

from idvl.errors import UsageError, quoted


def whole_number(name: str, value: object, *, least: int = 0, bits: int = 63) -> int:
    """The value of an argument as an int, of NumPy's and torch's integers too. UsageError for anything else."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number < 2**bits:
        raise UsageError(f"{name} is a whole number from {least} to 2**{bits} - 1, not {quoted(value)}")
    return number


def positive_number(name: str, value: object) -> float:
    """The value of an argument as a float, of NumPy's numbers too. UsageError for what is not above 0 or not finite."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise UsageError(f"{name} is a number above 0, not {quoted(value)}")
    return float(value)


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
