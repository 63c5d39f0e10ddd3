"""The pairs among which each point's nearest neighbours certainly are. It does not know how pairs are measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from idvl.geometry.gram import SquaredDistances, full_precision

if TYPE_CHECKING:
    from idvl.geometry.pairs import PairDistances

# a squared distance known this well, relative to itself, need not be measured
SHARP = 0.5e-10


@dataclass(kw_only=True)
class Candidates:
    """Directed pairs in ascending order of `row`, each with a squared distance and its certain absolute error.

    Whatever is not listed for point i is farther than `horizon[i]` (squared). `ranked` (n, r, 2) bounds, below and
    above, the squared distances to the neighbours of certain ranks.
    """

    n: int
    row: Tensor
    column: Tensor
    square: Tensor
    error: Tensor
    horizon: Tensor
    ranked: Tensor

    def learn(self, measured: PairDistances) -> None:
        """Put what was measured in the place of what was bounded."""
        exact = measured.find(self.row * self.n + self.column)
        is_exact = ~exact.isnan()
        self.square = torch.where(is_exact, exact, self.square)
        self.error = torch.where(is_exact, 0.0, self.error)

    def vague(self) -> tuple[Tensor, Tensor]:
        """The pairs that must be measured."""
        loose = self.error > SHARP * self.square
        return self.row[loose], self.column[loose]

    def within(self, tolerance: float) -> tuple[Tensor, Tensor]:
        """The pairs at a squared distance of at most this."""
        near = self.square <= tolerance
        return self.row[near], self.column[near]

    def nearest(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """(squares (n, k), columns (n, k), errors (n, k)), ascending; inf, -1 and 0 where fewer than k are listed."""
        order = self.square.argsort(stable=True)
        order = order[self.row[order].argsort(stable=True)]
        row = self.row[order]
        count = torch.bincount(row, minlength=self.n)
        rank = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        first = rank < k
        squares = torch.full((self.n, k), torch.inf, dtype=torch.float64, device=row.device)
        columns = torch.full((self.n, k), -1, dtype=torch.long, device=row.device)
        errors = torch.zeros_like(squares)
        spot = row[first], rank[first]
        squares[spot], columns[spot] = self.square[order][first], self.column[order][first]
        errors[spot] = self.error[order][first]
        return squares, columns, errors

    def replace(self, rows: Tensor, other: Candidates) -> None:
        """Take what `other` lists for these rows."""
        mine = torch.ones(self.n, dtype=torch.bool, device=rows.device)
        mine[rows] = False
        self._select(mine[self.row])
        self.row = torch.cat([self.row, other.row])
        self.column = torch.cat([self.column, other.column])
        self.square = torch.cat([self.square, other.square])
        self.error = torch.cat([self.error, other.error])
        self.horizon[rows], self.ranked[rows] = other.horizon[rows], other.ranked[rows]

    def _select(self, chosen: Tensor) -> None:
        self.row, self.column = self.row[chosen], self.column[chosen]
        self.square, self.error = self.square[chosen], self.error[chosen]


def propose(
    squares: SquaredDistances,
    rows: Tensor,
    columns: Tensor,
    measured: PairDistances,
    *,
    k: int,
    tolerance: float,
    ranks: tuple[int, ...] = (),
    limit: int,
) -> Candidates | None:
    """For each of `rows`, all of `columns` that may be among its k nearest or within `tolerance` (squared) of it.

    Both are ids in ascending order, `rows` among `columns`, of which there are more than k. A point that may repeat an
    earlier one does not count among the k, so that the list holds whether or not that point is removed. None if more
    than `limit` pairs would be listed.
    """
    scan = _Scan(squares, rows, columns, k=k, tolerance=tolerance, ranks=ranks, limit=limit)
    with full_precision(rows.device):
        found = scan.run(measured)
        if found is not None and squares.stored and bool(scan.repeats.any()):
            scan.doubtful = scan.repeats[columns]
            found = scan.run(measured)
    return found


class _Scan:
    """One reading of the intervals; `repeats` (n,) marks the points that may repeat an earlier one."""

    def __init__(
        self,
        squares: SquaredDistances,
        rows: Tensor,
        columns: Tensor,
        *,
        k: int,
        tolerance: float,
        ranks: tuple[int, ...],
        limit: int,
    ):
        self.squares, self.rows, self.columns = squares, rows, columns
        self.k, self.tolerance, self.limit = k, tolerance, limit
        self.places = torch.tensor([rank - 1 for rank in ranks if rank < len(columns)], dtype=torch.long)
        self.depth = min(max((k, *ranks)), len(columns) - 1)
        self.repeats = torch.zeros(squares.n, dtype=torch.bool, device=rows.device)
        self.doubtful: Tensor | None = None

    def run(self, measured: PairDistances) -> Candidates | None:
        n, device = self.squares.n, self.rows.device
        horizon = torch.full((n,), torch.inf, dtype=torch.float64, device=device)
        ranked = torch.zeros(n, len(self.places), 2, dtype=torch.float64, device=device)
        listed, total = [], 0
        for ids, low, high in intervals(self.squares, self.rows, self.columns, measured):
            nearest = smallest(high, self.depth)
            if len(self.places):
                both = torch.stack([smallest(low, self.depth), nearest], 2)
                ranked[ids] = both[:, self.places].double().clamp_(min=0)
            unsure = self._unsure(ids, low)
            if unsure is not None:
                nearest = smallest(high.masked_fill(unsure, torch.inf), self.k)
            bound = nearest[:, self.k - 1]
            horizon[ids] = bound.double()
            place, column = self._pairs(low, high, bound).nonzero().unbind(1)
            total += len(place)
            if total > self.limit:
                return None
            bottom, top = low[place, column].double(), high[place, column].double()
            listed.append((ids[place], self.columns[column], (bottom + top) / 2, (top - bottom) / 2))
        row, column, square, error = (torch.cat(part) for part in zip(*listed, strict=True))
        return Candidates(n=n, row=row, column=column, square=square, error=error, horizon=horizon, ranked=ranked)

    def _unsure(self, ids: Tensor, low: Tensor) -> Tensor | None:
        """The columns that may not count as neighbours, if any: they may be removed."""
        unsure = None if self.doubtful is None else self.doubtful.expand_as(low)
        if float(low.min()) <= self.tolerance:
            near = low <= self.tolerance
            self.repeats[ids] = (near & (self.columns < ids[:, None])).any(1)
            unsure = near if unsure is None else near | unsure
        return unsure

    def _pairs(self, low: Tensor, high: Tensor, bound: Tensor) -> Tensor:
        """Which pairs (b, m) to list: all that may be among the k nearest."""
        # a point itself is at inf
        chosen = low <= bound[:, None].clamp(max=torch.finfo(low.dtype).max)
        if self.squares.dtype == torch.float64 and int(chosen.sum()) > 2 * self.k * len(low):
            # where the k smallest distances are sharp already, ties among them need no decision
            least, most = smallest(low, self.k), smallest(high, self.k)
            sharp = ((most - least) <= 2 * SHARP * least).all(1) & (most[:, -1] == bound)
            ties = torch.zeros_like(chosen).scatter_(1, high.topk(self.k, largest=False).indices, True)
            chosen = torch.where(sharp[:, None], ties, chosen)
        return chosen


def intervals(squares: SquaredDistances, rows: Tensor, columns: Tensor, measured: PairDistances):
    """(ids (b,), low (b, m), high (b, m)): bounds of the squared distances, inf at a point itself."""
    position = torch.full((squares.n,), -1, dtype=torch.long, device=rows.device)
    position[columns] = torch.arange(len(columns), device=rows.device)
    inside = torch.full_like(position, -1)
    for ids, square, error in squares.blocks(rows, columns):
        low, high = square - error, square.add_(error)
        if len(measured):
            inside[ids] = torch.arange(len(ids), device=rows.device)
            row, column, exact = measured.of_rows(ids)
            known = (inside[row] >= 0) & (position[column] >= 0)
            place = inside[row[known]], position[column[known]]
            exact, rounding = exact[known].to(low.dtype), torch.finfo(low.dtype).eps
            low[place], high[place] = exact * (1 - rounding), exact * (1 + rounding)
            inside[ids] = -1
        itself = torch.arange(len(ids), device=rows.device), position[ids]
        low[itself] = high[itself] = torch.inf
        yield ids, low, high


def first_repeats(
    squares: SquaredDistances, columns: Tensor, measured: PairDistances, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Each point that may lie within `tolerance` (squared) of an earlier one, and the first of these."""
    pairs = []
    with full_precision(columns.device):
        for ids, low, _ in intervals(squares, columns, columns, measured):
            near = (low <= tolerance) & (columns < ids[:, None])
            some = near.any(1)
            pairs.append((ids[some], columns[near[some].int().argmax(1)]))
    second, first = (torch.cat(part) for part in zip(*pairs, strict=True))
    return first, second


def smallest(block: Tensor, k: int) -> Tensor:
    """The k smallest of each row (b, k), ascending."""
    if block.device.type != "cpu":
        return block.topk(k, largest=False).values
    return torch.from_numpy(np.sort(np.partition(block.numpy(), k - 1, axis=1)[:, :k], axis=1))
