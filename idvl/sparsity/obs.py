"""The OBS update: the weights that stay in a layer make up for those that go (Frantar & Alistarh, 2023, SparseGPT).

With H = X^T X + damping, the error |X dW^T|^2 that pruning the weight w_j of a row adds is w_j^2 / [H_j^-1]_jj, where
H_j is H without the columns before j. It is so small when later weights move by -w_j [H_j^-1]_j / [H_j^-1]_jj.
All H_j^-1 at once: with the Cholesky factor H^-1 = U^T U, row j of U is [H_j^-1]_j / sqrt([H_j^-1]_jj).

Pure functions of a weight and the factor of its input's statistics. All work on the transposed weight, where a column
is contiguous.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from idvl.sparsity.selection import lowest
from idvl.sparsity.structure import UNSTRUCTURED, Structure

# columns whose masks are chosen, and whose later columns are updated, at a time
BLOCK = 128
# the first damping, and the largest: shares of the mean of the diagonal; each is 10 times the one before
DAMPING, MOST_DAMPING = 0.01, 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Factor:
    """U (n, n), upper triangular, of H^-1 = U^T U; which inputs (n,) are always 0; the damping that was needed."""

    upper: Tensor
    dead: Tensor
    damping: float


def factor(products: Tensor) -> Factor | None:
    """The factor of X^T X (n, n), damped, in its type; None where it cannot be factored with any damping.

    A dead input, whose diagonal is 0, gets a 1 there, before the mean of the diagonal is taken.
    """
    hessian = products.clone()
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1
    mean, added, damping = diagonal.mean().item(), 0.0, DAMPING
    while damping <= MOST_DAMPING:
        diagonal += damping * mean - added
        added = damping * mean
        if (upper := _inverse_factor(hessian)) is not None:
            return Factor(upper, dead, damping)
        following = f"trying {10 * damping:g}" if 10 * damping <= MOST_DAMPING else "which is the most"
        logger.warning("X^T X of %d inputs has no factor with damping %g: %s", len(hessian), damping, following)
        damping *= 10
    return None


def _inverse_factor(hessian: Tensor) -> Tensor | None:
    lower, failed = torch.linalg.cholesky_ex(hessian)
    if failed:
        return None
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if failed or not upper.isfinite().all() else upper


def select(weight: Tensor, factor: Factor, zeros: int, structure: Structure = UNSTRUCTURED) -> tuple[Tensor, Tensor]:
    """Choose which weights of (out, in) stay, while the others are updated: (kept, updated weight).

    Of every BLOCK columns the weights that cost least go, all rows together, in proportion to the columns; of equal
    ones those of lower columns, then rows. N:M chooses its columns when it reaches them. Weights of dead inputs become
    0.
    """
    rows = weight.T.to(factor.upper.dtype, copy=True).contiguous()
    rows[factor.dead] = 0
    kept = torch.ones_like(rows, dtype=torch.bool)
    inputs, outputs = rows.shape
    diagonal = factor.upper.diagonal().unsqueeze(1)

    def costs(start: int, stop: int) -> Tensor:
        return (rows[start:stop] / diagonal[start:stop]).square_()

    def choose(column: int, start: int, stop: int) -> None:
        if structure.grouped and column % structure.group == 0:
            group = costs(column, column + structure.group).T.contiguous()
            going = structure.expand(group, torch.ones(outputs, dtype=torch.bool, device=rows.device))
            kept[column : column + structure.group] = ~going.view(outputs, -1).T
        elif not structure.grouped and column == start:
            count = zeros * stop // inputs - zeros * start // inputs
            kept[start:stop] = ~lowest(costs(start, stop), count, by_row=False)

    _sweep(rows, kept, factor, BLOCK // structure.group * structure.group, choose)
    return kept.T.contiguous(), rows.T.to(weight.dtype).contiguous()


def update(weight: Tensor, kept: Tensor, factor: Factor) -> Tensor:
    """The weight (out, in) with zeros where it is not kept, and what is kept updated."""
    rows = weight.T.to(factor.upper.dtype, copy=True).contiguous()
    _sweep(rows, kept.T.contiguous(), factor, BLOCK, lambda column, start, stop: None)
    return rows.T.to(weight.dtype).contiguous()


def error(before: Tensor, after: Tensor, products: Tensor) -> float:
    """tr(dW X^T X dW^T), the squared error of the layer's outputs over all tokens."""
    change = after.double() - before.double()
    return float(((change @ products.double()) * change).sum())


def _sweep(rows: Tensor, kept: Tensor, factor: Factor, block: int, choose: Callable[[int, int, int], None]) -> None:
    """Prune `rows`, the transposed weight, input by input in place; `choose(column, start, stop)` sets `kept` first."""
    upper, inputs = factor.upper, len(rows)
    for start in range(0, inputs, block):
        stop = min(start + block, inputs)
        errors = torch.empty_like(rows[start:stop])
        for column in range(start, stop):
            choose(column, start, stop)
            going = ~kept[column]
            torch.div(rows[column] * going, upper[column, column], out=errors[column - start])
            rows[column].masked_fill_(going, 0)
            rows[column + 1 : stop].addr_(upper[column, column + 1 : stop], errors[column - start], alpha=-1)
        rows[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
