"""Where zeros may stand: anywhere, or in groups of M consecutive inputs of which N are kept.

A structure cuts a layer into units that go or stay as a whole: single weights, or groups that become N:M. What a unit
loses is the sum of the scores that would go. It knows nothing of budgets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from idvl.errors import UsageError, quoted


@dataclass(frozen=True)
class Structure:
    """Of every `group` consecutive inputs that are pruned, `keep` stay; 0 of 1 is no structure at all.

    As 2:4 is Structure(2, 4): of the scores [5, 1, 3, 2] of a unit the lowest two go, and it loses 1 + 2 = 3. A pruned
    unit holds 2 zeros, so 30 % of the weights are zero when 60 % of the units are pruned.
    """

    keep: int = 0
    group: int = 1

    @property
    def grouped(self) -> bool:
        return self.group > 1

    @property
    def zeros(self) -> int:
        """Zeros that a pruned unit holds."""
        return self.group - self.keep

    @property
    def sparsity(self) -> float:
        """The sparsity of a layer all of whose units are pruned."""
        return self.zeros / self.group

    def share(self, sparsity: float) -> float:
        """The share of units that a sparsity of the weights prunes."""
        return min(sparsity / self.sparsity, 1.0)

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """UsageError, naming the layers (out, in) whose inputs do not divide into groups."""
        if wrong := [f"{name} ({shape[-1]} inputs)" for name, shape in shapes.items() if shape[-1] % self.group]:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise UsageError(
                f"{self.keep}:{self.group} needs layers whose inputs divide by {self.group}, "
                f"not {', '.join(wrong[:3])}{more}; leave them out of the scope"
            )

    def losses(self, scores: Tensor) -> Tensor:
        """(out, in) scores -> (units,) float32: what each unit loses when it is pruned."""
        if not self.grouped:
            return scores.view(-1)
        going = self._lowest(scores)
        return scores.view(-1, self.group).masked_fill(~going, 0).sum(1)

    def expand(self, scores: Tensor, units: Tensor) -> Tensor:
        """(out, in) scores and (units,) bool, True where pruned -> (out * in,) bool, True where a weight goes."""
        if not self.grouped:
            return units
        return self._lowest(scores).logical_and_(units.unsqueeze(1)).view(-1)

    def holds(self, kept: Tensor) -> bool:
        """Whether a mask (out, in) has this structure throughout."""
        return not self.grouped or bool((kept.view(-1, self.group).sum(1) == self.keep).all())

    def _lowest(self, scores: Tensor) -> Tensor:
        """(units, group) bool: the `zeros` smallest scores of every group; of equal ones, those that come first.

        A weight's rank is the number of weights in its group that go before it, counted pair by pair: sorting many
        short rows takes far longer.
        """
        columns = scores.view(-1, self.group).T.contiguous()
        ranks = torch.zeros(columns.shape, dtype=torch.uint8, device=scores.device)
        for i in range(self.group):
            for j in range(i + 1, self.group):
                later = columns[j] < columns[i]
                ranks[i] += later
                ranks[j] += ~later
        return (ranks < self.zeros).T.contiguous()


UNSTRUCTURED = Structure()


def parse(name: str) -> Structure:
    """The structure of "unstructured" or "N:M". UsageError for anything else."""
    if name == "unstructured":
        return Structure()
    match = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", name)
    if not match or not 0 < int(match[1]) < int(match[2]) <= 64:
        raise UsageError(f"structure must be unstructured, or N:M with N below M (2:4, 4:8), not {quoted(name)}")
    return Structure(int(match[1]), int(match[2]))
