"""Estimates: known answers, agreement with reference implementations, honest refusals."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from idvl.errors import UsageError
from idvl.geometry.estimators import ESTIMATORS, estimate, requirements
from idvl.geometry.intrinsic_dimension import intrinsic_dimension
from idvl.geometry.neighbors import DenseRows, nearest
from tests.support.clouds import HARD, Pieces, brute, gaussian


@pytest.mark.parametrize("estimator", ["twonn", "twonn-mle", "gride"])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_a_cube_of_known_dimension(d: int, estimator: str) -> None:
    generator = torch.Generator().manual_seed(d)
    # on a torus, so that there is no boundary
    angles = 2 * torch.pi * torch.rand(1500, d, generator=generator, dtype=torch.float64)
    found = intrinsic_dimension(torch.cat([angles.cos(), angles.sin()], 1), estimator)
    assert abs(found.dimension - d) < 3 * found.stderr + 0.04 * d
    assert found.stderr < 0.06 * d and found.n_points == 1500


def test_icml24_of_known_dimension() -> None:
    assert intrinsic_dimension(gaussian(1000, 5, 40), "icml24").dimension == pytest.approx(5, abs=0.4)


@pytest.mark.parametrize("name", ["gaussian", "swiss roll", "offset 100", "float64", "massive activations"])
def test_twonn_equals_scikit_dimension(name: str) -> None:
    skdim = pytest.importorskip("skdim.id")
    points = HARD[name](700).double()
    mine = intrinsic_dimension(points).dimension
    # it finds neighbours by a product above 25 features: give it exact distances
    theirs = skdim.TwoNN(dist=True).fit(brute(points).numpy()).dimension_
    assert mine == pytest.approx(theirs, rel=1e-9)
    assert mine == pytest.approx(skdim.TwoNN().fit(points.numpy()).dimension_, rel=1e-6)


@pytest.mark.parametrize("name", HARD)
def test_estimates_equal_those_from_brute_force(name: str) -> None:
    points = HARD[name](600)
    if name == "ties":
        assert intrinsic_dimension(points).dimension is None
        return
    distances = brute(points)
    x = (distances[:, 1] / distances[:, 0]).log().sort().values
    k = int(600 * 0.9)
    y = -torch.log(1 - torch.arange(1, k + 1, dtype=torch.float64) / 600)
    assert intrinsic_dimension(points).dimension == pytest.approx(float(x[:k] @ y / (x[:k] @ x[:k])), rel=1e-9)
    assert intrinsic_dimension(points, "twonn-mle").dimension == pytest.approx(float(599 / x.sum()), rel=1e-9)


def test_gride_equals_scikit_dimension() -> None:
    skdim = pytest.importorskip("skdim.id")
    if not hasattr(skdim, "GRIDE"):
        pytest.skip("this scikit-dimension has no GRIDE")
    points = gaussian(500, 5, 20).double()
    found = intrinsic_dimension(points, "gride")
    exact = brute(points, 64)
    for scale in found.diagnostics["gride"]:
        m = scale["neighbors"][0]
        d, x, n = scale["dimension"], (exact[:, 2 * m - 1] / exact[:, m - 1]).log(), 500
        score = n / d + (m - 1) * (x / (1 - torch.exp(-d * x))).sum() - (2 * m - 1) * x.sum()
        assert abs(float(score)) < 1e-8 * n
    assert found.dimension == pytest.approx(found.diagnostics["gride"][1]["dimension"])


def test_gride_at_the_first_scale_is_the_biased_mle() -> None:
    points = gaussian(500, 5, 20).double()
    first = intrinsic_dimension(points, "gride").diagnostics["gride"][0]["dimension"]
    assert first * 499 / 500 == pytest.approx(intrinsic_dimension(points, "twonn-mle").dimension, rel=1e-10)


def reference_icml24(points: torch.Tensor, seed: int) -> tuple[float, float]:
    """The paper's code in its own order: a sorted distance matrix per part."""
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    n, generator, means = len(points), torch.Generator().manual_seed(seed), []
    for blocks in range(1, 21):
        order, dims = torch.randperm(n, generator=generator).numpy(), []
        for i in range(blocks):
            part = order[i * (n // blocks) : (i + 1) * (n // blocks)]
            rows = np.sort(distances[np.ix_(part, part)], axis=1)
            r1, r2 = rows[:, 1], rows[:, 2]
            keep = (r1 != 0) & (r1 != r2)
            mu = np.sort(r2[keep] / r1[keep])
            f = np.arange(1, len(mu) + 1) / len(mu)
            x, y = np.log(mu[:-2]), -np.log(1 - f[:-2])
            dims.append(x @ y / (x @ x))
        means.append(np.mean(dims))
    return float(np.mean(means)), float(np.std(dims))


@pytest.mark.parametrize("name", ["gaussian", "swiss roll", "float64"])
def test_icml24_equals_the_papers_code(name: str) -> None:
    points = HARD[name](300).double()
    found = intrinsic_dimension(points, "icml24", seed=3)
    assert found.diagnostics["seed"] == 3
    value, spread = reference_icml24(points, 3)
    assert found.dimension == pytest.approx(value, rel=1e-9)
    assert found.diagnostics["last_parts_std"] == pytest.approx(spread, rel=1e-9)
    assert 0 < found.stderr < found.diagnostics["last_parts_std"]
    assert intrinsic_dimension(points, "icml24", seed=4).dimension != found.dimension


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_same_call_gives_the_same_json(estimator: str) -> None:
    points = gaussian(600, 5, 60)
    first, second = (intrinsic_dimension(points, estimator) for _ in range(2))
    assert json.dumps(first.diagnostics, allow_nan=False) == json.dumps(second.diagnostics, allow_nan=False)
    assert (first.dimension, first.stderr) == (second.dimension, second.stderr)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rows_in_pieces_and_two_calls(estimator: str) -> None:
    points = gaussian(600, 5, 60)
    found = estimate(nearest(Pieces(points), **requirements(estimator, 0)), estimator, 0)
    assert found.dimension == pytest.approx(intrinsic_dimension(points, estimator).dimension, rel=1e-10)


def test_copies_change_nothing_but_their_count() -> None:
    points = gaussian(600, 5, 60)
    once, twice = intrinsic_dimension(points), intrinsic_dimension(torch.cat([points, points[:200]]))
    assert twice.dimension == pytest.approx(once.dimension, rel=1e-12)
    assert (twice.n_points, twice.n_duplicates) == (600, 200)


def test_scaling_shifting_and_turning_change_nothing() -> None:
    points = gaussian(600, 5, 60).double()
    turn = torch.linalg.qr(gaussian(60, 60, 60).double()).Q
    moved = 100 * points @ turn + 7
    assert intrinsic_dimension(moved).dimension == pytest.approx(intrinsic_dimension(points).dimension, rel=1e-9)


def test_diagnostics_tell_a_line_with_noise_from_a_line() -> None:
    t = torch.linspace(0, 1, 2000, dtype=torch.float64)[:, None] + 1e-4 * gaussian(2000, 1, 1).double()
    noise = 2e-4 * gaussian(2000, 20, 20, seed=1).double() / 20**0.5
    scales = intrinsic_dimension(torch.cat([t, noise], 1)).diagnostics["scales"]
    assert scales[0]["dimension"] > 2 and scales[-1]["dimension"] == pytest.approx(1, abs=0.2)
    assert scales[0]["within"] < 1e-9
    fine = intrinsic_dimension(gaussian(2000, 5, 40)).diagnostics
    assert fine["r_squared"] > 0.99 and fine["ks_distance"] < 0.04 and abs(fine["linear_mle_gap"]) < 0.1
    assert fine["ties"] == 0 and math.isfinite(fine["per_doubling"])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (torch.ones(200, 5), "constant: all 200 points are equal"),
        (gaussian(200, 5, 30)[torch.arange(200) % 7], "only 7 distinct points, at least 20 are needed"),
        (gaussian(12, 5, 30), "only 12 distinct points"),
        (gaussian(1, 5, 30), "only 1 distinct points among 1"),
        (gaussian(200, 5, 30).index_fill(1, torch.tensor([3]), torch.nan), "NaN or inf"),
        (torch.eye(200), "equally far|different ratios"),
    ],
    ids=["constant", "seven", "twelve", "one", "nan", "ties"],
)
def test_no_estimate_comes_with_a_reason(points: torch.Tensor, reason: str, estimator: str) -> None:
    found = intrinsic_dimension(points, estimator)
    assert found.dimension is None and found.stderr is None
    assert re.search(reason, found.reason)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros(10), r"shape \(10,\)"),
        (torch.zeros(4, 5, 6), r"shape \(4, 5, 6\)"),
        (np.zeros((0, 5)), r"shape \(0, 5\)"),
        (np.array([["a", "b"]]), "type <U1"),
        (np.zeros((5, 5), dtype=complex), "complex128"),
        (torch.zeros(5, 5, dtype=torch.complex64), "complex64"),
        ([[1, 2], [3]], "type|shape|inhomogeneous"),
        (torch.zeros(5, 5, device="meta"), "this tensor has no values"),
        (torch.eye(5).to_sparse(), r"this tensor is sparse: pass its to_dense\(\)"),
        (np.ma.masked_equal(np.eye(5), 1), "this array masks some"),
        (np.full((5, 5), 2**53 + 1), r"integers below 2\*\*53"),
        (np.full((5, 5), 2**64 - 1, dtype=np.uint64), r"integers below 2\*\*53"),
        (torch.full((5, 5), -(2**60)), r"integers below 2\*\*53"),
        (torch.nested.nested_tensor([torch.zeros(3)], layout=torch.jagged), "this tensor is nested"),
    ],
)
def test_what_is_no_matrix_is_refused(points: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        intrinsic_dimension(points)


def test_integers_and_small_floats_are_fine() -> None:
    counts = np.random.default_rng(0).integers(0, 1000, (200, 6))
    assert intrinsic_dimension(counts).dimension == pytest.approx(intrinsic_dimension(counts.astype(float)).dimension)
    unmasked = np.ma.masked_less(counts, 0)
    assert intrinsic_dimension(unmasked).dimension == intrinsic_dimension(counts).dimension
    assert intrinsic_dimension(gaussian(200, 5, 30).half()).dimension is not None


@pytest.mark.filterwarnings("error")
def test_a_matrix_may_be_of_another_byte_order_read_only_or_reversed() -> None:
    points = gaussian(60, 3, 4).numpy()
    expected = intrinsic_dimension(points).dimension
    fixed = points.copy()
    fixed.setflags(write=False)
    for same in (points.astype(">f4"), fixed, points[::-1, ::-1]):
        assert intrinsic_dimension(same).dimension == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": "twon"}, "'twon'; did you mean 'twonn'"),
        ({"estimator": ["twonn"]}, r"unknown estimator \['twonn'\]"),
        ({"knn": ["torch"]}, r"\['torch'\] is none of auto"),
        ({"device": "nope"}, "unknown device 'nope'"),
        ({"device": "hpu"}, "device 'hpu' is not there"),
        ({"device": "meta"}, "device 'meta' is not there"),
        *(({"seed": seed}, f"seed is a whole number .* not {seed!r}") for seed in ("0", None, 1.5, True, -1, 2**64)),
    ],
)
def test_other_arguments_are_refused_in_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        intrinsic_dimension(np.zeros((5, 5)), **arguments)


