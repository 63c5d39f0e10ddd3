"""The pruner: criterion, factors, allocation, structure and schedule as one object with state.

It is told after every optimizer step, while the gradients that the step used are still there, and writes zeros into the
weights it was given. It knows named tensors; no model, loop or recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from idvl.errors import RunError, UsageError
from idvl.sparsity import axes, threshold
from idvl.sparsity.allocation import bounds, limits, quota
from idvl.sparsity.criteria import Criterion
from idvl.sparsity.masks import Masks
from idvl.sparsity.schedule import Schedule
from idvl.sparsity.structure import parse

# weights that stay in every layer unless another number is asked for: no layer is emptied
MIN_KEEP = 1


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one update of the masks did: the sparsity asked for, zeros in all and by layer, and the masks' hash."""

    step: int
    asked: float
    zeros: int
    total: int
    per_layer: dict[str, int]
    digest: str


class WeightPruner:
    """Prunes `weights`, (out, in) parameters by layer name, step by step.

    At due steps the masks are set anew and zeros are written; until the final phase weights are free to move and to
    return between updates. The final phase's first step sets the masks for good, and every step enforces them. With
    `monotone`, and in one-shot pruning, where no training would bring a value back, what was pruned stays pruned, and
    every step enforces that from the first update on.

    `factors` multiply a layer's scores (1 where None). `floor` and `ceiling` are the least and the largest sparsity of
    a layer, the floor growing with the schedule; `min_keep` weights stay in every layer. UsageError where settings do
    not go together, or cannot reach the schedule's target.
    """

    # masks of biases, for a pruner that prunes them
    bias_masks: Masks | None = None

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        *,
        criterion: Criterion,
        schedule: Schedule,
        factors: Mapping[str, float] | None = None,
        allocation: str = "global",
        structure: str = "unstructured",
        floor: float = 0.0,
        ceiling: float = 1.0,
        min_keep: int | None = None,
        monotone: bool = False,
    ) -> None:
        if not weights:
            raise UsageError("there is no layer to prune: widen the scope")
        factors = dict.fromkeys(weights, 1.0) if factors is None else dict(factors)
        axes.refuse(
            id_weight="multiply" if len(set(factors.values())) > 1 else "none",
            allocation=allocation,
            structure=structure,
            schedule=schedule.kind,
            floor=floor,
            ceiling=ceiling,
            min_keep=min_keep,
            monotone=monotone,
            sparsity=schedule.target,
            total_steps=schedule.total_steps,
            window=getattr(criterion, "window", None),
        )
        self.weights, self.criterion, self.schedule = dict(weights), criterion, schedule
        self._allocation, self._structure = allocation, parse(structure)
        self._monotone = monotone or schedule.kind == "one-shot"
        shapes = {name: weight.shape for name, weight in weights.items()}
        for weight in weights.values():
            weight.data = weight.data.contiguous()
        self._structure.check(shapes)
        self.masks = Masks(shapes, next(iter(weights.values())).device)
        self.set_factors(factors)
        # units of a layer: weights, or groups
        self._sizes = {name: weight.numel() // self._structure.group for name, weight in weights.items()}
        keep = MIN_KEEP if min_keep is None else min_keep
        self._ends = limits(
            self._sizes,
            sparsity=schedule.target / self._structure.sparsity,
            floor=floor,
            ceiling=ceiling,
            min_keep=0 if self._structure.grouped else keep,
        )
        self._frozen = False

    @property
    def total(self) -> int:
        """Weights that can be pruned."""
        return self.masks.total

    @property
    def frozen(self) -> bool:
        """Whether the masks are those of the end of the run."""
        return self._frozen

    def sparsity(self) -> float:
        """The share of weights that the masks prune now."""
        return sum(self.masks.zeros.values()) / self.total

    def digest(self) -> str:
        """The hash of the masks: equal on all ranks that prune alike."""
        return self.masks.hash()

    def digests(self) -> dict[str, str]:
        """The hash of each layer's mask."""
        return self.masks.hashes()

    def set_factors(self, factors: Mapping[str, float]) -> None:
        """Take other factors from the next update on. UsageError unless there is a positive one for every layer."""
        if missing := [name for name in self.weights if name not in factors]:
            raise UsageError(f"{len(missing)} layers have no factor, {missing[0]} first")
        self._factors = {name: float(factors[name]) for name in self.weights}
        if wrong := [name for name, factor in self._factors.items() if not 0 < factor < float("inf")]:
            raise UsageError(f"the factor of {wrong[0]} must be above 0, not {self._factors[wrong[0]]}")

    @torch.no_grad()
    def step(self, step: int) -> Update | None:
        """Observe one optimizer step, counted from 1, and prune where it is due. Call it before zero_grad.

        Returns what was updated, or None. RunError for a layer without a gradient where the criterion needs one, and
        for scores that are NaN.
        """
        if self._frozen:
            self.masks.enforce_(self.weights)
            return None
        for name, weight in self.weights.items():
            self._observe(name, weight)
        final = self.schedule.is_final(step)
        if final or self.schedule.due(step):
            update = self._update(step)
            self._frozen = final
            self.masks.enforce_(self.weights)
            return update
        if self._monotone:
            self.masks.enforce_(self.weights)
        return None

    def masked(self) -> AbstractContextManager[None]:
        """Inside, the masks hold in the weights (to evaluate, to save); afterwards moved weights are as before."""
        return nullcontext() if self._frozen else self.masks.applied(self.weights)

    def state_dict(self) -> dict[str, Tensor]:
        """All that a run resumes with, by reference."""
        state = {f"criterion.{key}": value for key, value in self.criterion.state_dict().items()}
        state |= {f"mask.{name}": packed for name, packed in self.masks.state_dict().items()}
        state |= {f"factor.{name}": torch.tensor(value, dtype=torch.float64) for name, value in self._factors.items()}
        state["frozen"] = torch.tensor(self._frozen)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the state of a pruner of the same layers and settings; ValueError where it is of others."""
        device = next(iter(self.weights.values())).device
        if "factors" in state:
            raise ValueError("an older idvl wrote it, which kept the layers' factors without their names")
        criterion, masks, factors = (
            {key.removeprefix(part): value.to(device) for key, value in state.items() if key.startswith(part)}
            for part in ("criterion.", "mask.", "factor.")
        )
        self.masks.load_state_dict(masks)
        self.criterion.load_state_dict(criterion)
        self._factors = {name: factors[name].item() for name in self.weights}
        self._frozen = bool(state["frozen"])

    def _observe(self, name: str, weight: nn.Parameter) -> None:
        if "gradient" in self.criterion.needs and weight.grad is None:
            raise RunError(f"{name} has no gradient: leave it out of the scope, or use magnitude")
        self.criterion.observe(name, weight, weight.grad)

    def _score(self, name: str, weight: nn.Parameter, factor: float) -> Tensor:
        """The weighted scores of one tensor. RunError for NaN."""
        scores = self.criterion.score(name, weight, weight.grad)
        if factor != 1:
            scores.mul_(factor)
        threshold.check(name, scores)
        return scores

    def _update(self, step: int) -> Update:
        asked = self.schedule.sparsity(step)
        k, final = (self._quota(sparsity) for sparsity in (asked, self.schedule.target))
        held = {name: zeros // self._structure.zeros * self._monotone for name, zeros in self.masks.zeros.items()}
        limited = bounds(self._allocation, self._sizes, k, self._ends, final, held)
        shared = any(least < most for least, most in limited.values())
        key, ties = threshold.find(lambda name: self._layer(name)[1], k, limited) if shared else (0, 0)
        for name, (least, most) in limited.items():
            scores, keys = self._layer(name)
            units, ties = threshold.take(keys, key, ties, least, most)
            self.masks.set(name, ~self._structure.expand(scores, units))
        return self._updated(step, asked)

    def _updated(self, step: int, asked: float) -> Update:
        zeros = dict(self.masks.zeros)
        return Update(
            step=step, asked=asked, zeros=sum(zeros.values()), total=self.total, per_layer=zeros, digest=self.digest()
        )

    def _quota(self, sparsity: float) -> int:
        """Units that a sparsity of the weights prunes."""
        return quota(min(sparsity / self._structure.sparsity, 1.0), sum(self._sizes.values()))

    def _layer(self, name: str) -> tuple[Tensor, Tensor]:
        """One layer's (out, in) weighted scores, and the (units,) keys of what its units lose.

        With `monotone` what is pruned already comes before all else: its keys are 0 and all others one higher.
        """
        scores = self._score(name, self.weights[name], self._factors[name])
        if not self._monotone:
            return scores, threshold.keys_of(self._structure.losses(scores))
        held = ~self.masks.kept(name)
        keys = threshold.keys_of(self._structure.losses(scores.masked_fill_(held, -1)))
        return scores, keys.add_(1).masked_fill_(held.view(-1, self._structure.group).any(1), 0)
