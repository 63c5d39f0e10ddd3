"""Candidate neighbours from faiss, for a matrix in memory. It does not know whether they turn out to be right."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from idvl.geometry.candidates import Candidates
from idvl.geometry.gram import PRODUCT_COLUMNS
from idvl.geometry.rows import DenseRows

# points asked for beyond the last rank, so that the search has something to be certain against
MARGIN = 8
# what faiss itself works in: products of 4,096 x 1,024 points and OpenBLAS's buffers on a CPU, a pool on a GPU
CPU_BYTES, GPU_BYTES = 2**26, 2**28


def workspace_bytes(n: int, width: int, device: torch.device) -> int:
    """Memory that a search of a matrix (n, width) holds besides the matrix: a centred copy, and faiss's own."""
    return 4 * n * width + (GPU_BYTES if device.type == "cuda" else CPU_BYTES)


def search(matrix: DenseRows, ids: Tensor, *, k: int, ranks: tuple[int, ...]) -> Candidates | None:
    """Candidates for the points `ids` among themselves; None where float32 does not hold the points.

    faiss adds up |x|^2 + |y|^2 - 2 x.y in float32, so a squared distance is off by at most gamma_(d + 4) (|x| + |y|)^2
    (see gram for the terms); whatever it leaves out is at least as far, by its own reckoning, as the last it returns.
    """
    points = matrix.tensor
    centred = torch.empty(len(ids), matrix.width, dtype=torch.float32, device=points.device)
    norms = torch.zeros(len(ids), dtype=torch.float64, device=points.device)
    for part, into in zip(points.split(PRODUCT_COLUMNS, 1), centred.split(PRODUCT_COLUMNS, 1), strict=True):
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

        with torch.cuda.device(points.device):
            return faiss.knn_gpu(_pool(points.device), points, points, count)
    squares, columns = faiss.knn(points.numpy(), points.numpy(), count)
    return torch.from_numpy(squares), torch.from_numpy(columns)


@cache
def _pool(device: torch.device) -> Any:
    """What faiss holds on a GPU, once per process: making it for every search would take longer than the search."""
    import faiss

    pool = faiss.StandardGpuResources()
    pool.setTempMemory(GPU_BYTES)
    return pool


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