def test_a_seed_may_be_an_integer_of_numpy() -> None:
    points = gaussian(60, 3, 4)
    assert intrinsic_dimension(points, "icml24", seed=np.int64(3)) == intrinsic_dimension(points, "icml24", seed=3)


def test_a_gradient_is_not_needed() -> None:
    points = gaussian(200, 5, 30).requires_grad_()
    assert intrinsic_dimension(points).dimension is not None
    assert DenseRows(points).tensor.requires_grad is False


def test_points_too_close_for_float64_squares_get_a_reason_not_a_wrong_number() -> None:
    points = gaussian(300, 5, 7).double()
    assert intrinsic_dimension(points * 1e-100).dimension == pytest.approx(intrinsic_dimension(points).dimension)
    for scale in (1e-158, 1e-200, 1e-310):
        tiny = intrinsic_dimension(points * scale)
        assert tiny.dimension is None and "1e-120" in tiny.reason, scale


@pytest.mark.parametrize("estimator", ["twonn", "twonn-mle", "gride"])
def test_points_on_a_grid_get_a_reason(estimator: str) -> None:
    grid = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0))
    assert "equally far" in intrinsic_dimension(grid, estimator).reason


def drawn_from(points: torch.Tensor, n: int) -> torch.Tensor:
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:n]]


@pytest.mark.parametrize("estimator", ["twonn", "twonn-mle"])
@pytest.mark.parametrize(
    ("points", "ties"),
    [
        (drawn_from(torch.cartesian_prod(*[torch.arange(12.0)] * 3), 700), 545),
        (torch.eye(12)[torch.randint(12, (700, 6), generator=torch.Generator().manual_seed(0))].flatten(1), 487),
    ],
    ids=["grid with gaps", "one-hot words"],
)
def test_half_of_the_ratios_tied_is_too_many(points: torch.Tensor, ties: int, estimator: str) -> None:
    assert re.match(rf"{ties} of \d+ points have neighbours equally far", intrinsic_dimension(points, estimator).reason)


def test_fewer_ties_are_counted() -> None:
    found = intrinsic_dimension(drawn_from(torch.cartesian_prod(*[torch.arange(16.0)] * 3), 700))
    assert found.dimension is not None and found.diagnostics["ties"] == 315


def test_points_on_a_line_with_two_neighbours_equally_far() -> None:
    assert "equally far" in intrinsic_dimension(torch.arange(300.0).unsqueeze(1), "twonn-mle").reason
