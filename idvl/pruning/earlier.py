"""The zeros that a model holds before a run prunes it, as an earlier pruning leaves them, and what becomes of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from idvl.models.layers import Layer
from idvl.units import percent


def outside_scope(before: Mapping[str, int], layers: Collection[str], *, trained: bool) -> Iterator[str]:
    """A warning of the layers outside the scope that hold zeros, `before` of each, if any; `trained`: and learn."""
    outside = {name: zeros for name, zeros in before.items() if name not in layers}
    if not outside:
        return
    found = f"{len(outside)} layers outside the scope hold {sum(outside.values()):,} zeros, as of an earlier pruning"
    first = next(iter(outside))
    if trained:
        yield (
            f"{found}, which training fills ({first} first): to keep them, prune from calibration samples (as with "
            "wanda), then idvl recover; scope all prunes these layers too"
        )
    else:
        yield f"{found} ({first} first): they stay zero, and count in all prunable weights, not in the scope's sparsity"


def in_scope(before: Mapping[str, int], layers: Mapping[str, Layer], *, asked: float, filled: str) -> Iterator[str]:
    """A warning where more weights in scope are zero before than are asked for; `filled`: what fills those, if any."""
    zeros = sum(before.get(name, 0) for name in layers)
    weights = sum(layer.module.weight.numel() for layer in layers.values())
    if zeros > asked * weights:
        what = f"{filled} fills those that are not pruned again" if filled else "the zeros are pruned first"
        yield (
            f"{percent(zeros / weights)} of the weights in scope are zero already, more than the {percent(asked)} "
            f"asked for: {what}; ask for more to prune further"
        )
