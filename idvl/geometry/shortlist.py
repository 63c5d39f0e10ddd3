"""Candidate neighbours from faiss, for a matrix in memory. It does not know whether they turn out to be right."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from idvl.errors import UsageError, quoted
from idvl.geometry.candidates import Candidates
from idvl.geometry.rows import FEATURE_CHUNK, Matrix, Rows

# points asked for beyond the last rank, so that the search has something to be certain against
MARGIN = 8
# from here on faiss is the faster one: measured at 768 to 4,096 features on 2 cores (benchmarks/kernel.py)
MANY_POINTS = 10_000
# up to here the bound on faiss's own rounding, which grows with the features, stays useful
FEW_FEATURES = 4096


def choose(backend: str, rows: Rows) -> bool:
    """Whether faiss searches these rows. It cannot where points come in chunks: those are always multiplied by torch.

    Raises UsageError for an unknown backend, and where faiss is asked for and missing.
    """
    if backend not in ("auto", "torch", "faiss"):
        raise UsageError(f"neighbour backend {quoted(backend)} is none of auto, torch, faiss")
    missing = find_spec("faiss") is None
    if backend == "faiss" and missing:
        raise UsageError("faiss is not installed: pip install idvl[faiss], or take the backend torch")
    if backend == "torch" or missing or not isinstance(rows, Matrix):
        return False
    if rows.tensor.device.type == "cuda" and not _on_gpu():
        return False
    return prefers(backend, rows.n, rows.width)


def prefers(backend: str, n: int, width: int) -> bool:
    """Whether this backend means faiss for a matrix (n, width), if faiss is there."""
    return backend == "faiss" or (backend == "auto" and n >= MANY_POINTS and width <= FEW_FEATURES)


def _on_gpu() -> bool:
    import faiss

    return hasattr(faiss, "StandardGpuResources")


def search(matrix: Matrix, ids: Tensor, *, k: int, ranks: tuple[int, ...]) -> Candidates | None:
    """Candidates for the points `ids` among themselves; None where float32 does not hold the points.

    faiss adds up |x|^2 + |y|^2 - 2 x.y in float32, so a squared distance is off by at most gamma_(d + 4) (|x| + |y|)^2
    (see gram for the terms); whatever it leaves out is at least as far, by its own reckoning, as the last it returns.
    """
    points = matrix.tensor
    centred = torch.empty(len(ids), matrix.width, dtype=torch.float32, device=points.device)
    norms = torch.zeros(len(ids), dtype=torch.float64, device=points.device)
    for part, into in zip(points.split(FEATURE_CHUNK, 1), centred.split(FEATURE_CHUNK, 1), strict=True):
        rows = part if len(ids) == matrix.n else part[ids]
        torch.sub(rows, rows.mean(0, dtype=torch.promote_types(rows.dtype, torch.float32)), out=into)
        norms += torch.linalg.vector_norm(into, dim=1, dtype=torch.float64).square()
    limits = torch.finfo(torch.float32)
    if not float(norms.max()) < limits.max / 16:
        return None
    wanted = min(max((k, *ranks)) + MARGIN, len(ids) - 1)
    squares, columns = _search(centred, wanted + 1)
    unit = limits.eps / 2
    gamma = (matrix.width + 24) * unit / (1 - (matrix.width + 24) * unit)
    lengths, least = norms.sqrt(), 8 * matrix.width * limits.tiny
    return _candidates(matrix.n, ids, squares, columns, gamma, lengths, least, k, ranks)


def _search(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` nearest of each point, itself among them as a rule: squared distances and positions (m, count)."""
    import faiss

    if points.device.type == "cuda":
        import faiss.contrib.torch_utils

        return faiss.knn_gpu(faiss.StandardGpuResources(), points, points, count)
    squares, columns = faiss.knn(points.numpy(), points.numpy(), count)
    return torch.from_numpy(squares), torch.from_numpy(columns)


def _candidates(n, ids, squares, columns, gamma, lengths, least, k, ranks) -> Candidates:
    squares = squares.double()
    itself = columns == torch.arange(len(ids), device=ids.device)[:, None]
    squares = squares.masked_fill(itself, torch.inf)
    error = 1.001 * gamma * (lengths[:, None] + lengths[columns]).square() + least
    # the nearest points that are left out: as far as the last one found, less the error of the longest
    last = squares.masked_fill(itself, -torch.inf).amax(1)
    beyond = last - 1.001 * gamma * (lengths + lengths.max()).square() - least
    if columns.shape[1] >= len(ids):
        beyond.fill_(torch.inf)
    low, high = squares - error, squares + error
    bound = torch.minimum(high.kthvalue(k, dim=1).values, beyond)
    place, spot = ((low <= bound[:, None]) & ~itself).nonzero().unbind(1)
    horizon = torch.full((n,), torch.inf, dtype=torch.float64, device=ids.device)
    horizon[ids] = bound
    ranks = torch.tensor([rank - 1 for rank in ranks if rank < len(ids)], dtype=torch.long, device=ids.device)
    ranked = torch.zeros(n, len(ranks), 2, dtype=torch.float64, device=ids.device)
    lows = low.sort(1).values[:, ranks].minimum(beyond[:, None])
    ranked[ids] = torch.stack([lows, high.sort(1).values[:, ranks]], 2).clamp_(min=0)
    return Candidates(
        n=n,
        row=ids[place],
        column=ids[columns[place, spot]],
        square=squares[place, spot],
        error=error[place, spot],
        horizon=horizon,
        ranked=ranked,
    )
