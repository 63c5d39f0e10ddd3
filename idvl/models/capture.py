"""The points of layers: what passes through them for every sample, held by reference, read in feature chunks.

It does not know what the points are for: whoever reads them gets rows in chunks (geometry.neighbors.Rows).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from idvl.errors import RunError
from idvl.files import disk_errors
from idvl.geometry.neighbors import FEATURE_CHUNK
from idvl.models.team import Team
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
    decide which of its real tokens a sample contributes under "each".
    """
    if tokens == "flatten":
        return (x if real is None else x.masked_fill(~real.unsqueeze(2), 0)).flatten(1)
    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if real is None else real
    count = real.sum(1)
    if tokens == "mean":
        return x.masked_fill(~real.unsqueeze(2), 0).sum(1) / count.unsqueeze(1)
    place = {"first": torch.zeros_like(count), "last": count - 1, "each": (draws * count).long()}[tokens]
    chosen = real & (real.cumsum(1) - 1 == place.unsqueeze(1))
    return x[chosen]


class Recorder:
    """Keeps the points of the layers it is told to want, batch by batch.

    `token_mask(layer, tokens, inputs)` tells real tokens from padding. Outputs that need no mask are kept by reference,
    without a copy.
    """

    def __init__(
        self,
        batches: Sequence[dict[str, Tensor]],
        token_mask: Callable[[str, int, dict[str, Tensor]], Tensor | None],
        tokens: Tokens,
        draws: Sequence[Tensor],
        spill: Path | None = None,
    ):
        self._batches, self._token_mask, self._tokens, self._draws = batches, token_mask, tokens, draws
        self._sizes = [len(next(iter(batch.values()))) for batch in batches]
        self._spill = spill
        self._batch = 0
        self._columns: Columns | None = None
        self._stores: dict[str, _Store] = {}

    def turn_to(self, batch: int) -> None:
        """What is recorded from now on belongs to this batch."""
        self._batch = batch

    def want(self, features: dict[str, int], columns: Columns | None = None) -> None:
        """Keep these layers (name -> features of a point) from now on; of each point only `columns`, if given."""
        self._columns = columns
        self._stores = {name: self._store(name, width, columns) for name, width in features.items()}

    def _store(self, name: str, width: int, columns: Columns | None) -> _Store:
        if self._spill and columns is None:
            return _FileStore(self._spill / f"{name}.f32", sum(self._sizes), width)
        return _Store()

    def record(self, name: str, tensor: Tensor) -> None:
        """Called with every tensor that a layer passes on."""
        if name not in self._stores:
            return
        size = self._sizes[self._batch]
        if tensor.shape[0] % size:
            raise RunError(f"layer {name}: its output {tuple(tensor.shape)} does not lead with the {size} samples")
        tensor = tensor.detach().reshape(size, -1, tensor.shape[-1])
        real = self._token_mask(name, tensor.shape[1], self._batches[self._batch])
        real = real if real is None else real.to(tensor.device)
        rows = points(tensor, real, self._tokens, self._draws[self._batch].to(tensor.device))
        self._stores[name].add(self._batch, rows, self._columns)

    def take(self, name: str) -> _Store:
        """The layer's points, forgotten here. Raises RunError if the layer did not run for every batch."""
        store = self._stores.pop(name)
        if store.batches != len(self._batches):
            raise RunError(
                f"layer {name} ran for {store.batches} of {len(self._batches)} batches: "
                "they take different paths through the model, which cannot be measured"
            )
        return store


class _Store:
    """One layer's points, a piece a batch, kept by reference."""

    def __init__(self):
        self.batches = 0
        self._pieces: list[Tensor] = []
        self._versions: list[int] = []
        self._batch = -1
        self._seen = 0

    def add(self, batch: int, rows: Tensor, columns: Columns | None) -> None:
        first = batch != self._batch
        if first:
            self._batch, self._seen = batch, 0
            self.batches += 1
        offset, self._seen = self._seen, self._seen + rows.shape[1]
        if columns:
            # a copy, so that the whole can be freed
            rows = rows[:, max(columns[0] - offset, 0) : max(columns[1] - offset, 0)].clone()
        if first:
            self._pieces.append(rows)
        else:
            self._pieces[-1] = torch.cat([self._pieces[-1], rows], dim=1)
        self._versions[len(self._pieces) - 1 :] = [self._pieces[-1]._version]

    def read(self, start: int, stop: int) -> Tensor:
        """All rows, these columns of what is kept."""
        if any(piece._version != version for piece, version in zip(self._pieces, self._versions, strict=True)):
            raise RunError("an activation was changed in place after it was captured; use --spill to keep a copy")
        return torch.cat([piece[:, start:stop] for piece in self._pieces])

    def close(self) -> None:
        self._pieces.clear()


class _FileStore(_Store):
    """One layer's points in a memory-mapped file, deleted on close."""

    def __init__(self, path: Path, n_rows: int, width: int):
        super().__init__()
        self._path = path
        # reserved at once: a mapped file that outgrows its disk later would kill the process
        with disk_errors(path), path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, n_rows * width * FLOAT_BYTES)
        self._data = torch.from_file(str(path), shared=True, size=n_rows * width).view(n_rows, width)
        self._row = self._end = 0

    def add(self, batch: int, rows: Tensor, columns: Columns | None) -> None:
        if batch != self._batch:
            self._batch, self._seen = batch, 0
            self.batches += 1
            self._row, self._end = self._end, self._end + len(rows)
        self._data[self._row : self._end, self._seen : self._seen + rows.shape[1]] = rows
        self._seen += rows.shape[1]

    def read(self, start: int, stop: int) -> Tensor:
        return self._data[:, start:stop]

    def close(self) -> None:
        del self._data
        self._path.unlink(missing_ok=True)


class LayerRows:
    """One layer's points as geometry reads them: see geometry.neighbors.Rows.

    `open(columns)` gives a store that holds these columns of a point; a layer larger than the budget comes in several
    `slices`, each of which runs the block again. `counts`: the rows of every process, in order; the first `n` rows of
    all are points, those after them echoes.
    """

    def __init__(
        self,
        open: Callable[[Columns], _Store],
        slices: Sequence[Columns],
        *,
        n: int,
        team: Team,
        counts: list[int],
    ):
        self._open, self._slices, self._team, self._counts = open, slices, team, counts
        self.n = n
        self.width = slices[-1][1]
        self.whole = len(slices) == 1

    def chunks(self) -> Iterator[Tensor]:
        """One pass over this process's share of the features, (rows of all processes, at most FEATURE_CHUNK) each."""
        step = FEATURE_CHUNK * self._team.size
        for start, stop in self._slices:
            store = self._open((start, stop))
            for first in range(0, stop - start, step):
                local = store.read(first, min(first + step, stop - start))
                yield self._team.share(local, self._counts)

    def reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        return self._team.reduce(tensor)
