"""One search for nearest neighbours: bound, list, measure, remove duplicates, and again where that was not enough.

It does not know what its result is for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from idvl.geometry import shortlist
from idvl.geometry.candidates import Candidates, first_repeats, propose
from idvl.geometry.duplicates import repeats
from idvl.geometry.gram import SquaredDistances
from idvl.geometry.pairs import PairDistances
from idvl.geometry.rows import Rows

logger = logging.getLogger(__name__)

# directed candidate pairs per point and neighbour; beyond it the bounds are too loose for float32, or for float64
LIMIT_FLOAT32, LIMIT_FLOAT64 = 16, 64
# numbers that may be read to measure the pairs that even float64 leaves undecided
LIMIT_NUMBERS = 4e9
# how far apart two computations of one point may be and still be one point, in units of the largest echo seen
NOISE_FACTOR = 4.0
# pairs that may be listed at all, some 50 bytes each
MOST_PAIRS = 2**23
# squared distances below it may lose digits to underflow
FAINTEST = 1e-240

# number of points left -> index tensors into them
Subsets = Callable[[int], Sequence[Tensor]]


class Undecided(Exception):
    """There are no certain neighbours; the message says why."""


class Search:
    """What is known so far, and what it took.

    `kept` (n,) masks the points that are left, `measured` holds the pairs known exactly, `within` the distances in each
    subset, `noise` the largest squared distance of an echo; `tolerance` is squared.
    """

    def __init__(self, rows: Rows, k: int, ranks: tuple[int, ...], tolerance: float, echoes: tuple[int, ...]):
        self.rows, self.n, self.k, self.ranks = rows, rows.n, k, ranks
        self.tolerance, self.echoes = tolerance, echoes
        self.squares: SquaredDistances | None = None
        self.noise = 0.0
        self.escalations: list[str] = []
        self.candidates: Candidates | None = None
        self.within: list[Tensor] = []
        self.reason: str | None = None

    def run(self, dtype: torch.dtype, use_faiss: bool, subsets: Subsets | None) -> None:
        """Search, first in `dtype`: fills `candidates` and `within`, or `reason`."""
        self.dtype, self.use_faiss = dtype, use_faiss
        try:
            candidates = self._certify(self._list())
            self.within = self._within(subsets) if subsets else []
            self.candidates = candidates
        except Undecided as undecided:
            self.reason = str(undecided)

    def _ids(self) -> Tensor:
        """The points that are left."""
        ids = self.kept.nonzero().view(-1)
        if len(ids) == 1 < self.n:
            raise Undecided(f"constant: all {self.n} points are equal")
        if len(ids) <= 2:
            raise Undecided(f"only {len(ids)} distinct points among {self.n}")
        self.k = min(self.k, len(ids) - 1)
        return ids

    def _meet(self, device: torch.device) -> None:
        """Begin with all points; the device is known only now."""
        if not hasattr(self, "kept"):
            self.kept = torch.ones(self.n, dtype=torch.bool, device=device)
            self.measured = PairDistances(self.n, device)

    def _product(self, dtype: torch.dtype) -> None:
        """Bound all distances, in float64 where float32 overflows."""
        self.dtype = dtype
        self.squares = SquaredDistances(self.rows, dtype, self.echoes)
        self._meet(self.squares.norms.device)
        self.noise = self.squares.noise
        self.tolerance = max(self.tolerance, NOISE_FACTOR**2 * self.noise)
        if not self.squares.finite:
            raise Undecided("NaN or inf among the points")
        largest = float(self.squares.norms.max())
        faint = largest < FAINTEST and bool(largest or self._differ())
        if faint and dtype == torch.float64:
            raise Undecided("the points lie within 1e-120 of each other, where squares underflow: multiply them")
        if faint or not self.squares.trusted:
            self._escalate("underflow" if faint else "overflow")

    def _differ(self) -> bool:
        """Whether any two points differ at all, where every square is zero."""
        differing = [(chunk[1 : self.n] != chunk[:1]).any() for chunk in self.rows.chunks()]
        return bool(self.rows.reduce(torch.stack(differing).sum()))

    def _escalate(self, why: str) -> None:
        if self.dtype == torch.float64:
            raise Undecided(f"{why}: float64 does not decide which points are nearest")
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
            candidates = propose(self.squares, chosen, columns, self.measured, **options)
            if candidates is not None:
                return candidates
            if not self._thin(columns):
                self._escalate("crowded")

    def _limit(self) -> int:
        if self.dtype == torch.float32:
            return LIMIT_FLOAT32 * self.n * self.k
        return max(LIMIT_FLOAT64 * self.n * self.k, min(int(LIMIT_NUMBERS / self.rows.width), MOST_PAIRS))

    def _thin(self, columns: Tensor) -> bool:
        """Where much may be repeated, remove the points that do repeat the first they may repeat. Were there any?"""
        first, second = first_repeats(self.squares, columns, self.measured, self.tolerance)
        if self.dtype == torch.float32 and len(first) < len(columns) / 10:
            return False
        self.measured.add(self.rows, first, second)
        equal = self.measured.find(first * self.n + second) <= self.tolerance
        return self._remove(first[equal], second[equal])

    def _remove(self, first: Tensor, second: Tensor) -> bool:
        duplicates = repeats(first, second)
        self.kept[duplicates] = False
        return bool(duplicates)

    def _certify(self, candidates: Candidates) -> Candidates:
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
        ids, proposals = self._ids(), []
        for subset in subsets(len(ids)):
            group = ids[subset.to(ids.device)].sort().values
            few = len(group) <= self.k
            options = {"k": self.k, "tolerance": -1.0, "limit": self._limit()}
            proposals.append(None if few else propose(self.squares, group, group, self.measured, **options))
            if proposals[-1] is None and not few:
                raise Undecided("crowded: float64 does not decide which points are nearest")
        pairs = [candidates.vague() for candidates in proposals if candidates]
        self.measured.add(self.rows, *(torch.cat(part) for part in zip(*pairs, strict=True)))
        distances = []
        for candidates in proposals:
            if candidates:
                candidates.learn(self.measured)
                square = candidates.nearest(self.k)[0]
                distances.append(square[square[:, 0] < torch.inf].sqrt())
            else:
                distances.append(torch.empty(0, self.k, dtype=torch.float64))
        return distances
