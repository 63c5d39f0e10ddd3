"""The zeros that a model holds before a run prunes it, as an earlier pruning leaves them, and what becomes of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping


def warnings(
    before: Mapping[str, int], scope: Collection[str], *, filled: str, trained: Collection[str] = ()
) -> Iterator[str]:
    """A line for the layers in `scope` that hold zeros, and for those outside, `before` of each.

    `filled`: what changes the weights in scope that stay; "" where nothing does. `trained`: layers that learn.
    """
    inside = {name: zeros for name, zeros in before.items() if name in scope}
    if inside:
        rest = f"{filled} may fill those that the masks lack" if filled else "those that the masks lack stay zero"
        yield f"{_held(inside, 'in scope')}: the target sparsity is of all weights in scope, these included, and {rest}"
    filling = {name: zeros for name, zeros in before.items() if name not in scope and name in trained}
    if filling:
        yield (
            f"{_held(filling, 'outside the scope')}, and training fills them: to keep them, prune from calibration "
            "samples (as with wanda), then idvl recover; scope all prunes these layers too"
        )
    staying = {name: zeros for name, zeros in before.items() if name not in scope and name not in trained}
    if staying:
        yield (
            f"{_held(staying, 'outside the scope')}: they stay zero, and count in the shares of all weights, not "
            "in the sparsity of the scope"
        )


def _held(zeros: Mapping[str, int], where: str) -> str:
    layers = f"{len(zeros)} layers {where} hold" if len(zeros) > 1 else f"1 layer {where} holds"
    return f"{layers} {sum(zeros.values()):,} zeros, probably of an earlier pruning ({next(iter(zeros))} first)"
