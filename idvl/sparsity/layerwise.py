"""Layers pruned from the statistics of their input: which weights go, and what the others become.

Pure functions of weights and sums. It knows neither models nor budgets: how many weights go of each layer is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idvl.choices import Repair, Within
from idvl.errors import RunError
from idvl.sparsity import criteria, obs
from idvl.sparsity.criteria.wanda import Wanda
from idvl.sparsity.scores import checked, failing_at
from idvl.sparsity.selection import lowest
from idvl.sparsity.statistics import Sums
from idvl.sparsity.structure import UNSTRUCTURED, Structure


@dataclass(frozen=True, eq=False)
class PrunedLayer:
    """`kept` (out, in) bool; `weight` in the dtype it had, zero where not kept; what did not go as planned."""

    kept: Tensor
    weight: Tensor
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Layerwise:
    """How layers are pruned. `within` are the weights whose scores are compared; N:M compares groups alone."""

    criterion: criteria.CalibratedCriterion | criteria.Criterion
    structure: Structure = UNSTRUCTURED
    within: Within = "row"
    repair: Repair = "none"

    @property
    def needs_products(self) -> bool:
        """Whether X^T X is needed."""
        return "second moments" in self.criterion.needs or self.repair == "obs"

    @property
    def updates(self) -> bool:
        """Whether weights that are kept change."""
        return self.needs_products or self.repair != "none"

    @torch.no_grad()
    def prune(
        self,
        weights: Mapping[str, Tensor],
        sums: Sums,
        zeros: Mapping[str, int],
        gradients: Mapping[str, Tensor] | None = None,
    ) -> dict[str, PrunedLayer]:
        """Prune layers (out, in) that read one input, so many weights of each. RunError for weights that are NaN.

        `gradients`: those of the weights, where the criterion needs them.
        """
        for name, weight in weights.items():
            if not bool(weight.isfinite().all()):
                raise RunError(f"{name} holds NaN or infinite weights")
        factor = obs.factor(sums.products) if self.needs_products else None
        gradients = gradients or {}
        return {
            name: self._layer(name, weight, sums, factor, zeros[name], gradients.get(name))
            for name, weight in weights.items()
        }

    def _layer(
        self, name: str, weight: Tensor, sums: Sums, factor: obs.Factor | None, zeros: int, gradient: Tensor | None
    ) -> PrunedLayer:
        if not zeros:
            return PrunedLayer(torch.ones_like(weight, dtype=torch.bool), weight.clone())
        selects = "second moments" in self.criterion.needs
        if selects and factor:
            return PrunedLayer(*self.criterion.select(weight, factor, zeros, self.structure), _damped(factor))
        kept = ~self._lowest(self._scores(name, weight, sums, Wanda() if selects else self.criterion, gradient), zeros)
        if factor:
            return PrunedLayer(kept, obs.update(weight, kept, factor), _damped(factor))
        instead = "pruned as by wanda instead" if selects else "not repaired"
        note = f"X^T X has no factor: {instead}" if self.needs_products else None
        return PrunedLayer(kept, weight.masked_fill(~kept, 0), note)

    def _scores(self, name: str, weight: Tensor, sums: Sums, criterion: Any, gradient: Tensor | None) -> Tensor:
        reads = criteria.is_calibrated(criterion)
        with failing_at(name, criterion):
            scores = criterion.score(weight, sums) if reads else criterion.score(name, weight, gradient)
        return checked(scores, name, weight, criterion)

    def _lowest(self, scores: Tensor, zeros: int) -> Tensor:
        if self.structure.grouped:
            units = torch.ones(zeros // self.structure.zeros, dtype=torch.bool, device=scores.device)
            return self.structure.expand(scores, units).view(scores.shape)
        return lowest(scores, zeros, by_row=self.within == "row")


def _damped(factor: obs.Factor) -> str | None:
    """What to say of a factor that needed more damping than the first."""
    return None if factor.damping == obs.DAMPING else f"X^T X needed a damping of {factor.damping:g}"
