"""What a recovery is going to do and take: what is trained, steps, memory, time. Trying a step changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from idvl.pruning.plan import scope_lines
from idvl.training import steps_per_epoch, total_steps
from idvl.training.dry_run import rehearse
from idvl.units import duration, percent, size

if TYPE_CHECKING:
    from idvl.recovery.job import Recovery

# what each method trains, and how many parameters that is beside the model's
TRAINED = {
    "lora": "{trained} parameters of adapters are trained, as many as {share} of the model's",
    "lora and biases": (
        "{trained} parameters of adapters, biases and norms are trained, as many as {share} of the model's"
    ),
    "full": "{trained} parameters that are not pruned are trained, {share} of the model's",
    "full, unpruned": "parameters that are not pruned by then are trained, {trained} at most",
    "biases": "{trained} parameters of biases and norms are trained, {share} of the model's",
}


@dataclass(frozen=True, kw_only=True)
class RecoveryPlan:
    """What is trained, in how many steps, and what that takes: bytes of memory, seconds.

    `report` is report.json as it will be, but for how the model was recovered; `trains` a key of TRAINED.
    """

    report: dict[str, Any]
    method: str
    trains: str
    trained: int
    parameters: int
    steps: int
    steps_per_epoch: int
    samples: int
    memory: int
    seconds: float

    def scope(self) -> list[str]:
        """What is pruned and stays so, a line for each modality."""
        return scope_lines(self.report)

    def lines(self) -> list[str]:
        """What is trained, and what it takes."""
        trained = {"trained": f"{self.trained:,}", "share": percent(self.trained / self.parameters)}
        return [
            f"method {self.method}: {TRAINED[self.trains].format(**trained)}",
            f"{self.steps:,} step{'s' * (self.steps != 1)}, {self.steps_per_epoch:,} an epoch of {self.samples:,} "
            "samples",
            f"{size(self.memory)} for weights, gradients, optimizer and teacher, beside a batch's activations; about "
            f"{duration(self.seconds)} of training",
        ]

    def to_json(self) -> dict[str, Any]:
        """The plan for programs; memory in bytes."""
        keys = ("report", "method", "trained", "steps", "steps_per_epoch", "samples", "memory", "seconds")
        return {key: getattr(self, key) for key in keys}


def make(job: Recovery) -> RecoveryPlan:
    """The plan of a job, whose step is rehearsed. RunError, with a batch size that fits, where memory is too small."""
    model, samples = job.loaded.model, job.selection.samples
    weights = sum(parameter.nbytes for parameter in model.parameters())
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    teacher = job.teacher if isinstance(job.teacher, nn.Module) else nn.Module()
    dense = sum(parameter.nbytes for parameter in teacher.parameters())
    # two moments, and what data-parallel wrappers exchange gradients in
    beside = trained * (2 + (job.team.size > 1)) + job.masks.total // 8
    step = rehearse(job.loaded, samples, job.training, beside=beside)
    steps = total_steps(job.training, len(samples), job.team.size)
    method = job.recipe.recover.method
    also = {"lora": " and biases" * job.recipe.recover.biases, "full": ", unpruned" * job.is_dense}
    return RecoveryPlan(
        report=job.report,
        method=method,
        trains=method + also.get(method, ""),
        trained=job.trained,
        parameters=job.parameters,
        steps=steps,
        steps_per_epoch=steps_per_epoch(job.training, len(samples), job.team.size),
        samples=len(samples),
        memory=weights + dense + trained + beside,
        seconds=step * steps,
    )
