"""The k smallest over many tensors: against a stable sort, with ties, zeros, infinities and limits; NaN is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from idvl.errors import RunError
from idvl.sparsity import threshold
from idvl.sparsity.threshold import check, find, keys_of, score_of, take


def chosen(scores: dict[str, Tensor], k: int, bounds: dict[str, tuple[int, int]] | None = None) -> dict[str, Tensor]:
    """What the two passes and the third take."""
    bounds = bounds or {name: (0, len(values)) for name, values in scores.items()}
    key, ties = find(lambda name: keys_of(scores[name]), k, bounds)
    taken = {}
    for name, (least, most) in bounds.items():
        taken[name], ties = take(keys_of(scores[name]), key, ties, least, most)
    assert ties == 0
    return taken


def sorted_out(scores: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """The same from a stable sort of the concatenation."""
    everything = torch.cat(list(scores.values()))
    taken = torch.zeros(len(everything), dtype=torch.bool)
    taken[everything.argsort(stable=True)[:k]] = True
    return dict(zip(scores, taken.split([len(values) for values in scores.values()]), strict=True))


def clouds() -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)

    def normal(n: int) -> Tensor:
        return torch.randn(n, generator=generator).abs()

    huge = torch.tensor([3.4e38, float("inf"), 0.0, float("inf"), 1.0])
    return {
        "normal": {"a": normal(1000), "b": normal(17) * 9, "c": normal(300) / 50},
        "ties": {"a": (normal(500) * 3).round(), "b": (normal(100) * 3).round(), "c": torch.ones(40)},
        "zeros": {"a": torch.zeros(300), "b": normal(200) * (normal(200) > 0.7), "c": torch.zeros(1)},
        "infinities": {"a": torch.full((20,), float("inf")), "b": huge, "c": normal(50)},
        "subnormal": {"a": normal(100) * 1e-44, "b": normal(100) * 1e-38},
        "one bucket": {"a": 1 + normal(4000) * 1e-6, "b": 1 + normal(100) * 1e-6},
    }


@pytest.mark.parametrize("chunk", [1 << 20, 64])
@pytest.mark.parametrize("name", clouds())
def test_agrees_with_a_stable_sort(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold, "CHUNK", chunk)
    monkeypatch.setattr(threshold, "TIES", chunk)
    scores = clouds()[name]
    total = sum(len(values) for values in scores.values())
    for k in {0, 1, 2, total // 3, total // 2, round(0.8 * total), total - 1, total}:
        expected = sorted_out(scores, k)
        for layer, taken in chosen(scores, k).items():
            assert torch.equal(taken, expected[layer]), (layer, k)


def test_the_key_is_the_kth_smallest_score() -> None:
    scores = clouds()["normal"]
    key, _ = find(lambda name: keys_of(scores[name]), 700, {name: (0, len(v)) for name, v in scores.items()})
    assert score_of(key) == float(torch.cat(list(scores.values())).kthvalue(700).values)


def within_limits(scores: dict[str, Tensor], k: int, bounds: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Naively: every layer's least, and then the smallest of what may still go, one after the other."""
    counts = {name: least for name, (least, _) in bounds.items()}
    ordered = {name: values.sort().values.tolist() for name, values in scores.items()}
    while sum(counts.values()) < k:
        free = [name for name in counts if counts[name] < bounds[name][1]]
        counts[min(free, key=lambda name: ordered[name][counts[name]])] += 1
    return counts


@pytest.mark.parametrize("name", ["normal", "ties", "zeros"])
def test_limits_hold_and_the_budget_is_exact(name: str) -> None:
    scores = clouds()[name]
    sizes = {layer: len(values) for layer, values in scores.items()}
    bounds = {layer: (size // 5, size - size // 4) for layer, size in sizes.items()}
    lowest, highest = (sum(bound[side] for bound in bounds.values()) for side in (0, 1))
    for k in (lowest, lowest + 1, (lowest + highest) // 2, highest - 1, highest):
        taken = chosen(scores, k, bounds)
        assert {layer: int(chosen.sum()) for layer, chosen in taken.items()} == within_limits(scores, k, bounds)
        for layer, mask in taken.items():
            own = sorted_out({layer: scores[layer]}, int(mask.sum()))
            assert torch.equal(mask, own[layer])


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation allocated."""

    bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in self.inputs:
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.inputs = {values.untyped_storage().data_ptr() for values in inputs}


@pytest.mark.parametrize("ties", [False, True])
def test_no_temporary_is_larger_than_one_tensor(ties: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(600_000, generator=generator) for name in "abc"}
    if ties:
        scores = {name: (values * 3).round() for name, values in scores.items()}
    with Largest(list(scores.values())) as largest:
        chosen(scores, 1_000_000)
        chosen(scores, 1_000_000, {"a": (0, 1000), "b": (500_000, 600_000), "c": (0, 600_000)})
    assert 0 < largest.bytes <= 600_000 * 4


def test_nan_names_its_layer() -> None:
    for nan in (float("nan"), -float("nan")):
        with pytest.raises(RunError, match="b.fc1"):
            check("b.fc1", torch.tensor([1.0, nan, float("inf")]))
    check("b.fc1", torch.tensor([1.0, float("inf")]))


def test_negative_scores_break_the_contract() -> None:
    with pytest.raises(ValueError, match="negative"):
        check("b.fc1", torch.tensor([1.0, -1.0]))
