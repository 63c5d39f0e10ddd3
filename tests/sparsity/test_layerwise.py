"""A layer loses exactly as many weights as asked, by the scores of its criterion, and is repaired or left alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from idvl.errors import RunError
from idvl.sparsity import criteria, layerwise, obs
from idvl.sparsity.layerwise import Layerwise
from idvl.sparsity.statistics import InputStatistics, Sums
from idvl.sparsity.structure import parse
from tests.sparsity.test_obs import inputs, naive, weight

OUT, IN = 10, 24
CRITERIA = ["magnitude", *criteria.calibrated()]


def sums(x: Tensor) -> Sums:
    statistics = InputStatistics(x.shape[1], products=True)
    statistics.add(x)
    return statistics.total()


def pruned(criterion: str, zeros: int, w: Tensor, total: Sums, structure: str = "unstructured", **how):
    layer = Layerwise(criterion=criteria.load(criterion), structure=parse(structure), **how)
    return layer.prune({"a": w}, total, {"a": zeros})["a"]


def test_wanda_is_its_formula() -> None:
    w, x = weight(), inputs()
    exact = w.double().abs() * x.double().square().mean(0).sqrt()
    score = criteria.load("wanda").score(w, sums(x))
    assert score.dtype == torch.float32
    torch.testing.assert_close(score.double(), exact, rtol=1e-6, atol=0)
    kept = pruned("wanda", OUT * IN // 2, w, sums(x)).kept
    expected = exact.sort(dim=1, stable=True).indices[:, : IN // 2]
    assert torch.equal(~kept, torch.zeros_like(kept).scatter(1, expected, True))


def test_multiflow_is_its_formula() -> None:
    w, x = weight(), inputs()
    flow = w.double().abs() * x.double().square().mean(0).sqrt()
    exact = torch.stack(
        [
            torch.stack([w[i, j].double().abs() * flow[i].mean() * flow[:, j].mean() for j in range(IN)])
            for i in range(OUT)
        ]
    )
    torch.testing.assert_close(criteria.load("multiflow").score(w, sums(x)).double(), exact, rtol=1e-6, atol=0)
    kept = pruned("multiflow", 90, w, sums(x), within="layer").kept
    assert exact[~kept].max() <= exact[kept].min()


def test_sparsegpt_is_its_formula_beyond_the_rounding_of_float32() -> None:
    """In float32 the inverse for inputs far from 0 moves weights by 3e-5, and with them the choice of later ones."""
    w, x = weight(), inputs() + 100
    layer = pruned("sparsegpt", OUT * IN // 2, w, sums(x))
    expected_kept, expected = naive(w, x.double().T @ x.double(), None, OUT * IN // 2)
    assert torch.equal(layer.kept, expected_kept)
    torch.testing.assert_close(layer.weight.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("within", ["row", "layer"])
@pytest.mark.parametrize("zeros", [0, 1, 119, 120, 239])
@pytest.mark.parametrize("repair", ["none", "obs"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_counts_are_exact(criterion: str, repair: str, zeros: int, within: str) -> None:
    w = weight()
    before = w.clone()
    found = pruned(criterion, zeros, w, sums(inputs()), within=within, repair=repair)
    assert int((~found.kept).sum()) == zeros and not found.weight[~found.kept].any() and found.note is None
    assert torch.equal(w, before)
    if repair == "none" and criterion != "sparsegpt":
        assert torch.equal(found.weight, w * found.kept)
        counts = (~found.kept).sum(1)
        assert within == "layer" or counts.max() - counts.min() <= 1
    if not zeros:
        assert torch.equal(found.weight, w)


@pytest.mark.parametrize("structure", ["2:4", "4:8", "1:4"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_n_of_m_is_exact(criterion: str, structure: str) -> None:
    nm = parse(structure)
    zeros = OUT * IN // nm.group * nm.zeros
    found = pruned(criterion, zeros, weight(), sums(inputs()), structure)
    assert nm.holds(found.kept) and int((~found.kept).sum()) == zeros


def test_n_of_m_removes_what_a_large_layer_has_to_lose() -> None:
    """Statement 2."""
    w, x = torch.randn(4096, 11008, generator=torch.Generator().manual_seed(0)), torch.ones(1, 11008)
    statistics = InputStatistics(11008)
    statistics.add(x)
    found = pruned("wanda", 4096 * 11008 // 2, w, statistics.total(), "2:4")
    assert int((~found.kept).sum()) == 22_544_384 and (found.kept.view(-1, 4).sum(1) == 2).all()


def test_equal_scores_go_from_the_left() -> None:
    """Statement 3."""
    w, total = (weight() * 2).round() / 2, sums(torch.ones(9, IN))
    first, second = (pruned("wanda", 130, w, total).kept for _ in range(2))
    assert torch.equal(first, second)
    for row, kept in zip(w.abs(), first, strict=True):
        highest = row[~kept].max()
        tied = kept[row == highest]
        # once one of equal weights stays, those behind it do
        assert tied.tolist() == sorted(tied.tolist())


@pytest.mark.parametrize("structure", ["unstructured", "2:4"])
@pytest.mark.parametrize("criterion", criteria.calibrated())
def test_a_power_of_two_in_the_inputs_changes_nothing(criterion: str, structure: str) -> None:
    """Statement 8."""
    one, eight = (pruned(criterion, 120, weight(), sums(inputs() * s), structure) for s in (1, 8))
    assert torch.equal(one.kept, eight.kept) and torch.equal(one.weight, eight.weight)


def test_repair_lessens_the_error_of_any_mask() -> None:
    w, total = weight(), sums(inputs())
    for criterion in ("magnitude", "wanda"):
        plain, repaired = (pruned(criterion, 120, w, total, repair=repair) for repair in ("none", "obs"))
        assert torch.equal(plain.kept, repaired.kept)
        assert obs.error(w, repaired.weight, total.products) < obs.error(w, plain.weight, total.products)


def test_layers_that_read_one_input_are_factored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, factor = [], obs.factor
    monkeypatch.setattr(layerwise.obs, "factor", lambda products: calls.append(1) or factor(products))
    layer, weights = Layerwise(criterion=criteria.load("sparsegpt")), {"q": weight(), "k": weight(seed=5)}
    found = layer.prune(weights, sums(inputs()), {"q": 100, "k": 50})
    assert len(calls) == 1 and [int((~one.kept).sum()) for one in found.values()] == [100, 50]


def test_what_cannot_be_factored_is_pruned_by_wanda_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statement 19."""
    w, total = weight(), sums(inputs())
    expected = pruned("wanda", 120, w, total).kept
    monkeypatch.setattr(layerwise.obs, "factor", lambda products: None)
    fallen = pruned("sparsegpt", 120, w, total)
    assert torch.equal(fallen.kept, expected) and torch.equal(fallen.weight, w * expected)
    assert fallen.note == "X^T X has no factor: pruned as by wanda instead"
    assert pruned("wanda", 120, w, total, repair="obs").note == "X^T X has no factor: not repaired"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_weight_keeps_its_dtype_and_minus_zero_counts_as_zero(criterion: str, dtype: torch.dtype) -> None:
    w = weight().to(dtype)
    w[:, 0] = -0.0
    found = pruned(criterion, 120, w, sums(inputs().to(dtype)))
    assert found.weight.dtype == dtype and not found.weight[~found.kept].any()
    if criterion != "sparsegpt":
        assert not found.kept[:, 0].any()


def test_nan_weights_are_refused() -> None:
    w = weight()
    w[3, 4] = torch.nan
    with pytest.raises(RunError, match="^a holds NaN or infinite weights$"):
        pruned("wanda", 120, w, sums(inputs()))
