"""Points whose features come in chunks. It does not know what is computed from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from idvl.errors import UsageError

# the most features a chunk may hold: wide enough for a fast product, narrow enough for 2,000 rows in a cache
FEATURE_CHUNK = 4096
# the first integer with a neighbour that is no double
EXACT = 2**53


class Rows(Protocol):
    """n points whose features arrive in chunks, and which can be read again.

    `n`: the points compared with each other are the first n rows of every chunk; rows after them are echoes, second
    computations of some of these points. `width`: the number of features over all chunks and processes.
    """

    n: int
    width: int

    def chunks(self) -> Iterator[Tensor]:
        """One pass over this process's features: (n_rows >= n, c <= FEATURE_CHUNK) each, of any floating type.

        A chunk may be overwritten when the next one is asked for. A pass can be dear.
        """
        ...

    def reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, among which the features are split; alone, the tensor itself."""
        ...


class DenseRows:
    """A matrix (n, d) in memory as Rows. Raises UsageError for anything else, with the shape or type seen."""

    def __init__(self, points: Any, *, device: torch.device | str | None = None):
        self.tensor = _as_tensor(points).to(device)
        self.n, self.width = self.tensor.shape

    def chunks(self) -> Iterator[Tensor]:
        """Views of at most FEATURE_CHUNK columns, left to right."""
        yield from self.tensor.split(FEATURE_CHUNK, dim=1)

    def reduce(self, tensor: Tensor) -> Tensor:
        """The tensor itself: all features are here."""
        return tensor


def _unreadable(tensor: Tensor) -> str:
    """Why a tensor is no matrix in memory, empty where it may be one."""
    if tensor.is_meta:
        return "has no values"
    if tensor.is_nested:
        return "is nested: pass a matrix of its rows"
    if tensor.is_quantized:
        return "is quantized: pass its dequantize()"
    return "" if tensor.layout == torch.strided else "is sparse: pass its to_dense()"


def _as_tensor(points: Any) -> Tensor:
    if isinstance(points, Tensor):
        tensor = points.detach()
        if kind := _unreadable(tensor):
            raise UsageError(f"points must be a matrix (n, d) in memory; this tensor {kind}")
    else:
        if np.ma.is_masked(points):
            raise UsageError("points must all have values; this array masks some: remove those rows, or fill them in")
        try:
            array = np.asarray(points)
        except ValueError as error:
            raise UsageError(f"points must be a matrix (n, d); its rows differ in shape: {error}") from None
        if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
            raise UsageError(f"points must be numbers, a matrix (n, d) of floats or integers; got type {array.dtype}")
        # torch takes neither foreign byte orders nor negative strides, and warns of arrays that cannot be written to
        tensor = torch.as_tensor(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    if tensor.ndim != 2 or 0 in tensor.shape:
        shape = tuple(tensor.shape)
        raise UsageError(f"points must be a matrix (n, d), one point a row; got shape {shape}, flatten it to two axes")
    if tensor.is_complex():
        raise UsageError(f"points must be real numbers; got {tensor.dtype}")
    if not tensor.is_floating_point():
        exact = tensor.double()
        if exact.abs().max() >= EXACT:
            raise UsageError(
                f"points must be integers below 2**53, beyond which doubles round; got {exact.abs().max():g}"
            )
        return exact
    return tensor if tensor.element_size() > 1 else tensor.float()
