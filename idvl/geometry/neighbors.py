"""The exact distances from every point to its nearest neighbours, without ever trusting a rounded product.

A Gram pass bounds every squared distance (gram), the pairs that may matter follow from the bounds (candidates), a
second pass measures them (pairs). The neighbours are certain by construction; what rounding leaves undecided is decided
in float64, and what float64 leaves undecided is given up with a reason (search). It does not know estimators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from idvl.errors import UsageError, quoted
from idvl.geometry import backend as backends
from idvl.geometry.gram import PANEL_COLUMNS, PRODUCT_COLUMNS
from idvl.geometry.rows import FEATURE_CHUNK, DenseRows, Rows
from idvl.geometry.search import Search, Subsets

__all__ = ["FEATURE_CHUNK", "DenseRows", "Neighbors", "Rows", "nearest", "workspace_bytes"]

# below this many points a float64 product is cheaper than a float32 one and a second pass (measured on 2 cores)
FEW_POINTS = 160


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    """The nearest neighbours among the distinct points.

    `distances` (m, k) float64 and `indices` (m, k) int64 into the original rows, ascending, self excluded, for the rows
    `kept` (m,); fewer than k columns where fewer than k other points are left. `ranked` (m, r, 2): lower and upper
    bound of the distance to the neighbours of rank `ranks` (r). `subset_distances`: for each subset of the kept points,
    the (s, k) distances within it. `noise_floor`: the largest distance between a point and its echo. `relative_error`
    certainly bounds the error of every distance in `distances`. `reason` says why there are none.
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
        raise UsageError(f"precision {quoted(precision)} is none of auto, float32, float64")
    double = precision == "float64" or (precision == "auto" and (rows.n < FEW_POINTS or k > 2 or subsets is not None))
    search = Search(rows, k, tuple(ranks), float(tolerance) ** 2, tuple(echoes))
    with torch.no_grad():
        use_faiss = backends.choose(backend, rows, subsets=subsets is not None)
        search.run(torch.float64 if double else torch.float32, use_faiss, subsets)
        return _result(search)


def workspace_bytes(n: int) -> int:
    """Memory that a search over n points holds besides the points and one chunk of them, at most."""
    panel = n * min(n, PANEL_COLUMNS)
    return 8 * (n * n // 2 + panel + n * n + panel) + 8 * n * PRODUCT_COLUMNS + 2**25


def _result(search: Search) -> Neighbors:
    kept = search.kept.nonzero().view(-1)
    candidates, reason = search.candidates, search.reason
    distances, indices = kept.new_empty(len(kept), 0, dtype=torch.float64), kept.new_empty(len(kept), 0)
    ranks, ranked, error = (), kept.new_empty(len(kept), 0, 2, dtype=torch.float64), 0.0
    if candidates is not None:
        squares, indices, errors = (part[kept] for part in candidates.nearest(search.k))
        distances, ranked = squares.sqrt(), candidates.ranked[kept].sqrt()
        ranks = tuple(rank for rank in search.ranks if rank < len(kept))
        for column, rank in enumerate(ranks):
            if rank <= search.k:
                ranked[:, column] = distances[:, rank - 1, None]
        # of a sum of squares, as pairs adds it up
        summing = min(search.rows.width, FEATURE_CHUNK) + search.rows.width / FEATURE_CHUNK + 8
        error = float((errors / squares).max()) / 2 + summing * 2.0**-53
    record = {
        "backend": "faiss" if search.use_faiss and search.squares is None else "torch",
        "precision": str(search.dtype).removeprefix("torch."),
        "certified_rows": len(distances) if candidates is not None else 0,
        "measured_pairs": len(search.measured),
        "escalations": search.escalations,
        "relative_error": error,
        "noise_floor": search.noise**0.5,
    }
    return Neighbors(
        distances=distances,
        indices=indices,
        kept=kept,
        n=search.n,
        ranks=ranks,
        ranked=ranked,
        subset_distances=search.within,
        noise_floor=search.noise**0.5,
        relative_error=error,
        reason=reason,
        diagnostics=record,
    )
