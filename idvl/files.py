"""Files that are whole or not there at all, what a disk can refuse, and regular files: nothing else is ever opened.

It knows nothing of what is in them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from idvl.errors import RunError, UsageError, quoted

REFUSALS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG),
}

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path | str) -> BinaryIO:
    """A regular file (or a link to one), open for reading.

    Raises OSError for anything else: opening a FIFO can wait forever, and a device may never end.
    """
    _check_regular(os.stat(path), path)
    # between the two looks the name may have been given to something else
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def _check_regular(status: os.stat_result, path: Path | str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        what = KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"{what}, not a regular file", str(path))


@contextlib.contextmanager
def reading(path: Path, kind: str, *, invalid: str = "is not valid JSON", hint: str = "") -> Iterator[None]:
    """Inside, what keeps a file from being read raises UsageError, in one line that calls the file a `kind`.

    `invalid` says what a ValueError means, `hint` ends each message.
    """
    try:
        yield
    except FileNotFoundError:
        raise UsageError(f"there is no {kind} {quoted(path)}{hint}") from None
    except OSError as error:
        raise UsageError(f"cannot read the {kind} {quoted(path)}: {error.strerror}{hint}") from error
    except ValueError as error:
        raise UsageError(f"the {kind} {quoted(path)} {invalid}: {error}{hint}") from error


def read_bytes(path: Path | str, limit: int | None = None) -> bytes:
    """What a regular file holds. Raises OSError for anything else, and for a file of more than `limit` bytes."""
    with open_regular(path) as file:
        # by its size: read(limit) would allocate as many bytes as the limit for every file
        if limit is not None and os.fstat(file.fileno()).st_size > limit:
            raise OSError(errno.EFBIG, f"more than {limit:,} bytes", str(path))
        return file.read()


def read_text(path: Path | str, limit: int | None = None) -> str:
    """`read_bytes` for UTF-8 text. Raises UnicodeDecodeError, a ValueError, for other bytes."""
    return read_bytes(path, limit).decode("utf-8")


def checksum(path: Path | str) -> str:
    """SHA-256 of a regular file, in hexadecimal. Raises OSError for anything else."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def append(path: Path | str, data: bytes) -> None:
    """Add to a file all of `data` or nothing: a disk that is full takes a part first. RunError or UsageError."""
    with disk_errors(Path(path)), open(path, "ab", buffering=0) as file:
        size = file.tell()
        try:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


def to_disk(path: Path | str) -> None:
    """Have the system put a file, or the list of a folder's files, on the disk before this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(path: Path, flag: str = "--output") -> Iterator[None]:
    """Turn what a disk can refuse into one line with a way out: `flag` names another place."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            what = "allows no file so large" if error.errno == errno.EFBIG else "is full"
            raise RunError(f"the disk of {quoted(path)} {what}: free some space, or choose another {flag}") from error
        if error.errno in REFUSALS:
            raise UsageError(f"cannot write to {quoted(path)}: {error.strerror}; choose another {flag}") from error
        raise
