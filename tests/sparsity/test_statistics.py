"""Sums over tokens equal those of float64, however tokens come in batches, and in any floating type."""

from __future__ import annotations

import pytest
import torch

from idvl.sparsity import statistics
from idvl.sparsity.statistics import InputStatistics

WIDTH = 24


def tokens(n: int = 700, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, WIDTH, generator=generator) * torch.logspace(-3, 3, WIDTH)


@pytest.mark.parametrize(
    ("narrow", "dtype", "rounding"),
    [(True, torch.float64, 1e-12), (False, torch.float64, 2e-6), (False, torch.float32, 1e-5)],
)
@pytest.mark.parametrize("chunk", [64, 4096])
def test_sums_equal_those_of_float64(
    chunk: int, narrow: bool, dtype: torch.dtype, rounding: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of wide tensors are float32, and of wider ones their sums too."""
    monkeypatch.setattr(statistics, "CHUNK", chunk)
    monkeypatch.setattr(statistics, "DOUBLE_WIDTH", WIDTH if dtype == torch.float64 else WIDTH - 1)
    monkeypatch.setattr(statistics, "DOUBLE_PRODUCTS", WIDTH if narrow else WIDTH - 1)
    x, found = tokens(), InputStatistics(WIDTH, products=True)
    found.add(x)
    total, exact = found.total(), x.double()
    assert total.count == 700 and total.squares.dtype == torch.float64 and total.products.dtype == dtype
    torch.testing.assert_close(total.squares, exact.square().sum(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(total.rms, exact.square().mean(0).sqrt(), rtol=1e-6, atol=0)
    scale = exact.square().sum(0).sqrt()
    assert ((total.products - exact.T @ exact).abs() / torch.outer(scale, scale)).max() < rounding


def test_neither_the_size_of_batches_nor_the_order_of_tokens_matters() -> None:
    x, whole = tokens(), InputStatistics(WIDTH)
    whole.add(x)
    for seed, size in enumerate((1, 7, 33, 512)):
        other = InputStatistics(WIDTH)
        for part in x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))].split(size):
            other.add(part)
        torch.testing.assert_close(other.total().squares, whole.total().squares, rtol=1e-6, atol=0)
        assert other.total().count == whole.total().count


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    """1000^2 and its sums are beyond the range of float16 (statement 21)."""
    x, found = torch.full((300, 4), 1000.0, dtype=dtype), InputStatistics(4, products=True)
    found.add(x)
    exact = x.double().square().sum(0)
    torch.testing.assert_close(found.total().squares, exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.total().products.double(), exact.expand(4, 4), rtol=1e-6, atol=0)


def test_sums_of_several_tensors_are_added() -> None:
    parts, both = [InputStatistics(WIDTH, products=True) for _ in range(2)], InputStatistics(WIDTH, products=True)
    for part, seed in zip(parts, (0, 1), strict=True):
        part.add(tokens(50, seed=seed))
        both.add(tokens(50, seed=seed))
    added = InputStatistics.added([part.state_dict() for part in parts]).total()
    assert added.count == 100 and parts[0].total().count == 50
    torch.testing.assert_close(added.squares, both.total().squares, rtol=1e-6, atol=0)
    torch.testing.assert_close(added.products, both.total().products, rtol=1e-4, atol=1e-2)


def test_no_token_gives_zeros() -> None:
    found = InputStatistics(WIDTH)
    found.add(torch.empty(0, WIDTH))
    assert found.total().count == 0 and not found.total().rms.any() and found.total().products is None


def test_states_of_processes_add_up() -> None:
    parts = []
    for part in tokens().split([500, 200]):
        parts.append(InputStatistics(WIDTH, products=True))
        parts[-1].add(part)
    sums = {key: value + parts[1].state_dict()[key] for key, value in parts[0].state_dict().items()}
    together, whole = (InputStatistics(WIDTH, products=True) for _ in range(2))
    together.load_state_dict(sums)
    whole.add(tokens())
    assert together.total().count == 700
    torch.testing.assert_close(together.total().squares, whole.total().squares, rtol=1e-6, atol=0)
    torch.testing.assert_close(together.total().products, whole.total().products, rtol=1e-4, atol=1e-2)
    for other in (InputStatistics(WIDTH), InputStatistics(WIDTH + 1, products=True)):
        with pytest.raises(ValueError, match="another tensor"):
            other.load_state_dict(sums)
