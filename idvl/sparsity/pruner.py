"""The pruner: criterion, factors, allocation, structure and schedule as one object with state.

It runs after every optimizer step, while the gradients that the step used are still there, and writes zeros into the
weights in place. It knows named tensors; no model, loop or recipe.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from idvl.errors import UsageError
from idvl.sparsity import axes, threshold
from idvl.sparsity.budget import Budget
from idvl.sparsity.criteria import Criterion
from idvl.sparsity.masks import Masks
from idvl.sparsity.schedule import Schedule
from idvl.sparsity.scores import Scores
from idvl.sparsity.structure import parse

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one update of the masks did: the scheduled sparsity, zeros in all and by layer, and the masks' hash."""

    step: int
    sparsity: float
    zeros: int
    total: int
    per_layer: dict[str, int]
    digest: str


class WeightPruner:
    """Prunes `weights`, (out, in) parameters by layer name, step by step.

    At due steps the masks are updated and zeros are written; until the final phase weights are free to move and to
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
        limits = {"allocation": allocation, "floor": floor, "ceiling": ceiling, "min_keep": min_keep}
        axes.refuse(
            **limits,
            id_weight="multiply" if len(set(factors.values())) > 1 else "none",
            structure=structure,
            schedule=schedule.kind,
            monotone=monotone,
            sparsity=schedule.target,
            total_steps=schedule.total_steps,
            window=getattr(criterion, "window", None),
        )
        self.weights, self.schedule = dict(weights), schedule
        self._structure = parse(structure)
        self._monotone = monotone or schedule.kind == "one-shot"
        shapes = {name: weight.shape for name, weight in weights.items()}
        for weight in weights.values():
            weight.data = weight.data.contiguous()
        self._structure.check(shapes)
        self.masks = Masks(shapes, next(iter(weights.values())).device)
        self.scores = Scores(criterion, weights, factors)
        sizes = {name: weight.numel() for name, weight in weights.items()}
        self._budget = Budget(sizes, sparsity=schedule.target, structure=self._structure, **limits)
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
            self.scores.observe(name, weight)
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
        masks = {f"mask.{name}": packed for name, packed in self.masks.state_dict().items()}
        return {**self.scores.state_dict(), **masks, "frozen": torch.tensor(self._frozen)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the state of a pruner of the same layers and settings; ValueError where it is of others."""
        device = next(iter(self.weights.values())).device
        state = {key: value.to(device) for key, value in state.items()}
        part = "mask."
        self.masks.load_state_dict({key.removeprefix(part): state[key] for key in state if key.startswith(part)})
        self.scores.load_state_dict(state)
        self._frozen = bool(state["frozen"])

    def _update(self, step: int) -> Update:
        sparsity = self.schedule.sparsity(step)
        k = self._budget.quota(sparsity)
        bounds = self._budget.bounds(k, self.masks.zeros if self._monotone else dict.fromkeys(self.weights, 0))
        shared = any(least < most for least, most in bounds.values())
        key, ties = threshold.find(lambda name: self._layer(name)[1], k, bounds) if shared else (0, 0)
        scored = False
        for name, (least, most) in bounds.items():
            scores, keys = self._layer(name)
            scored = scored or bool((scores > 0).any())
            units, ties = threshold.take(keys, key, ties, least, most)
            self.masks.set(name, ~self._structure.expand(scores, units))
        if not scored:
            logger.warning(
                "every score is 0 at step %d: the choice of weights is arbitrary; prune before zero_grad()",
                step,
            )
        return self._updated(step, sparsity)

    def _updated(self, step: int, sparsity: float) -> Update:
        zeros = dict(self.masks.zeros)
        return Update(
            step=step,
            sparsity=sparsity,
            zeros=sum(zeros.values()),
            total=self.total,
            per_layer=zeros,
            digest=self.digest(),
        )

    def _layer(self, name: str) -> tuple[Tensor, Tensor]:
        """One layer's (out, in) weighted scores, and the (units,) keys of what its units lose.

        With `monotone` what is pruned already comes before all else: its keys are 0 and all others one higher.
        """
        scores = self.scores.of(name, self.weights[name], name)
        if not self._monotone:
            return scores, threshold.keys_of(self._structure.losses(scores))
        pruned = ~self.masks.kept(name)
        keys = threshold.keys_of(self._structure.losses(scores.masked_fill_(pruned, -1)))
        # a copy, as the keys of unstructured scores lie in their memory
        return scores, (keys + 1).masked_fill_(pruned.view(-1, self._structure.group).any(1), 0)
