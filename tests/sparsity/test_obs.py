"""The OBS update against inverses of ever smaller matrices in float64, and what SparseGPT's own choice keeps."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from idvl.sparsity import obs
from idvl.sparsity.structure import parse

OUT, IN = 10, 24


def inputs(n: int = 400, width: int = IN, seed: int = 0) -> Tensor:
    """Correlated tokens of unequal scale."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    return torch.randn(n, width, generator=generator) @ mixing * torch.logspace(-1, 1, width)


def weight(out: int = OUT, width: int = IN, seed: int = 1) -> Tensor:
    return torch.randn(out, width, generator=torch.Generator().manual_seed(seed))


def products(x: Tensor) -> Tensor:
    return x.T @ x


def damped(matrix: Tensor) -> Tensor:
    hessian = matrix.double().clone()
    hessian.diagonal()[hessian.diagonal() == 0] = 1
    return hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)


def naive(w: Tensor, matrix: Tensor, kept: Tensor | None, zeros: int = 0, block: int = obs.BLOCK, group: int = 0):
    """Column by column with the inverse of what is left of H, all in float64: (kept, updated weight).

    `group`: half of every so many columns of a row go.
    """
    w, hessian = w.double().clone(), damped(matrix)
    dead, columns = matrix.diagonal() == 0, w.shape[1]
    chosen = torch.ones_like(w, dtype=torch.bool) if kept is None else kept.clone()
    if kept is None:
        w[:, dead] = 0
    # diagonal[j]: of the inverse of H without the columns before j
    diagonal = torch.stack([torch.linalg.inv(hessian[j:, j:])[0, 0] for j in range(columns)])
    for column in range(columns):
        if kept is None and group and column % group == 0:
            cost = w[:, column : column + group] ** 2 / diagonal[column : column + group]
            order = cost.sort(dim=1, stable=True).indices[:, : group // 2]
            chosen[:, column : column + group] = chosen[:, column : column + group].scatter(1, order, False)
        elif kept is None and not group and column % block == 0:
            stop = min(column + block, columns)
            cost = (w[:, column:stop] ** 2 / diagonal[column:stop]).T.reshape(-1)
            going = cost.sort(stable=True).indices[: zeros * stop // columns - zeros * column // columns]
            flat = torch.ones_like(cost, dtype=torch.bool)
            flat[going] = False
            chosen[:, column:stop] = flat.view(stop - column, -1).T
        inverse = torch.linalg.inv(hessian[column:, column:])
        change = w[:, column].masked_fill(chosen[:, column], 0) / inverse[0, 0]
        w[:, column:] -= torch.outer(change, inverse[0])
        w[:, column].masked_fill_(~chosen[:, column], 0)
    return chosen, w


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("zeros", [1, 100, 117, 239])
@pytest.mark.parametrize("block", [8, 10, 128])
def test_selection_and_update_equal_the_reference(
    block: int, zeros: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obs, "BLOCK", block)
    w, matrix = weight(), products(inputs())
    kept, updated = obs.select(w, obs.factor(matrix.to(dtype)), zeros)
    expected_kept, expected = naive(w, matrix, None, zeros, block)
    assert torch.equal(kept, expected_kept) and int((~kept).sum()) == zeros
    torch.testing.assert_close(updated.double(), expected, rtol=1e-3, atol=1e-4)
    assert updated.dtype == w.dtype and not updated[~kept].any()
    for start in range(0, IN, block):
        stop = min(start + block, IN)
        assert int((~kept[:, start:stop]).sum()) == zeros * stop // IN - zeros * start // IN
    # the update of the mask that was chosen is the same
    torch.testing.assert_close(obs.update(w, kept, obs.factor(matrix.to(dtype))), updated, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("structure", "group"), [("2:4", 4), ("4:8", 8), ("3:6", 6)])
def test_n_of_m_equals_the_reference(structure: str, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of M current columns; M need not divide the block (statement 20)."""
    monkeypatch.setattr(obs, "BLOCK", 16)
    w, matrix = weight(), products(inputs())
    kept, updated = obs.select(w, obs.factor(matrix), OUT * IN // 2, parse(structure))
    expected_kept, expected = naive(w, matrix, None, group=group)
    assert torch.equal(kept, expected_kept) and parse(structure).holds(kept)
    torch.testing.assert_close(updated.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_the_update_lessens_the_error(seed: int) -> None:
    """For its own mask and for a given one (statement 17)."""
    w, matrix = weight(seed=seed), products(inputs(seed=seed))
    factor = obs.factor(matrix)
    own, updated = obs.select(w, factor, OUT * IN // 2)
    given = torch.rand(w.shape, generator=torch.Generator().manual_seed(seed)) > 0.5
    assert obs.error(w, updated, matrix) < obs.error(w, w * own, matrix)
    assert obs.error(w, obs.update(w, given, factor), matrix) < obs.error(w, w * given, matrix)


def test_error_is_that_of_the_outputs() -> None:
    x, w, other = inputs(), weight(), weight(seed=2)
    exact = float((x.double() @ (w - other).double().T).square().sum())
    assert obs.error(w, other, products(x.double())) == pytest.approx(exact, rel=1e-6)


def test_a_power_of_two_in_the_inputs_changes_no_bit() -> None:
    w, x = weight(), inputs()
    (kept, updated), (other_kept, other) = (obs.select(w, obs.factor(products(x * s)), 120) for s in (1, 8))
    assert torch.equal(kept, other_kept) and torch.equal(updated, other)


def test_dead_inputs_lose_all_their_weights() -> None:
    x, w = inputs(), weight()
    x[:, [3, 17]] = 0
    matrix = products(x)
    factor = obs.factor(matrix)
    kept, updated = obs.select(w, factor, 120)
    assert factor.dead.nonzero().flatten().tolist() == [3, 17] and updated.isfinite().all()
    assert not updated[:, [3, 17]].any() and int((~kept).sum()) == 120
    expected_kept, expected = naive(w, matrix, None, 120)
    assert torch.equal(kept, expected_kept)
    torch.testing.assert_close(updated.double(), expected, rtol=1e-3, atol=1e-4)
    # a given mask keeps what it keeps
    given = torch.ones_like(w, dtype=torch.bool)
    given[:, 0] = False
    assert torch.equal(obs.update(w, given, factor)[:, [3, 17]], w[:, [3, 17]])


def test_fewer_tokens_than_inputs_need_no_more_damping(caplog: pytest.LogCaptureFixture) -> None:
    factor = obs.factor(products(inputs(n=5)))
    assert factor.damping == 0.01 and factor.upper.isfinite().all() and not caplog.records


def test_a_failure_raises_the_damping_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    matrix = products(inputs())
    # no Gram matrix: one eigenvalue is below 0
    matrix -= 0.05 * matrix.diagonal().mean() * torch.eye(IN)
    with caplog.at_level(logging.WARNING):
        assert obs.factor(matrix).damping == pytest.approx(0.1)
    assert "24 inputs has no factor with damping 0.01: trying 0.1" in caplog.text
    matrix -= 10 * matrix.diagonal().mean() * torch.eye(IN)
    assert obs.factor(-products(inputs())) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_weight_keeps_its_dtype(dtype: torch.dtype) -> None:
    w = weight().to(dtype)
    kept, updated = obs.select(w, obs.factor(products(inputs())), 120)
    assert updated.dtype == dtype and not updated[~kept].any()
