"""Step -> sparsity. Steps count from 1: step t is the state after the t-th optimizer step. It knows no weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

from idvl.errors import UsageError, quoted

# progress through the pruning phase -> fraction of the target; the corrected Eq. 2 of the paper (appendix A):
# (steps since pruning began, steps until it ends); one-shot ends one step later, so that each step has its own sparsity
CURVES = {
    "cubic": lambda step, steps: 1 - (1 - step / steps) ** 3,
    "linear": lambda step, steps: step / steps,
    "one-shot": lambda step, steps: step / (steps + 1),
}
# steps between two masks; and how many masks the pruning phase has where its steps allow
MASK_EVERY, UPDATES = 10, 10


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Dense, then rising, then final.

    `initial` and `final` are fractions of `total_steps`: nothing is pruned before t_i = initial T, and from T - t_f on
    (t_f = final T, at least the last step) the sparsity is `target`. In between masks are due every `mask_every` steps,
    at r(t) = target c((t - t_i) / (T - t_i - t_f)). One-shot, whose weights are not trained, rises evenly to the target
    at step T (appendix A sets a rate for each of its 50 steps, and does not say which).
    """

    kind: str = "cubic"
    target: float
    total_steps: int
    initial: float = 0.0
    final: float = 0.0
    mask_every: int = MASK_EVERY

    def __post_init__(self) -> None:
        if self.kind not in CURVES:
            raise UsageError(f"schedule must be one of {', '.join(CURVES)}, not {quoted(self.kind)}")
        if not 0 < self.target < 1:
            raise UsageError(f"sparsity must lie between 0 and 1, not {self.target}")
        if self.mask_every < 1:
            raise UsageError(f"mask_every must be at least 1 step, not {self.mask_every}")
        if self.total_steps < 1:
            raise UsageError(f"a schedule needs at least 1 step, not {self.total_steps}")
        if not (self.initial >= 0 and self.final >= 0 and self.initial + self.final < 1):
            raise UsageError(
                f"initial and final are fractions of all steps that leave some between them, "
                f"not {self.initial} and {self.final}"
            )

    @property
    def first(self) -> int:
        """Steps before pruning begins, t_i."""
        return min(round(self.initial * self.total_steps), self.total_steps - 1)

    @property
    def last(self) -> int:
        """The step after which the final phase begins, T - t_f."""
        return max(self.first, self.total_steps - max(1, round(self.final * self.total_steps)))

    @property
    def updates(self) -> int:
        """How many masks are set while the sparsity rises."""
        return self.last // self.mask_every - self.first // self.mask_every

    def adapted(self) -> Schedule:
        """The same, with masks set more often where `mask_every` leaves the pruning phase fewer than UPDATES."""
        return replace(self, mask_every=min(self.mask_every, max(1, (self.last - self.first) // UPDATES)))

    def sparsity(self, step: int) -> float:
        """The scheduled sparsity of a step."""
        if step > self.last:
            return self.target
        if step <= self.first:
            return 0.0
        return self.target * CURVES[self.kind](step - self.first, self.last - self.first)

    def due(self, step: int) -> bool:
        """Whether masks are set at a step: every `mask_every` steps of the pruning phase, and once as it ends."""
        if step > self.last:
            return step == self.last + 1
        return step % self.mask_every == 0 and self.sparsity(step) > 0

    def is_final(self, step: int) -> bool:
        """Whether the sparsity is the target's from here on."""
        return step > self.last
