"""Nearest neighbours: exact on hard points, whatever the chunks, processes or backend; duplicates; refusals."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from idvl.errors import UsageError
from idvl.geometry import backend, gram
from idvl.geometry.backend import race as _race
from idvl.geometry.neighbors import DenseRows, Neighbors, nearest
from tests.support.clouds import HARD, Pieces, brute, gaussian

RANKS = (1, 2, 4, 8, 16, 32, 64)
needs_faiss = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")


def largest_error(found: Neighbors, points: Tensor) -> float:
    exact = brute(points[found.kept], found.distances.shape[1])
    return float(((found.distances - exact) / exact).abs().max())


@pytest.mark.parametrize("precision", ["float32", "auto"])
@pytest.mark.parametrize("name", HARD)
def test_hard_points_agree_with_brute_force(name: str, precision: str) -> None:
    points = HARD[name](400)
    found = nearest(DenseRows(points), precision=precision, ranks=RANKS)
    assert found.reason is None and found.n_duplicates == 0
    assert largest_error(found, points) < 1e-10 and found.relative_error < 1e-10
    exact = brute(points, 64)[:, [rank - 1 for rank in RANKS]]
    assert (found.ranked[..., 0] <= exact * (1 + 1e-12)).all()
    assert (found.ranked[..., 1] >= exact * (1 - 1e-12)).all()


@pytest.mark.parametrize("name", ["gaussian", "clusters 10000", "helix", "float64", "near duplicates 1e-4"])
def test_many_neighbours_agree_with_brute_force(name: str) -> None:
    points = HARD[name](300)
    assert largest_error(nearest(DenseRows(points), k=64), points) < 1e-9


def test_indices_are_those_of_the_distances() -> None:
    points = gaussian(600, 5, 40).double()
    found = nearest(DenseRows(points))
    for rank in range(2):
        assert torch.allclose((points - points[found.indices[:, rank]]).norm(dim=1), found.distances[:, rank])


def test_chunks_do_not_matter_and_two_passes_do() -> None:
    points = gaussian(700, 10, 500)
    rows = Pieces(points)
    found, whole = nearest(rows, ranks=RANKS), nearest(DenseRows(points), ranks=RANKS)
    assert rows.passes == 2
    assert torch.allclose(found.distances, whole.distances, rtol=1e-13) and torch.equal(found.indices, whole.indices)


def test_exact_copies_still_take_two_passes() -> None:
    points = gaussian(700, 10, 500)
    points[600:] = points[:100]
    rows = Pieces(points)
    assert nearest(rows).n_duplicates == 100 and rows.passes == 2


class Share:
    """One process's features, and a sum with the other's."""

    def __init__(self, points: Tensor, board: dict[int, Tensor], barrier: threading.Barrier, rank: int, width: int):
        self.inner, self.board, self.barrier, self.rank = Pieces(points), board, barrier, rank
        self.n, self.width = len(points), width

    def chunks(self) -> Iterator[Tensor]:
        return self.inner.chunks()

    def reduce(self, tensor: Tensor) -> Tensor:
        self.board[self.rank] = tensor.clone()
        self.barrier.wait()
        total = self.board[0] + self.board[1]
        self.barrier.wait()
        return total


@pytest.mark.parametrize("name", ["gaussian", "clusters 10000"])
def test_two_processes_equal_one(name: str) -> None:
    points = HARD[name](600)
    board: dict[int, Tensor] = {}
    barrier = threading.Barrier(2, timeout=60)
    results: dict[int, Neighbors] = {}

    def work(rank: int, part: Tensor) -> None:
        results[rank] = nearest(Share(part, board, barrier, rank, points.shape[1]), ranks=RANKS)

    parts = enumerate([points[:, :70], points[:, 70:]])
    threads = [threading.Thread(target=work, args=part) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = nearest(DenseRows(points), ranks=RANKS)
    for found in results.values():
        assert torch.allclose(found.distances, alone.distances, rtol=1e-12)
        assert torch.equal(found.indices, alone.indices)


@pytest.mark.parametrize(
    ("sources", "kept"),
    [(torch.arange(600) % 540, 540), ((torch.arange(600) - 300).clamp(min=0), 300), (torch.arange(600) % 40, 40)],
    ids=["a tenth copied", "half identical", "forty values"],
)
def test_copies_are_counted_once(sources: Tensor, kept: int) -> None:
    points = gaussian(600, 10, 200)[sources]
    found = nearest(DenseRows(points), ranks=RANKS)
    assert len(found.kept) == kept and found.n_duplicates == 600 - kept
    assert len(torch.unique(points[found.kept], dim=0)) == kept
    assert largest_error(found, points) < 1e-12
    ranks = [rank for rank in RANKS if rank < kept]
    exact = brute(points[found.kept], ranks[-1])[:, [rank - 1 for rank in ranks]]
    assert found.ranks == tuple(ranks)
    assert (found.ranked[..., 0] <= exact * (1 + 1e-12)).all() and (found.ranked[..., 1] >= exact * (1 - 1e-12)).all()


@pytest.mark.parametrize("value", [0.0, 3.3, 1e6])
def test_constant_points_have_a_reason(value: float) -> None:
    rows = Pieces(torch.full((600, 50), value))
    found = nearest(rows)
    assert found.reason == "constant: all 600 points are equal" and found.n_duplicates == 599
    # a third one where all squares are zero: they may have underflowed
    assert rows.passes == (2 if value == 3.3 else 3)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_inf_have_a_reason(bad: float) -> None:
    points = gaussian(600, 10, 50)
    points[3, 4] = bad
    rows = Pieces(points)
    assert nearest(rows).reason == "NaN or inf among the points" and rows.passes == 1


def noisy(points: Tensor, seed: int) -> Tensor:
    return points + 1e-6 * gaussian(*points.shape, points.shape[1], seed=seed) / points.shape[1] ** 0.5


def test_points_apart_by_the_noise_of_echoes_are_one() -> None:
    distinct = gaussian(500, 10, 64)
    points = noisy(distinct[torch.cat([torch.arange(500), torch.arange(100)])], seed=1)
    echoes = list(range(0, 16))
    rows = Pieces(torch.cat([points, noisy(distinct[echoes], seed=2)]), n=600)
    found = nearest(rows, echoes=echoes)
    assert rows.passes == 2
    assert found.noise_floor == pytest.approx(float((rows.points[600:] - points[:16]).double().norm(dim=1).max()))
    assert torch.equal(found.kept, torch.arange(500))
    assert largest_error(found, points) < 1e-12


def test_points_that_are_all_noise_are_constant() -> None:
    points = noisy(gaussian(1, 10, 64).expand(616, 64), seed=1)
    found = nearest(Pieces(points, n=600), echoes=range(16))
    assert found.reason == "constant: all 600 points are equal"


def test_equal_echoes_remove_nothing() -> None:
    points = gaussian(600, 10, 64)
    found = nearest(Pieces(torch.cat([points, points[:8]]), n=600), echoes=range(8))
    assert found.noise_floor == 0 and found.n_duplicates == 0


def test_points_within_the_tolerance_are_one() -> None:
    points = HARD["near duplicates 1e-4"](600)
    assert nearest(DenseRows(points), tolerance=1e-2).n_duplicates == 60


@pytest.mark.parametrize("name", ["clusters 10000", "ties", "huge values"])
def test_what_float32_cannot_decide_is_decided_in_float64(name: str) -> None:
    found = nearest(DenseRows(HARD[name](400)), precision="float32")
    assert found.diagnostics["precision"] == "float64" and found.diagnostics["escalations"]


def test_what_float64_cannot_decide_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idvl.geometry.search.LIMIT_NUMBERS", 0)
    points = gaussian(600, 10, 64).double()
    points[::2] += 1e12
    found = nearest(DenseRows(points))
    assert found.reason == "crowded: float64 does not decide which points are nearest"


def test_a_matrix_too_large_for_its_squares_goes_panel_by_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    points = gaussian(600, 10, 64)
    points[500:] = points[:100]
    stored = nearest(DenseRows(points), ranks=RANKS)
    monkeypatch.setattr(gram, "STORED_BYTES", 0)
    monkeypatch.setattr(gram, "PANEL_BYTES", 600 * 8 * 150)
    panels = nearest(DenseRows(points), ranks=RANKS)
    assert torch.equal(panels.distances, stored.distances) and torch.equal(panels.indices, stored.indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_are_the_same_on_every_processor(dtype: torch.dtype) -> None:
    """Each term rounded on its own, as IEEE 754 says: what is measured depends on them, on all processes alike."""
    squares = gram.SquaredDistances(DenseRows(gaussian(300, 10, 64)), dtype)
    kind = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
    norms = squares.norms.numpy()
    lengths = np.sqrt(norms)
    expected = np.outer((squares.inner * lengths).astype(kind), lengths.astype(kind))
    expected += (squares.outer * norms + squares.least).astype(kind)[:, None]
    expected += (squares.outer * norms).astype(kind)
    every = torch.arange(300)
    found = torch.cat([errors for _, _, errors in squares.blocks(every, every)])
    assert found.numpy().tobytes() == expected.tobytes()


@needs_faiss
@pytest.mark.parametrize("name", [name for name in HARD if name != "ties"])
def test_faiss_finds_the_same(name: str) -> None:
    points = HARD[name](400)
    ours, theirs = (nearest(DenseRows(points), backend=backend, ranks=RANKS) for backend in ("torch", "faiss"))
    assert torch.allclose(theirs.distances, ours.distances, rtol=1e-10)
    assert torch.equal(theirs.indices, ours.indices)


@needs_faiss
@pytest.mark.parametrize("copies", [60, 300])
def test_faiss_removes_the_same_copies(copies: int) -> None:
    points = gaussian(600, 10, 200)
    points[600 - copies :] = points[0] if copies == 300 else points[:copies]
    ours, theirs = (nearest(DenseRows(points), backend=backend, ranks=RANKS) for backend in ("torch", "faiss"))
    assert torch.equal(theirs.kept, ours.kept) and torch.equal(theirs.indices, ours.indices)
    exact = brute(points[ours.kept], 64)[:, [rank - 1 for rank in RANKS]]
    assert (theirs.ranked[..., 0] <= exact * (1 + 1e-12)).all() and (theirs.ranked[..., 1] >= exact * (1 - 1e-12)).all()


@needs_faiss
@pytest.mark.parametrize(
    ("n", "width", "settings", "expected"),
    [
        (2000, 400, {}, "faiss"),
        (2000, 600, {}, "torch"),
        (1000, 60, {}, "torch"),
        (2000, 60, {"subsets": lambda n: [torch.arange(n // 2)]}, "torch"),
    ],
)
def test_auto_takes_the_backend_that_was_measured_to_be_faster(n, width, settings, expected) -> None:
    found = nearest(DenseRows(gaussian(n, 10, width)), **settings)
    assert found.diagnostics["backend"] == expected and found.diagnostics["escalations"] == []


@needs_faiss
def test_auto_times_both_on_a_gpu_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    raced, cuda = [], torch.device("cuda", 0)

    def race(n: int, width: int, device: torch.device) -> dict[str, float]:
        raced.append((n, width))
        if width == 9:
            raise RuntimeError("no kernel image\nis available")
        if width == 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if width == 11:
            raise RuntimeError("StandardGpuResources: alloc fail (cudaMalloc error out of memory [2])")
        return {"torch": 2.0, "faiss": 1.0 if width == 7 else 3.0}

    monkeypatch.setattr(backend, "works_on", lambda device: True)
    monkeypatch.setattr(backend, "race", race)
    backend._faster_on_gpu.cache_clear()
    assert [backend.prefers("auto", 2000, width, cuda) for width in (7, 8, 9, 10, 11, 7, 5000)] == [
        True,
        *[False] * 4,
        True,
        False,
    ]
    assert raced == [(2000, width) for width in range(7, 12)]
    # a full GPU does not say that faiss fails on it
    (warned,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "does not work on this GPU (no kernel image)" in warned
    backend._faster_on_gpu.cache_clear()
    seconds = _race(300, 40, torch.device("cpu"))
    assert seconds.keys() == {"torch", "faiss"} and all(0 < value < 60 for value in seconds.values())


@needs_faiss
def test_chunked_rows_go_through_the_product_even_with_faiss() -> None:
    assert nearest(Pieces(gaussian(100, 5, 64)), backend="faiss").diagnostics["backend"] == "torch"


def test_lowered_precision_changes_nothing() -> None:
    points = HARD["outliers 3000"](600)
    before = nearest(DenseRows(points)).distances
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(nearest(DenseRows(points)).distances, before)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_unknown_backend_and_missing_faiss_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    points = DenseRows(gaussian(30, 5, 8))
    with pytest.raises(UsageError, match="'fais' is none of auto, torch, faiss"):
        nearest(points, backend="fais")
    monkeypatch.setattr("idvl.geometry.backend.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'idvl\[faiss\]'"):
        nearest(points, backend="faiss")
    assert nearest(points).diagnostics["backend"] == "torch"
