"""Every criterion of the folder keeps the contract; each against its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idvl.errors import UsageError
from idvl.recipe import PruneSection
from idvl.sparsity import criteria
from idvl.sparsity.criteria import platon
from tests.support.layers import layers, renew


def observed(criterion: criteria.Criterion, steps: int, weights: dict[str, nn.Parameter]) -> None:
    for step in range(steps):
        renew(weights, step)
        for name, weight in weights.items():
            criterion.observe(name, weight, weight.grad)


def scores(criterion: criteria.Criterion, weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: criterion.score(name, weight, weight.grad) for name, weight in weights.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps", [1, 9, 10, 25])
@pytest.mark.parametrize("name", criteria.observed())
def test_contract(name: str, steps: int, dtype: torch.dtype) -> None:
    weights = {key: nn.Parameter(weight.detach().to(dtype)) for key, weight in layers().items()}
    criterion = criteria.load(name)
    for step in range(steps):
        for key, weight in weights.items():
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step)).to(dtype)
            criterion.observe(key, weight, weight.grad)
    before = {key: weight.detach().clone() for key, weight in weights.items()}
    for key, score in scores(criterion, weights).items():
        assert score.dtype == torch.float32 and score.shape == weights[key].shape and not score.requires_grad
        assert (score >= 0).all() and (score > 0).any() and not score.signbit().any()
        assert torch.equal(criterion.score(key, weights[key], weights[key].grad), score)
        score.fill_(-1)
    assert all(torch.equal(weight.detach(), before[key]) for key, weight in weights.items())


@pytest.mark.parametrize("name", criteria.observed())
def test_state_resumes_to_the_bit(name: str) -> None:
    weights = layers()
    whole, first, second = (criteria.load(name) for _ in range(3))
    observed(whole, 7, weights)
    observed(first, 7, weights)
    state = {key: value.clone() for key, value in first.state_dict().items()}
    second.load_state_dict(state)
    for criterion in (whole, second):
        for step in range(6):
            renew(weights, 50 + step)
            for key, weight in weights.items():
                criterion.observe(key, weight, weight.grad)
    for key, score in scores(whole, weights).items():
        assert torch.equal(score, scores(second, weights)[key])


def test_magnitude_and_gradient() -> None:
    weights = layers()
    for name, weight in weights.items():
        w, g = weight.detach(), weight.grad
        assert torch.equal(criteria.load("magnitude").score(name, weight, None), w.abs())
        assert torch.equal(criteria.load("gradient").score(name, weight, g), (w * g).abs())


def naive_platon(sensitivities: list[Tensor], beta1: float, beta2: float, window: int) -> Tensor:
    """Zhang et al., 2022, window after whole window, in float64."""
    importance = uncertainty = torch.zeros_like(sensitivities[0], dtype=torch.float64)
    for start in range(0, len(sensitivities) - window + 1, window):
        mean = torch.stack(sensitivities[start : start + window]).double().mean(0)
        importance = beta1 * importance + (1 - beta1) * mean
        uncertainty = beta2 * uncertainty + (1 - beta2) * (mean - importance).abs()
    return importance * uncertainty


@pytest.mark.parametrize(("dtype", "within"), [("float32", 1e-5), ("bfloat16", 0.03)])
@pytest.mark.parametrize(
    ("beta1", "beta2", "window", "steps"), [(0.85, 0.95, 10, 34), (0.3, 0.4, 3, 12), (0.5, 0.5, 1, 5)]
)
def test_platon_agrees_with_its_formula(
    beta1: float, beta2: float, window: int, steps: int, dtype: str, within: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platon, "CHUNK", 50)
    weights = layers()
    criterion = criteria.load("platon", beta1=beta1, beta2=beta2, window=window, smoothing_dtype=dtype)
    seen: dict[str, list[Tensor]] = {name: [] for name in weights}
    for step in range(steps):
        renew(weights, step)
        for name, weight in weights.items():
            weight.data.add_(weight.grad, alpha=-0.01)
            criterion.observe(name, weight, weight.grad)
            seen[name].append((weight * weight.grad).abs().detach())
    for name, score in scores(criterion, weights).items():
        expected = naive_platon(seen[name], beta1, beta2, window)
        assert torch.allclose(
            score.double() / platon.SCALE, expected, rtol=within, atol=within * float(expected.mean())
        )


def test_platon_before_its_first_window_goes_by_the_mean_so_far() -> None:
    weights = layers()
    criterion = criteria.load("platon")
    seen = []
    for step in range(4):
        renew(weights, step)
        criterion.observe("b.qkv", weights["b.qkv"], weights["b.qkv"].grad)
        seen.append((weights["b.qkv"] * weights["b.qkv"].grad).abs().detach())
    order = torch.stack(seen).mean(0).view(-1).argsort()
    assert torch.equal(criterion.score("b.qkv", weights["b.qkv"], None).view(-1).argsort(), order)
    closed = criteria.load("platon", window=4)
    for step in range(4):
        renew(weights, step)
        closed.observe("b.qkv", weights["b.qkv"], weights["b.qkv"].grad)
    open_score, closed_score = (c.score("b.qkv", weights["b.qkv"], None) for c in (criterion, closed))
    assert torch.allclose(open_score, closed_score, rtol=1e-4)


def test_platon_tells_the_smallest_gradients_apart() -> None:
    weight, criterion = nn.Parameter(torch.ones(1, 4)), criteria.load("platon", window=1)
    weight.grad = torch.tensor([[1e-22, 2e-22, 3e-22, 0.0]])
    criterion.observe("a", weight, weight.grad)
    assert criterion.score("a", weight, weight.grad).view(-1).argsort().tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize(("dtype", "most"), [("float32", 12), ("bfloat16", 8)])
def test_platon_holds_no_more_bytes_a_weight(dtype: str, most: int) -> None:
    assert criteria.load("platon", smoothing_dtype=dtype).bytes_per_weight == most
    for name in ("magnitude", "gradient"):
        assert criteria.load(name).bytes_per_weight == 0


@pytest.mark.parametrize(
    ("name", "values"), [*((name, {}) for name in criteria.observed()), ("platon", {"smoothing_dtype": "bfloat16"})]
)
def test_a_criterion_holds_the_bytes_that_it_says(name: str, values: dict[str, Any]) -> None:
    weights = layers()
    criterion = criteria.load(name, **values)
    observed(criterion, 12, weights)
    allocated = sum(value.untyped_storage().nbytes() for value in criterion.state_dict().values() if value.dim())
    assert allocated == criterion.bytes_per_weight * sum(weight.numel() for weight in weights.values())


@pytest.mark.parametrize("name", criteria.names())
def test_a_recipe_can_say_every_setting_and_has_its_default(name: str) -> None:
    for key, default in criteria.settings(name).items():
        assert PruneSection.model_fields[key].default == default, key


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("platton", {}, "did you mean 'platon'"),
        ("hessian", {}, "take one of gradient, magnitude, multiflow, platon, sparsegpt, wanda"),
        ("magnitude", {"beta1": 0.5}, "no setting 'beta1'; it has none"),
        ("platon", {"beta3": 0.5}, "no setting 'beta3'; it has beta1, beta2, window, smoothing_dtype"),
        ("platon", {"beta2": 1.0}, "beta2 must lie between 0 and 1, not 1.0"),
        ("platon", {"window": 0}, "window"),
        ("platon", {"smoothing_dtype": "float16"}, "float32, bfloat16, not 'float16'"),
    ],
)
def test_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        criteria.load(name, **settings)
