"""The budget: how many units go in all, and the least and the most that may go of each layer.

A unit is a weight, or a group of N:M. Plain arithmetic on sizes. It knows neither scores nor tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from idvl.errors import UsageError
from idvl.sparsity import allocation as allocations
from idvl.sparsity import solver
from idvl.sparsity.structure import UNSTRUCTURED, Structure

Sizes = Mapping[str, int]
Bounds = dict[str, tuple[int, int]]
# weights that stay in every layer by default: no layer is emptied
MIN_KEEP = 1


class Budget:
    """What a run to `sparsity` prunes of layers of `sizes` weights, update by update.

    `floor` and `ceiling` are sparsities of single layers, the floor growing with the schedule; `min_keep` counts
    weights that stay in every layer, all of them in smaller ones. `values`, `groups` and `spread` are the allocation's:
    the signal of each group of layers, the group of each layer, and how far apart densities are. UsageError where they
    allow no such run.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        sparsity: float,
        structure: Structure = UNSTRUCTURED,
        allocation: str = "global",
        floor: float = 0.0,
        ceiling: float = 1.0,
        min_keep: int | None = None,
        values: Mapping[str, float] | None = None,
        groups: Mapping[str, str] | None = None,
        spread: float | None = None,
    ) -> None:
        self._structure = structure
        self._units = {name: size // structure.group for name, size in sizes.items()}
        least_kept = 0 if structure.grouped else MIN_KEEP if min_keep is None else min_keep
        self._final = self.quota(sparsity)
        self._limits = _limits(
            self._units, self._final, sparsity=sparsity, floor=floor, ceiling=ceiling, min_keep=least_kept
        )
        density = 1 - self._final / sum(self._units.values())
        self._densities = allocations.densities(
            allocation, self._units, density=density, values=values, groups=groups, spread=spread
        )

    def quota(self, sparsity: float) -> int:
        """The number of units that a sparsity prunes: the nearest whole number, halves to the even one."""
        return round(self._structure.share(sparsity) * sum(self._units.values()))

    def bounds(self, k: int, zeros: Sizes) -> Bounds:
        """The least and the most units of each layer that an update of `k` units prunes.

        They are equal where the allocation fixes the counts, and else apart: one threshold decides. `zeros` counts
        weights of each layer that must stay pruned; where they leave no room for a floor, it gives way.
        """
        least = self._least(k, {name: count // self._structure.zeros for name, count in zeros.items()})
        most = {name: limit for name, (_, limit) in self._limits.items()}
        if not self._densities:
            return {name: (least[name], most[name]) for name in self._units}
        keep = {name: (size - most[name], size - least[name]) for name, size in self._units.items()}
        kept = solver.counts(self._densities, self._units, sum(self._units.values()) - k, keep)
        return {name: (size - kept[name],) * 2 for name, size in self._units.items()}

    def _least(self, k: int, pruned: Sizes) -> dict[str, int]:
        """The floors of an update, which grow in step with k, and what must stay pruned."""
        least = {name: max(low * k // max(self._final, 1), pruned[name]) for name, (low, _) in self._limits.items()}
        while (excess := sum(least.values()) - k) > 0:
            # rounding alone gets here: a unit of some layers
            for name in [name for name in least if least[name] > pruned[name]][:excess]:
                least[name] -= 1
        return least


def _limits(sizes: Sizes, k: int, *, sparsity: float, floor: float, ceiling: float, min_keep: int) -> Bounds:
    """The least and the most units of each layer that are pruned at the end of the run, `k` in all.

    Floor and ceiling are rounded towards each other, so that no layer goes beyond them; where whole units within them
    do not reach the sparsity, as where all three are equal, a layer may be less than a unit beyond. `min_keep`, and the
    ceiling where no whole number lies between, come before the floor. UsageError, with what can be reached, where the
    sparsity cannot.
    """
    if not (0 <= floor <= 1 and 0 <= ceiling <= 1 and floor <= ceiling):
        raise UsageError(f"0 <= floor <= ceiling <= 1 is needed, not floor {floor} and ceiling {ceiling}")
    if min_keep < 0:
        raise UsageError(f"min_keep counts weights and cannot be {min_keep}")
    total = sum(sizes.values())
    if sparsity > 0 and not k:
        raise UsageError(f"sparsity {sparsity} of {total:,} weights prunes none: use at least {1 / total:.2g}")
    for least_of, most_of in ((math.ceil, math.floor), (math.floor, math.ceil)):
        bounds = {}
        for name, size in sizes.items():
            most = min(most_of(round(ceiling * size, 6)), max(size - min_keep, 0))
            bounds[name] = min(least_of(round(floor * size, 6)), most), most
        lowest, highest = (sum(bound[side] for bound in bounds.values()) for side in (0, 1))
        if lowest <= k <= highest:
            return bounds
    raise UsageError(
        f"sparsity {sparsity} cannot be reached: floor {floor}, ceiling {ceiling} and min_keep {min_keep} "
        f"allow {_down(lowest / total)} to {_down(highest / total)} over these layers"
    )


def _down(share: float) -> str:
    return f"{math.floor(share * 10000) / 10000:g}"
