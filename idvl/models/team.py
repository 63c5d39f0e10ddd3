"""The processes that share a run: each holds the rows of its samples, and works on its part of the features.

Alone, every method is the identity. It does not know what the rows are.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from idvl.errors import RunError, UsageError


class Team:
    """`rank` of `size` processes; with size > 1 torch.distributed must be initialised."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    def part(self, count: int) -> range:
        """This process's contiguous part of `count` things."""
        return range(*self._bounds(count)[self.rank])

    def share(self, local: Tensor, counts: list[int]) -> Tensor:
        """All processes' rows, this process's columns.

        `local`: (counts[rank], c), the same c everywhere. Returns (sum(counts), about c / size).
        """
        if self.size == 1:
            return local
        columns = self._bounds(local.shape[1])
        start, stop = columns[self.rank]
        sent = torch.cat([local[:, a:b].reshape(-1) for a, b in columns])
        received = sent.new_empty(sum(counts) * (stop - start))
        dist.all_to_all_single(
            received,
            sent,
            [count * (stop - start) for count in counts],
            [local.shape[0] * (b - a) for a, b in columns],
        )
        return received.view(sum(counts), stop - start)

    def reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def counts(self, local: int) -> list[int]:
        """Every process's number."""
        if self.size == 1:
            return [local]
        gathered: list = [None] * self.size
        dist.all_gather_object(gathered, local)
        return gathered

    def first(self, make: Callable[[], Any]) -> Any:
        """What `make` gives on the first process, on all; an error there is raised on all."""
        if self.size == 1:
            return make()
        box = [self.each(make if self.rank == 0 else lambda: None)]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def each(self, make: Callable[[], Any]) -> Any:
        """What `make` gives on each process; an error on any is raised on all. `make` must not communicate."""
        if self.size == 1:
            return make()
        made = own = None
        try:
            made = make()
        except Exception as error:
            own = error
        known = own is None or isinstance(own, UsageError | RunError)
        errors: list = [None] * self.size
        dist.all_gather_object(errors, own if known else RunError(f"process {self.rank}: {type(own).__name__}: {own}"))
        if own is not None:
            raise own
        for error in filter(None, errors):
            raise error
        return made

    def _bounds(self, count: int) -> list[tuple[int, int]]:
        return list(pairwise(count * rank // self.size for rank in range(self.size + 1)))
