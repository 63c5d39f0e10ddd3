"""Exact squared distances of chosen pairs, from differences in float64. It does not know why they were chosen."""

from __future__ import annotations

import torch
from torch import Tensor

from idvl.geometry.rows import Rows

# float64 numbers worked on at a time: what a core's cache and the memory allocator reuse, or a share of a GPU's memory
CPU_NUMBERS, GPU_NUMBERS = 2**17, 2**24


def measure(rows: Rows, first: Tensor, second: Tensor) -> Tensor:
    """Squared distances (p,) in float64 between points `first` (p,) and `second` (p,), in one pass.

    Fastest when `first` is sorted. Each is a sum of squares, so its relative error is at most (c + chunks) 2^-52.
    """
    total = torch.zeros(len(first), dtype=torch.float64, device=first.device)
    numbers = CPU_NUMBERS if first.device.type == "cpu" else GPU_NUMBERS
    for chunk in rows.chunks():
        step = max(numbers // max(chunk.shape[1], 1), 1)
        for i, j, part in zip(first.split(step), second.split(step), total.split(step), strict=True):
            difference = chunk.index_select(0, i).double().sub_(chunk.index_select(0, j))
            part += difference.square_().sum(1)
    return rows.reduce(total)


class PairDistances:
    """The pairs whose exact squared distance is known. A pair is unordered: both directions are found."""

    def __init__(self, n: int, device: torch.device):
        self.n = n
        self.keys = torch.empty(0, dtype=torch.long, device=device)
        self.values = torch.empty(0, dtype=torch.float64, device=device)

    def __len__(self) -> int:
        return len(self.keys) // 2

    def add(self, rows: Rows, first: Tensor, second: Tensor) -> None:
        """Measure those of these pairs that are not known yet, in one pass over the rows, if any."""
        keys = torch.unique(torch.minimum(first, second) * self.n + torch.maximum(first, second))
        keys = keys[self.find(keys).isnan()]
        if not len(keys):
            return
        low, high = keys // self.n, keys % self.n
        values = measure(rows, low, high)
        all_keys = torch.cat([self.keys, keys, high * self.n + low])
        self.keys, order = all_keys.sort()
        self.values = torch.cat([self.values, values, values])[order]

    def find(self, keys: Tensor) -> Tensor:
        """Exact squared distances of the pairs i n + j, NaN where unknown."""
        if not len(self.keys):
            return torch.full(keys.shape, torch.nan, dtype=torch.float64, device=keys.device)
        place = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, self.values[place], torch.nan)

    def of_rows(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(row, column, square) of the known pairs whose row lies between the first and the last of these ids."""
        start, stop = torch.searchsorted(self.keys, torch.stack([ids[0] * self.n, (ids[-1] + 1) * self.n])).tolist()
        keys = self.keys[start:stop]
        return keys // self.n, keys % self.n, self.values[start:stop]
