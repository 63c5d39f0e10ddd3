"""The paper's own code, by name, where it differs from its text and from `WeightPruner`.

It resets PLATON's state every epoch, it prunes biases too, it sets masks at steps of its own and a few weights
short of the budget, and holds them only until the next optimizer step. Its optimizer also leaves out the last step of
every epoch, which the training loop does (`Training.skip_last`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from idvl.sparsity import axes, criteria, threshold
from idvl.sparsity.criteria import Criterion
from idvl.sparsity.criteria.platon import Platon
from idvl.sparsity.masks import Masks
from idvl.sparsity.pruner import Update, WeightPruner
from idvl.sparsity.schedule import Schedule

# the threshold of a tensor is no lower than its third smallest score: meant to keep three weights, it prunes two
FORCED = 3


class EpochPlaton(Platon):
    """PLATON as that code counts: a window closes at steps that `window` divides, before the step is taken in.

    The open window's mean takes step t in as its (t mod window + 1)-th, whether or not the ones before were seen.
    """

    @torch.no_grad()
    def observe(self, name: str, weight: Tensor, grad: Tensor) -> None:
        if name not in self._seen:
            self._allocate(name, weight)
        self._seen[name] += 1
        position = self._seen[name] % self.window
        sensitivity = (weight.detach().float() * grad).abs_()
        if position:
            self._sums[name].mul_(position).add_(sensitivity).div_(position + 1)
        else:
            self._close(name, 1)
            self._sums[name].copy_(sensitivity)

    @torch.no_grad()
    def score(self, name: str, weight: Tensor, grad: Tensor | None) -> Tensor:
        return self._importance[name].float() * self._uncertainty[name]

    def reset(self) -> None:
        """Forget all but the number of steps."""
        for state in (self._sums, self._importance, self._uncertainty):
            for tensor in state.values():
                tensor.zero_()


# criteria whose state that code keeps in another way
CRITERIA = {"platon": EpochPlaton}


def load(name: str, **settings: Any) -> Criterion:
    """`criteria.load` for this code."""
    return CRITERIA[name](**settings) if name in CRITERIA else criteria.load(name, **settings)


class Icml24(WeightPruner):
    """`WeightPruner` as the paper's code has it, for `biases` (by layer name) too.

    `masks` are those of the last update, and of weights alone, `bias_masks` those of biases, by the layer's name
    and ".bias"; in the final phase every step updates them.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        *,
        criterion: Criterion,
        schedule: Schedule,
        steps_per_epoch: int,
        biases: Mapping[str, nn.Parameter] | None = None,
        factors: Mapping[str, float] | None = None,
    ) -> None:
        axes.refuse(schedule=schedule.kind, compat="icml24")
        super().__init__(weights, criterion=criterion, schedule=schedule, factors=factors, min_keep=0)
        self._steps_per_epoch = steps_per_epoch
        self._biases = {f"{name}.bias": biases[name] for name in weights if name in (biases or {})}
        shapes = {name: bias.shape for name, bias in self._biases.items()}
        self.bias_masks = Masks(shapes, next(iter(weights.values())).device)

    @torch.no_grad()
    def step(self, step: int) -> Update | None:
        criterion = self.scores.criterion
        if isinstance(criterion, EpochPlaton) and (step - 1) % self._steps_per_epoch == 0:
            criterion.reset()
        tensors = self._tensors()
        for name, (tensor, _) in tensors.items():
            self.scores.observe(name, tensor)
        remaining, due = self._remaining(step)
        k = int(sum(tensor.numel() for tensor, _ in tensors.values()) * (1 - remaining))
        return self._prune(step, tensors, k, 1 - remaining) if due and k else None

    @contextmanager
    def masked(self) -> Iterator[None]:
        with self.masks.applied(self.weights), self.bias_masks.applied(self._biases):
            yield

    def digest(self) -> str:
        return f"{super().digest()} {self.bias_masks.hash()}"

    def digests(self) -> dict[str, str]:
        return super().digests() | self.bias_masks.hashes()

    def state_dict(self) -> dict[str, Tensor]:
        biases = {f"bias_mask.{name}": packed for name, packed in self.bias_masks.state_dict().items()}
        return super().state_dict() | biases

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        part = "bias_mask."
        self.bias_masks.load_state_dict({k.removeprefix(part): v for k, v in state.items() if k.startswith(part)})

    def _tensors(self) -> dict[str, tuple[nn.Parameter, str]]:
        """Every weight, followed by its bias, with the layer's name."""
        tensors = {}
        for name, weight in self.weights.items():
            tensors[name] = weight, name
            if f"{name}.bias" in self._biases:
                tensors[f"{name}.bias"] = self._biases[f"{name}.bias"], name
        return tensors

    def _remaining(self, step: int) -> tuple[float, bool]:
        """The share of weights to keep at a step, and whether masks are set.

        Not `Schedule`'s: these floats round as that code's, and `k` is cut to a whole number; the final phase may have
        no step; and masks are set at the end of every epoch too.
        """
        schedule = self.schedule
        total, kept = schedule.total_steps, 1 - schedule.target
        initial, final = round(schedule.initial * total), round(schedule.final * total)
        if step <= initial:
            return 1.0, False
        if step > total - final:
            return kept, True
        left = 1 - (step - initial) / (total - initial - final)
        due = step % schedule.mask_every == 0 or step % self._steps_per_epoch == 0
        return kept + (1 - kept) * left**3, due

    def _prune(self, step: int, tensors: Mapping[str, tuple[nn.Parameter, str]], k: int, sparsity: float) -> Update:
        """Zero what scores less than the k-th smallest of all, or than the third smallest of its tensor."""
        limits = {name: (0, tensor.numel()) for name, (tensor, _) in tensors.items()}
        key, _ = threshold.find(lambda name: threshold.keys_of(self.scores.of(name, *tensors[name])), k, limits)
        for name, (tensor, layer) in tensors.items():
            scores = self.scores.of(name, tensor, layer)
            forced = scores.view(-1).topk(min(FORCED, scores.numel()), largest=False).values.max()
            tensor.masked_fill_(scores < forced.clamp(min=threshold.score_of(key)), 0)
            # that code has no masks: what is zero now, also from before, is what it shows
            (self.masks if name in self.weights else self.bias_masks).set(name, tensor != 0)
        return self._updated(step, sparsity)
