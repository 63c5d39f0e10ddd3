"""The exact distances from every point to its nearest neighbours, without ever trusting a rounded product.

A Gram pass bounds every squared distance (gram), the pairs that may matter follow from the bounds (candidates), a second
pass measures them (pairs). The neighbours are certain by construction; what rounding leaves undecided is decided in
float64, and what float64 leaves undecided is given up with a reason. It does not know estimators.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from idvl.errors import UsageError
from idvl.geometry import shortlist
from idvl.geometry.candidates import Candidates, first_repeats, propose
from idvl.geometry.duplicates import repeats
from idvl.geometry.gram import PANEL_COLUMNS, PRODUCT_COLUMNS, Squares
from idvl.geometry.pairs import Measured
from idvl.geometry.rows import FEATURE_CHUNK, Matrix, Rows

__all__ = ["FEATURE_CHUNK", "Matrix", "Neighbors", "Rows", "nearest", "workspace_bytes"]

logger = logging.getLogger(__name__)

# below this many points a float64 product is cheaper than a float32 one and a second pass
FEW_POINTS = 512
# directed candidate pairs per point and neighbour; beyond it the bounds are too loose for float32, or for float64
LIMIT_FLOAT32, LIMIT_FLOAT64 = 16, 64
# numbers that may be read to measure the pairs that even float64 leaves undecided
LIMIT_NUMBERS = 4e9
# how far apart two computations of one point may be and still be one point, in units of the largest echo seen
NOISE_FACTOR = 4.0

Subsets = Callable[[int], Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    """The nearest neighbours among the distinct points.

    `distances` (m, k) float64 and `indices` (m, k) int64 into the original rows, ascending, self excluded, for the rows
    `kept` (m,); fewer than k columns where fewer than k other points are left. `ranked` (m, r, 2): lower and upper bound of the distance to the neighbours of rank `ranks` (r).
    `subset_distances`: for each subset of the kept points, the (s, k) distances within it. `noise_floor`: the largest
    distance between a point and its echo. `relative_error` certainly bounds the error of every distance in `distances`.
    `reason` says why there are none.
    """

    distances: Tensor
    indices: Tensor
    kept: Tensor
    n: int
    ranks: tuple[int, ...]
    ranked: Tensor
    subset_distances: list[Tensor]
    noise_floor: float
    relative_error: float
    reason: str | None = None
    diagnostics: dict[str, Any] = field(default_factory=dict)

    @property
    def n_duplicates(self) -> int:
        """Points removed because they repeat an earlier one."""
        return self.n - len(self.kept)


def nearest(
    rows: Rows,
    *,
    k: int = 2,
    ranks: Sequence[int] = (),
    subsets: Subsets | None = None,
    tolerance: float = 0.0,
    echoes: Sequence[int] = (),
    precision: str = "auto",
    backend: str = "auto",
) -> Neighbors:
    """The k nearest neighbours of every distinct point, exactly.

    Points within `tolerance` of an earlier one are removed first; with `echoes` (the points that the rows after the
    first n repeat) the tolerance is at least NOISE_FACTOR times the largest distance of an echo. `subsets` (number of
    kept points -> index tensors into them) asks for the k nearest within each subset too. `precision`: of the first
    product, "float32", "float64" or "auto". `backend`: "torch", "faiss" or "auto"; faiss searches a Matrix only.
    Two passes over the rows as a rule. Raises UsageError for a backend that is unknown or missing.
    """
    if precision not in ("auto", "float32", "float64"):
        raise UsageError(f"precision {precision!r} is none of auto, float32, float64")
    with torch.no_grad():
        search = _Search(rows, k, tuple(ranks), float(tolerance) ** 2, tuple(echoes))
        double = precision == "float64" or (precision == "auto" and (rows.n < FEW_POINTS or k > 2 or subsets))
        return search.run(torch.float64 if double else torch.float32, shortlist.choose(backend, rows), subsets)


def workspace_bytes(n: int) -> int:
    """Memory that a search over n points holds besides the points and one chunk of them, at most."""
    panel = n * min(n, PANEL_COLUMNS)
    return 8 * (n * n // 2 + panel + n * n + panel) + 8 * n * PRODUCT_COLUMNS + 2**25


class _Undecided(Exception):
    """There are no certain neighbours; the message says why."""


class _Search:
    """One search: what is known so far, and what it took."""

    def __init__(self, rows: Rows, k: int, ranks: tuple[int, ...], tolerance: float, echoes: tuple[int, ...]):
        self.rows, self.n, self.k, self.ranks = rows, rows.n, k, ranks
        self.tolerance, self.echoes = tolerance, echoes
        self.squares: Squares | None = None
        self.noise = 0.0
        self.escalations: list[str] = []

    def run(self, dtype: torch.dtype, use_faiss: bool, subsets: Subsets | None) -> Neighbors:
        """Search, first in `dtype`."""
        self.dtype, self.use_faiss = dtype, use_faiss
        candidates, reason, within = None, None, []
        try:
            candidates = self._settle(self._list())
            within = self._within(subsets) if subsets else []
        except _Undecided as undecided:
            reason = str(undecided)
        return self._result(candidates, within, reason)

    def _ids(self) -> Tensor:
        """The points that are left."""
        ids = self.kept.nonzero().view(-1)
        if len(ids) == 1 < self.n:
            raise _Undecided(f"constant: all {self.n} points are equal")
        if len(ids) <= 2:
            raise _Undecided(f"only {len(ids)} distinct points among {self.n}")
        self.k = min(self.k, len(ids) - 1)
        return ids

    def _meet(self, device: torch.device) -> None:
        """Begin with all points; the device is known only now."""
        if not hasattr(self, "kept"):
            self.kept = torch.ones(self.n, dtype=torch.bool, device=device)
            self.measured = Measured(self.n, device)

    def _product(self, dtype: torch.dtype) -> None:
        """Bound all distances, in float64 where float32 overflows."""
        self.dtype = dtype
        self.squares = Squares(self.rows, dtype, self.echoes)
        self._meet(self.squares.norms.device)
        self.noise = self.squares.noise
        self.tolerance = max(self.tolerance, NOISE_FACTOR**2 * self.noise)
        if not self.squares.finite:
            raise _Undecided("NaN or inf among the points")
        if not self.squares.trusted:
            self._escalate("overflow")

    def _escalate(self, why: str) -> None:
        if self.dtype == torch.float64:
            raise _Undecided(f"{why}: float64 does not decide which points are nearest")
        logger.debug("float32 does not decide the neighbours (%s): once more in float64", why)
        self.escalations.append(why)
        self._product(torch.float64)

    def _list(self) -> Candidates:
        """Candidates for all points that are left."""
        if self.use_faiss:
            self._meet(self.rows.tensor.device)
            candidates = shortlist.search(self.rows, self._ids(), k=self.k, ranks=self.ranks)
            if candidates is not None:
                return candidates
        return self._propose(None)

    def _propose(self, rows: Tensor | None) -> Candidates:
        """Candidates from the product for these points, or all that are left."""
        if self.squares is None:
            self._product(self.dtype)
        while True:
            columns = self._ids()
            chosen = columns if rows is None else rows[self.kept[rows]]
            options = {"k": self.k, "tolerance": self.tolerance, "ranks": self.ranks, "limit": self._limit()}
            found = propose(self.squares, chosen, columns, self.measured, **options)
            if found is not None:
                return found
            if not self._thin(columns):
                self._escalate("crowded")

    def _limit(self) -> int:
        if self.dtype == torch.float32:
            return LIMIT_FLOAT32 * self.n * self.k
        return max(LIMIT_FLOAT64 * self.n * self.k, int(LIMIT_NUMBERS / self.rows.width))

    def _thin(self, columns: Tensor) -> bool:
        """Where much may be repeated, remove the points that do repeat the first they may repeat. Were there any?"""
        first, second = first_repeats(self.squares, columns, self.measured, self.tolerance)
        if self.dtype == torch.float32 and len(first) < len(columns) / 10:
            return False
        self.measured.add(self.rows, first, second)
        equal = self.measured.find(first * self.n + second) <= self.tolerance
        return self._remove(first[equal], second[equal])

    def _remove(self, first: Tensor, second: Tensor) -> bool:
        gone = repeats(first, second)
        self.kept[gone] = False
        return bool(gone)

    def _settle(self, candidates: Candidates) -> Candidates:
        """Measure, remove duplicates and ask again, until nothing unlisted can be nearer than what is listed."""
        while True:
            self.measured.add(self.rows, *candidates.vague())
            candidates.learn(self.measured)
            if self._remove(*candidates.within(self.tolerance)):
                candidates = self._list()
                continue
            farthest = candidates.nearest(self.k)[0][:, -1]
            open_ = (farthest > candidates.horizon) | (candidates.horizon <= self.tolerance)
            failed = (self.kept & open_).nonzero().view(-1)
            if not len(failed):
                return candidates
            if self.use_faiss:
                self.escalations.append(f"{len(failed)} rows beyond the shortlist")
            left = len(self._ids())
            candidates.replace(failed, self._propose(failed))
            if len(self._ids()) < left:
                candidates = self._list()

    def _within(self, subsets: Subsets) -> list[Tensor]:
        """For each subset, the distances (s, k) to the nearest within it."""
        if self.squares is None or self.dtype == torch.float32:
            self._product(torch.float64)
        ids, found = self._ids(), []
        for subset in subsets(len(ids)):
            group = ids[subset.to(ids.device)].sort().values
            few = len(group) <= self.k
            options = {"k": self.k, "tolerance": -1.0, "limit": self._limit()}
            found.append(None if few else propose(self.squares, group, group, self.measured, **options))
            if found[-1] is None and not few:
                raise _Undecided("crowded: float64 does not decide which points are nearest")
        pairs = [candidates.vague() for candidates in found if candidates]
        self.measured.add(self.rows, *(torch.cat(part) for part in zip(*pairs, strict=True)))
        distances = []
        for candidates in found:
            if candidates:
                candidates.learn(self.measured)
                square = candidates.nearest(self.k)[0]
                distances.append(square[square[:, 0] < torch.inf].sqrt())
            else:
                distances.append(torch.empty(0, self.k, dtype=torch.float64))
        return distances

    def _result(self, candidates: Candidates | None, within: list[Tensor], reason: str | None) -> Neighbors:
        kept = self.kept.nonzero().view(-1)
        ranks = tuple(rank for rank in self.ranks if rank < len(kept))
        distances, indices = torch.empty(len(kept), 0, dtype=torch.float64), torch.empty(len(kept), 0, dtype=torch.long)
        ranked, relative = torch.empty(len(kept), 0, 2, dtype=torch.float64), 0.0
        if candidates is not None:
            squares, columns, errors = (part[kept] for part in candidates.nearest(self.k))
            distances, indices, ranked = squares.sqrt(), columns, candidates.ranked[kept].sqrt()
            for place, rank in enumerate(ranks):
                if rank <= self.k:
                    ranked[:, place] = distances[:, rank - 1, None]
            measuring = (min(self.rows.width, FEATURE_CHUNK) + self.rows.width / FEATURE_CHUNK + 8) * 2.0**-53
            relative = float((errors / squares).max()) / 2 + measuring
        record = {
            "backend": "faiss" if self.use_faiss and self.squares is None else "torch",
            "precision": str(self.dtype).removeprefix("torch."),
            "certified_rows": len(distances) if candidates is not None else 0,
            "measured_pairs": len(self.measured),
            "escalations": self.escalations,
            "relative_error": relative,
            "noise_floor": self.noise**0.5,
        }
        return Neighbors(
            distances=distances,
            indices=indices,
            kept=kept,
            n=self.n,
            ranks=ranks,
            ranked=ranked,
            subset_distances=within,
            noise_floor=self.noise**0.5,
            relative_error=relative,
            reason=reason,
            diagnostics=record,
        )
