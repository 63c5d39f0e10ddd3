"""Encoded images in one file instead of in memory, written by one process and read by all of the machine.

It does not know what is in them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from idvl.files import disk_errors


@dataclass(frozen=True, slots=True)
class SpooledImage:
    """`length` bytes from `start` on in a file."""

    path: Path
    start: int
    length: int

    def read(self) -> bytes:
        """The bytes. Raises OSError where the file is gone or ends before them."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            data = file.read(self.length)
        if len(data) < self.length:
            raise OSError(f"{self.path} ends within an image: it was cut short, or belongs to another run")
        return data


class ImageSpool:
    """A file that images are appended to, emptied before its first image.

    Whatever an earlier run left under this name is removed first, so that a killed run leaves nothing that counts.
    Without a path everything stays in memory. What was appended can be read at once, by any process. `flag` names
    another place in messages.
    """

    def __init__(self, path: Path | None, flag: str = "--output"):
        self._path, self._flag, self._file, self._end = path, flag, None, 0
        self._known: dict[bytes, SpooledImage] = {}
        if path is not None:
            with disk_errors(path, flag):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)

    def __enter__(self) -> ImageSpool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def keep(self, source: Any) -> Any:
        """Where these bytes lie now, once however often they come; anything else, or without a path, as it is."""
        if self._path is None or not isinstance(source, bytes):
            return source
        digest = hashlib.sha256(source).digest()
        if digest in self._known:
            return self._known[digest]
        with disk_errors(self._path, self._flag):
            self._opened().write(source)
            self._opened().flush()
        stored = SpooledImage(self._path, self._end, len(source))
        self._end += len(source)
        self._known[digest] = stored
        return stored

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = self._path.open("xb")
        return self._file
