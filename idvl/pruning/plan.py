"""What a pruning run is going to do, found out before it writes anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from idvl.checkpoints.report import plan as planned_report
from idvl.pruning.settings import head_training
from idvl.sparsity.schedule import Schedule
from idvl.training import total_steps
from idvl.training.dry_run import rehearse
from idvl.uncovered import in_words
from idvl.units import duration, percent, size

if TYPE_CHECKING:
    from idvl.pruning.job import Job


@dataclass(frozen=True, kw_only=True)
class PruningPlan:
    """Scope, schedule, and what a run takes: bytes of memory, seconds of training, and of what comes before it.

    `report` is report.json without what only the masks know.
    """

    report: dict[str, Any]
    schedule: Schedule
    steps_per_epoch: int
    samples: int
    memory: int
    seconds: float
    before: dict[str, float]

    def scope(self) -> list[str]:
        """What is pruned, a line for each modality."""
        return scope_lines(self.report)

    def lines(self) -> list[str]:
        """When, and what it takes."""
        schedule = self.schedule
        steps = f"{schedule.total_steps:,} step{'s' * (schedule.total_steps != 1)}"
        every = f"masks every {schedule.mask_every} steps" if schedule.mask_every > 1 else "masks at every step"
        before = "".join(f", {duration(seconds)} of {what} before it" for what, seconds in self.before.items())
        return [
            f"{steps}, {self.steps_per_epoch:,} an epoch of {self.samples:,} samples: dense for "
            f"{schedule.first:,}, {schedule.kind} to {percent(schedule.target)} of the weights in scope at step "
            f"{schedule.last + 1:,}, {every}",
            f"{size(self.memory)} for weights, gradients, optimizer and criterion, beside a batch's "
            f"activations; about {duration(self.seconds)} of training{before}",
            *whole_lines(self.report),
        ]

    def to_json(self) -> dict[str, Any]:
        """The plan for programs; memory in bytes."""
        return {
            "report": self.report,
            "schedule": asdict(self.schedule),
            "steps_per_epoch": self.steps_per_epoch,
            "samples": self.samples,
            "memory": self.memory,
            "seconds": self.seconds,
            "before": self.before,
        }


def scope_lines(report: Mapping[str, Any]) -> list[str]:
    """What a planned report prunes, a line for each modality."""
    total = report["total"]["weights"]
    return [
        f"{name}: {part['layers']} layers, {part['weights']:,} weights, "
        f"{percent(part['weights'] / total, 1)} of the scope"
        for name, part in report["modalities"].items()
    ]


def whole_lines(report: Mapping[str, Any]) -> list[str]:
    """What a planned report comes to in all weights of the model, and what of them is not covered."""
    total = report["total"]
    pruned = total["asked"] * total["weights"] / total["model_weights"]
    return [
        f"{percent(total['asked'])} of the weights in scope are {percent(pruned)} of all weights of the model",
        in_words(report["not_covered"], total["model_weights"]),
    ]


def make(job: Job) -> PruningPlan:
    """The plan of a job, whose step is rehearsed. RunError, with a batch size that fits, where memory is too small."""
    model, prune = job.loaded.model, job.recipe.prune
    weights = sum(parameter.nbytes for parameter in model.parameters())
    pruned = sum(layer.in_features * layer.out_features for layer in job.layers.values())
    # two moments; the dense model; what data-parallel wrappers exchange gradients in
    copies = 2 * job.training.update_weights + job.learns * ((job.training.distill > 0) + (job.team.size > 1))
    beside = weights * copies + pruned * job.criterion().bytes_per_weight + pruned // 8
    step = 0.0
    if job.learns or job.recipe.train.new_head:
        step = rehearse(job.loaded, job.selection.samples, job.training, beside=beside)
    dense = total_steps(head_training(job.training), len(job.selection.samples), job.team.size)
    return PruningPlan(
        report=planned_report(
            model,
            job.layers,
            family=job.loaded.family,
            unreached=job.unreached,
            asked=prune.sparsity,
            by_layer=job.targets(),
            zeros=job.before,
        ),
        schedule=job.schedule,
        steps_per_epoch=job.per_epoch,
        samples=len(job.selection.samples),
        # weights, and gradients where there are any
        memory=weights * (1 + job.learns) + beside,
        seconds=step * job.schedule.total_steps * job.learns,
        before={"training the new head": step * dense} if job.recipe.train.new_head else {},
    )
