"""Which backend searches for neighbours, torch or faiss. Both find the same ones: `auto` takes the faster."""

from __future__ import annotations

import logging
import time
from functools import cache
from importlib.util import find_spec

import torch

from idvl.errors import UsageError, quoted
from idvl.geometry.rows import DenseRows, Rows
from idvl.geometry.search import Search

logger = logging.getLogger(__name__)

# below this many points torch is faster, or faiss gains a few milliseconds at most
FAISS_POINTS = 2000
# on a CPU faiss is faster up to about this many features per point: at 2,000 points it breaks even at 550 features, at
# 3,000 at 1,200, at 4,000 at 1,800, at 8,000 at 3,000 (one core of an AMD EPYC; benchmarks/kernel.py)
FEATURES_PER_POINT = 1 / 4
# up to here the bound on faiss's own rounding, which grows with the features, stays useful
FEW_FEATURES = 4096


def choose(backend: str, rows: Rows, *, subsets: bool = False) -> bool:
    """Whether faiss searches these rows. It cannot where points come in chunks: those are always multiplied by torch.

    Raises UsageError for an unknown backend, and where faiss is requested and missing.
    """
    if backend not in ("auto", "torch", "faiss"):
        raise UsageError(f"neighbour backend {quoted(backend)} is none of auto, torch, faiss")
    if backend == "faiss" and find_spec("faiss") is None:
        raise UsageError("faiss is not installed: pip install 'idvl[faiss]', or take the backend torch")
    return isinstance(rows, DenseRows) and prefers(backend, rows.n, rows.width, rows.tensor.device, subsets=subsets)


def prefers(backend: str, n: int, width: int, device: torch.device, *, subsets: bool = False) -> bool:
    """Whether faiss searches a matrix (n, width) on this device: it is there, and requested or the faster one.

    `subsets`: whether neighbours within subsets are needed too, which takes torch's product in any case.
    """
    if backend == "torch" or not works_on(device):
        return False
    if backend == "faiss":
        return True
    if subsets or n < FAISS_POINTS or width > FEW_FEATURES:
        return False
    return width <= FEATURES_PER_POINT * n if device.type == "cpu" else _faster_on_gpu(n, width, device)


def works_on(device: torch.device) -> bool:
    """Whether faiss is installed and supports this device."""
    if find_spec("faiss") is None:
        return False
    if device.type == "cpu":
        return True
    import faiss

    return hasattr(faiss, "StandardGpuResources")


@cache
def _faster_on_gpu(n: int, width: int, device: torch.device) -> bool:
    """Whether faiss is faster on this GPU for points of this shape: each backend is timed once per process."""
    try:
        seconds = race(n, width, device)
    except RuntimeError as error:
        # torch's or faiss's own: the points of the race are beside what was planned
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
            logger.debug("no room to time faiss for %d points of %d features: torch searches for them", n, width)
            return False
        logger.warning("faiss does not work on this GPU (%s): torch searches for neighbours", str(error).split("\n")[0])
        return False
    logger.debug("%d points of %d features: torch takes %.4f s, faiss %.4f s", n, width, *seconds.values())
    return seconds["faiss"] < seconds["torch"]


def race(n: int, width: int, device: torch.device) -> dict[str, float]:
    """Seconds of a search with each backend over random points of 16 dimensions; the second of two counts."""
    generator = torch.Generator(device).manual_seed(0)
    inner, outer = (torch.randn(*shape, generator=generator, device=device) for shape in ((n, 16), (16, width)))
    rows, seconds = DenseRows(inner @ outer), {}
    for backend in ("torch", "faiss"):
        # the first one warms up
        for _ in range(2):
            start = time.perf_counter()
            with torch.no_grad():
                Search(rows, 2, (), 0.0, ()).run(torch.float32, backend == "faiss", None)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[backend] = time.perf_counter() - start
    return seconds
