"""Region features of an image in an .npz file: a row for each region that a detector found.

What bottom-up attention (Anderson et al. 2018) gives for an image: 36 regions of 2,048 values, under the key "feat".
"""

from __future__ import annotations

import io
import zipfile

import numpy as np

KEY = "feat"
# bytes of the values in a file: 36 x 2,048 of float32 have 295 thousand
LARGEST = 1 << 26


def holds_regions(data: bytes) -> bool:
    """Whether bytes are those of an .npz file, which is a zip archive, rather than of an image."""
    return data.startswith(b"PK\x03\x04")


def regions(data: bytes) -> np.ndarray:
    """The features (regions, width), float32. ValueError for anything else; pickled objects are not loaded."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(part.file_size for part in archive.infolist()) > LARGEST:
                raise ValueError(f"it holds more than {LARGEST >> 20} MiB")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            if KEY not in arrays.files:
                raise ValueError(f"it has no array {KEY!r} (it has {', '.join(arrays.files) or 'none'})")
            values = arrays[KEY]
    except MemoryError as error:
        raise ValueError(f"no region features: its {KEY!r} states more values than it holds") from error
    except ValueError:
        raise
    except Exception as error:  # zlib and numpy raise whatever damaged bytes lead to
        raise ValueError(f"no region features: {error}") from error
    if values.ndim != 2 or values.dtype.kind != "f":
        raise ValueError(f"its {KEY!r} is {values.dtype} {values.shape}, not floating-point (regions, width)")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"its {KEY!r} holds NaN, infinite values or values that overflow float32")
    return values
