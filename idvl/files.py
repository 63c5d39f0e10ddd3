"""Files that are whole or not there at all, and what a disk can refuse. It knows nothing of what is in them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from idvl.errors import RunError, UsageError

REFUSALS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG),
}


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file whole or not at all: beside it, to the disk, then renamed. RunError when the disk is full."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def write_text(path: Path | str, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, values: Any) -> None:
    """`write_bytes` for JSON; ValueError for NaN and infinities."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def disk_errors(path: Path, flag: str = "--output") -> Iterator[None]:
    """Turn what a disk can refuse into one line with a way out: `flag` names another place."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            what = "allows no file so large" if error.errno == errno.EFBIG else "is full"
            raise RunError(f"the disk of {str(path)!r} {what}: free some space, or choose another {flag}") from error
        if error.errno in REFUSALS:
            raise UsageError(f"cannot write to {str(path)!r}: {error.strerror}; choose another {flag}") from error
        raise
