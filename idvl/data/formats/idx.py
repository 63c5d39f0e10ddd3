"""The idx files of MNIST and its kin: one of images and one of labels for each split, plain or compressed by gzip."""

from __future__ import annotations

import gzip
import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from idvl.data.catalog import CatalogEntry
from idvl.data.formats.table import DataTable, Row
from idvl.data.splits import choose_split
from idvl.errors import UsageError
from idvl.files import open_regular

# their images and labels, as the authors of MNIST call them
FILE = re.compile(r"(?P<split>\w+)-(?P<holds>images-idx3|labels-idx1)-ubyte(\.gz)?")
SPLITS = {"t10k": "test"}
# bytes of a file: MNIST's largest has 47 million
LARGEST = 1 << 31


def is_idx(file: Path) -> bool:
    """Whether a file is called like one of these."""
    return FILE.fullmatch(file.name) is not None


def idx(files: Sequence[Path], path: Path, split: str | None, entry: CatalogEntry | None) -> DataTable:
    """Grey images (as PNG) and labels (0 to 255) of a split; the class names are the catalogue's, where it has some.

    Raises UsageError for an unknown split, one of the two files alone, and files that are cut short or do not match.
    """
    pairs: dict[str, dict[str, Path]] = {}
    for file in files:
        match = FILE.fullmatch(file.name)
        holds = pairs.setdefault(SPLITS.get(match["split"], match["split"]), {})
        if match["holds"] in holds:
            raise UsageError(f"{path} holds both {holds[match['holds']].name} and {file.name}: remove one")
        holds[match["holds"]] = file
    name = choose_split(split, pairs, where=str(path), entry=entry)
    for kind in ("images-idx3", "labels-idx1"):
        if kind not in pairs[name]:
            raise UsageError(f"{path} lacks the {kind} file that belongs to {next(iter(pairs[name].values())).name}")
    images, labels = (_array(pairs[name][kind], axes) for kind, axes in (("images-idx3", 3), ("labels-idx1", 1)))
    if len(images) != len(labels):
        raise UsageError(f"{path} has {len(images):,} images and {len(labels):,} labels in the split {name}")

    def read(indices: Sequence[int], columns: Sequence[str]) -> Iterator[Row]:
        for index in indices:
            row = {"label": int(labels[index])}
            yield {**row, "image": _png(images[index])} if "image" in columns else row

    return DataTable(
        names=["image", "label"],
        size=len(images),
        read=read,
        folder=path,
        split=name,
        pixels=["image"],
        classes={"label": entry.classes} if entry and entry.classes else {},
    )


def _array(file: Path, axes: int) -> np.ndarray:
    """The uint8 array in a file: two zeros, the type (8), the number of axes, their sizes (big-endian), the values."""
    try:
        with open_regular(file) as raw, gzip.open(raw) if file.suffix == ".gz" else raw as data:
            return _read(data, file, axes)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{file} cannot be read ({error}): download it again") from error


def _read(data: BinaryIO, file: Path, axes: int) -> np.ndarray:
    head = data.read(4 + 4 * axes)
    if len(head) < 4 + 4 * axes or head[:4] != bytes((0, 0, 8, axes)):
        raise UsageError(f"{file} is no idx file of bytes with {axes} {'axes' if axes > 1 else 'axis'}")
    shape = struct.unpack(f">{axes}I", head[4:])
    # in Python's integers, which do not wrap around
    size = int(np.prod(shape, dtype=object))
    if not 0 < size <= LARGEST:
        raise UsageError(f"{file} states {' x '.join(map(str, shape))} bytes: it is damaged, or no data set of images")
    values = data.read(size + 1)
    if len(values) != size:
        more = "more than" if len(values) > size else f"{len(values):,} of"
        raise UsageError(f"{file} holds {more} the {size:,} bytes that it states: download it again")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
