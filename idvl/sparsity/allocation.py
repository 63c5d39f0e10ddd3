"""How much each layer gives: the least and the most units that may go from each, and how many go in all.

Plain arithmetic on sizes. It knows neither scores nor tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from idvl.errors import UsageError

Sizes = Mapping[str, int]
Bounds = dict[str, tuple[int, int]]


def quota(sparsity: float, total: int) -> int:
    """The number of zeros that a sparsity asks for: the nearest whole number, halves to the even one."""
    return round(sparsity * total)


def limits(sizes: Sizes, *, sparsity: float, floor: float = 0.0, ceiling: float = 1.0, min_keep: int = 0) -> Bounds:
    """The least and the most zeros of each layer at the end of a run of this sparsity.

    `floor` and `ceiling` are sparsities of single layers, rounded to whole weights away from each other; `min_keep`
    counts weights that stay in every layer, all of them in smaller ones, whatever its floor. UsageError where they
    allow no such run.
    """
    if not (0 <= floor <= 1 and 0 <= ceiling <= 1 and floor <= ceiling):
        raise UsageError(f"0 <= floor <= ceiling <= 1 is needed, not floor {floor} and ceiling {ceiling}")
    if min_keep < 0:
        raise UsageError(f"min_keep counts weights and cannot be {min_keep}")
    bounds = {}
    for name, size in sizes.items():
        most = min(math.ceil(round(ceiling * size, 6)), max(size - min_keep, 0))
        bounds[name] = min(math.floor(round(floor * size, 6)), most), most
    total = sum(sizes.values())
    if sparsity > 0 and not quota(sparsity, total):
        raise UsageError(f"sparsity {sparsity} of {total:,} weights prunes none: ask for at least {1 / total:.2g}")
    lowest, highest = (sum(bound[side] for bound in bounds.values()) for side in (0, 1))
    if not lowest <= quota(sparsity, total) <= highest:
        raise UsageError(
            f"sparsity {sparsity} cannot be reached: floor {floor}, ceiling {ceiling} and min_keep {min_keep} "
            f"allow {_down(lowest / total)} to {_down(highest / total)} over these layers"
        )
    return bounds


def bounds(allocation: str, sizes: Sizes, k: int, ends: Bounds, final: int, held: Sizes) -> Bounds:
    """The bounds of one update that prunes `k` of the `final` units that the run ends with.

    `ends` are the run's `limits`: their least grows in step with k. `held` counts units that must stay pruned; where
    they leave no room for a layer's least, it gives way.
    """
    return ALLOCATIONS[allocation](sizes, k, ends, final, held)


def _global(sizes: Sizes, k: int, ends: Bounds, final: int, held: Sizes) -> Bounds:
    """Whatever one threshold over all layers gives, within each layer's limits."""
    least = {name: max(low * k // final, held[name]) for name, (low, _) in ends.items()}
    while (excess := sum(least.values()) - k) > 0:
        # rounding alone gets here: a weight of some layers
        for name in [name for name in least if least[name] > held[name]][:excess]:
            least[name] -= 1
    return {name: (least[name], most) for name, (_, most) in ends.items()}


def _uniform(sizes: Sizes, k: int, ends: Bounds, final: int, held: Sizes) -> Bounds:
    """The same share of every layer, as nearly as whole units allow, k in all."""

    def shares(rate: float) -> dict[str, int]:
        return {
            name: min(max(math.floor(rate * size + 0.5), held[name]), ends[name][1]) for name, size in sizes.items()
        }

    low, high = 0.0, 2.0
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(shares(middle).values()) <= k else (low, middle)
    counts, above = shares(low), shares(high)
    for name in sizes:
        # layers that round up at the same rate
        counts[name] += min(above[name] - counts[name], max(k - sum(counts.values()), 0))
    return {name: (count, count) for name, count in counts.items()}


def _down(share: float) -> str:
    return f"{math.floor(share * 10000) / 10000:g}"


ALLOCATIONS = {"global": _global, "uniform": _uniform}
