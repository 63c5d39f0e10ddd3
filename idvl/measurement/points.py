"""The points of layers: what passes through them for every sample, held by reference or as copies of some features.

`Points` is the accumulator of the ID search. It does not know which run of which block feeds it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from idvl.errors import RunError
from idvl.models.spill import mapped
from idvl.profile import Tokens

Columns = tuple[int, int]
FLOAT_BYTES = 4


def point_features(shapes: Sequence[torch.Size], batch_size: int, tokens: Tokens) -> int:
    """Features of one point of a layer whose tensors have these shapes, one per call."""
    if tokens == "flatten":
        return sum(shape.numel() for shape in shapes) // batch_size
    return sum(shape[-1] for shape in shapes)


def points(x: Tensor, real: Tensor | None, tokens: Tokens, draws: Tensor) -> Tensor:
    """Tokens (b, t, d) -> points (b, f).

    `real` (b, t) is False at padding: there a flattened point is zero, and no other policy looks. `draws` (b) in [0, 1)
    decide which of its real tokens a sample contributes under "each". Raises RunError for a sample without one.
    """
    if tokens == "flatten":
        return (x if real is None else x.masked_fill(~real.unsqueeze(2), 0)).flatten(1)
    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if real is None else real
    count = real.sum(1)
    if not count.all():
        raise RunError(f"sample {int(count.argmin())} of the batch has no real token, and so no point")
    if tokens == "mean":
        return x.masked_fill(~real.unsqueeze(2), 0).sum(1) / count.unsqueeze(1)
    position = {"first": torch.zeros_like(count), "last": count - 1, "each": (draws * count).long()}[tokens]
    chosen = real & (real.cumsum(1) - 1 == position.unsqueeze(1))
    return x[chosen]


class Points:
    """An accumulator (models.capture) of the points of some layers, batch by batch.

    `features`: layer -> features of a point, of which only `columns` are kept, if given. `draws`: for every batch a
    number in [0, 1) for each of its samples. Outputs that need no mask are kept by reference, without a copy, unless
    `spill` names a folder for them, or `copied` the layer.
    """

    def __init__(
        self,
        features: Mapping[str, int],
        *,
        tokens: Tokens,
        draws: Sequence[Tensor],
        spill: Path | None = None,
        columns: Columns | None = None,
        copied: Collection[str] = (),
    ):
        self._copied = copied
        self._tokens, self._draws, self._spill, self._columns = tokens, draws, spill, columns
        self._stores = {name: self._store(name, width) for name, width in features.items()}

    def _store(self, name: str, width: int) -> PointStore:
        if self._columns is None and self._spill is None and name not in self._copied:
            return _Pieces()
        path = self._spill / f"{name}.f32" if self._spill else None
        return _Arena(sum(len(draws) for draws in self._draws), self._columns or (0, width), path)

    def add(self, layer: str, batch: int, tensor: Tensor, real: Tensor | None) -> None:
        """Keep the points of a batch, or the next of their features."""
        try:
            rows = points(tensor, real, self._tokens, self._draws[batch].to(tensor.device))
        except RunError as error:
            raise RunError(f"layer {layer}, batch {batch}: {error}") from error
        self._stores[layer].add(batch, rows)

    def take(self, layer: str) -> PointStore:
        """The layer's points, forgotten here. Raises RunError if the layer did not run for every batch."""
        store = self._stores.pop(layer)
        if store.batches != len(self._draws):
            raise RunError(
                f"layer {layer} ran for {store.batches} of {len(self._draws)} batches: "
                "they take different paths through the model, which cannot be measured"
            )
        return store


class PointStore(ABC):
    """One layer's points. A layer that runs several times for a batch gives several parts of its points' features."""

    def __init__(self):
        self.batches = 0
        self._batch = -1
        self._offset = 0

    def add(self, batch: int, rows: Tensor) -> None:
        """Add points (b, f) of a batch, or the next of their features."""
        first = batch != self._batch
        if first:
            self._batch, self._offset = batch, 0
            self.batches += 1
        self._put(rows, first=first)
        self._offset += rows.shape[1]

    @abstractmethod
    def _put(self, rows: Tensor, *, first: bool) -> None:
        """Keep points; `first` of their batch."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Tensor:
        """All points, these columns of what is kept."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the points."""


class _Pieces(PointStore):
    """Points kept by reference, a piece a batch."""

    def __init__(self):
        super().__init__()
        self._pieces: list[Tensor] = []
        self._versions: list[int] = []

    def _put(self, rows: Tensor, *, first: bool) -> None:
        if first:
            self._pieces.append(rows)
        else:
            self._pieces[-1] = torch.cat([self._pieces[-1], rows], dim=1)
        self._versions[len(self._pieces) - 1 :] = [self._pieces[-1]._version]

    def read(self, start: int, stop: int) -> Tensor:
        if any(piece._version != version for piece, version in zip(self._pieces, self._versions, strict=True)):
            raise RunError(
                "an activation was changed in place after it was captured; set spill (--spill) to keep a copy"
            )
        return torch.cat([piece[:, start:stop] for piece in self._pieces])

    def close(self) -> None:
        self._pieces.clear()


class _Arena(PointStore):
    """Copies of some columns of all points in one float32 tensor, or in a mapped file, deleted on close.

    One tensor rather than a piece a batch: small pieces among freed activations would keep memory from going back.
    """

    def __init__(self, n_rows: int, columns: Columns, path: Path | None):
        super().__init__()
        self._columns, self._path = columns, path
        self._shape = n_rows, columns[1] - columns[0]
        self._data: Tensor | None = None
        self._row = self._end = 0

    def _put(self, rows: Tensor, *, first: bool) -> None:
        if self._data is None:
            shape = self._shape
            self._data = (
                mapped(self._path, shape, torch.float32) if self._path else rows.new_empty(shape, dtype=torch.float32)
            )
        if first:
            self._row, self._end = self._end, self._end + len(rows)
        start, stop = self._columns
        left, right = max(start - self._offset, 0), min(stop - self._offset, rows.shape[1])
        if left < right:
            into = left + self._offset - start
            self._data[self._row : self._end, into : into + right - left] = rows[:, left:right]

    def read(self, start: int, stop: int) -> Tensor:
        return self._data[:, start:stop]

    def close(self) -> None:
        self._data = None
        if self._path:
            self._path.unlink(missing_ok=True)
