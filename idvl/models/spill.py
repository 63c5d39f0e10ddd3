"""Tensors in files, for what memory does not hold."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from idvl.files import disk_errors


def mapped(path: Path, shape: Sequence[int], dtype: torch.dtype, *, flag: str = "--spill") -> Tensor:
    """A tensor in a new file; `flag` names the option that chooses its disk."""
    count = math.prod(shape)
    # reserved at once: a mapped file that outgrows its disk later would kill the process
    try:
        with disk_errors(path, flag), path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, count * dtype.itemsize)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(shape)
