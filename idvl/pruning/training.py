"""A job carried out: the model learns while the pruner takes weights away. It does not know what is kept of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from idvl import runs
from idvl.device import cost_since
from idvl.evaluation.evaluation import Evaluation
from idvl.files import write_text
from idvl.profile import Profile
from idvl.pruning import dimensions
from idvl.pruning.evaluation import evaluate_step
from idvl.reporter import Progress, Reporter
from idvl.sparsity.pruner import WeightPruner
from idvl.training import Outcome, agree, train
from idvl.training.checkpoint import latest
from idvl.training.hooks import Hooks
from idvl.units import percent

if TYPE_CHECKING:
    from idvl.pruning.job import Job

# the folder inside a run's that holds its checkpoints
CHECKPOINTS = "checkpoints"


def prune(
    job: Job,
    profile: Profile | None,
    folder: Path,
    opened: runs.Run | None,
    reporter: Reporter,
    *,
    resume: bool,
    evaluation: Evaluation | None = None,
) -> tuple[WeightPruner, Outcome]:
    """All steps that are left of a job. The pruner at the end, and what training did."""
    weighted = job.multipliers(profile)
    _warn_of_substitutes(weighted.substituted, len(job.layers), reporter)
    pruner = job.pruner(weighted)
    if resume:
        job.team.first(lambda: drop_later_metrics(folder))

    with reporter.progress("pruning") as progress:
        hooks = PruningHooks(job, pruner, folder, opened, reporter, evaluation).of_training(progress)
        if not job.learns:
            return pruner, _step_through(job, hooks)
        outcome = train(
            job.loaded,
            job.selection.samples,
            job.training,
            folder=folder / CHECKPOINTS,
            resume=resume,
            state={"pruner": pruner},
            **vars(hooks),
        )
    return pruner, outcome


@dataclass(frozen=True)
class PruningHooks:
    """What a pruning run does between the steps of its training."""

    job: Job
    pruner: WeightPruner
    folder: Path
    opened: runs.Run | None
    reporter: Reporter
    evaluation: Evaluation | None

    def of_training(self, progress: Progress) -> Hooks:
        """The hooks of the loop. `progress` shows each step."""
        target = self.job.schedule.target
        return Hooks(
            on_step=self.on_step,
            on_epoch=self.on_epoch if self.job.recipe.prune.refresh_profile else None,
            evaluate=self.evaluate if self.evaluation else None,
            describe=lambda: sparsities(self.job, self.pruner),
            progress=lambda step, total, numbers: progress(step, total, _step_line(numbers, target)),
            log=self.opened.log_metric if self.opened else None,
        )

    def on_step(self, step: int) -> None:
        """Set the masks where they are due; all processes must have the same."""
        update = self.pruner.step(step)
        if update is not None:
            agree(update.digest, f"the masks at step {step}", self.pruner.digests)

    def on_epoch(self, epoch: int, step: int) -> None:
        """Estimate the dimensions again where it is due, and weight the scores by them."""
        if epoch % self.job.recipe.prune.refresh_profile == 0 and not self.job.schedule.is_final(step + 1):
            refreshed = dimensions.refreshed(self.job, self.pruner, self.opened, epoch)
            self.pruner.scores.set_factors(self.job.multipliers(refreshed).factors)

    def evaluate(self, step: int) -> dict[str, float]:
        """The metrics of the model as it is pruned now."""
        with self.pruner.masked():
            return evaluate_step(self.evaluation, self.job.loaded, self.folder, step, self.reporter)


def _step_through(job: Job, hooks: Hooks) -> Outcome:
    """All steps of a job that learns nothing: its masks follow from the weights alone, without a loss or samples."""
    total, every, start = job.schedule.total_steps, job.training.evaluate_every, time.perf_counter()
    for step in range(1, total + 1):
        hooks.on_step(step)
        numbers = hooks.describe()
        hooks.progress(step, total, numbers)
        if hooks.log and (step % job.training.log_every == 0 or step == total):
            hooks.log({"step": step, **numbers})
        if hooks.evaluate and every and step % every == 0:
            metrics = hooks.evaluate(step)
            if hooks.log:
                hooks.log({"step": step, **metrics})
    cost = runs.total_cost(cost_since(start, job.loaded.model.device))
    return Outcome(steps=total, resumed_at=0, skipped=0, loss=None, **cost)


def _warn_of_substitutes(substituted: Mapping[str, str], layers: int, reporter: Reporter) -> None:
    """Say which layers have another factor than their own dimension gives."""
    if substituted:
        name, reason = next(iter(substituted.items()))
        count = f"{len(substituted)} of {layers} layers have no reliable ID, as report.json says of each"
        reporter.warn(f"{count}; the first is {name}: {reason}")


def sparsities(job: Job, pruner: WeightPruner) -> dict[str, float]:
    """The share of zeros in scope, and of each modality in it."""
    shares = {"sparsity": pruner.sparsity()}
    for modality in dict.fromkeys(layer.modality for layer in job.layers.values()):
        names = [name for name, layer in job.layers.items() if layer.modality == modality]
        size = sum(pruner.weights[name].numel() for name in names)
        shares[f"sparsity.{modality}"] = sum(pruner.masks.zeros[name] for name in names) / size
    return shares


def _step_line(numbers: Mapping[str, float], target: float) -> str:
    """A step in words."""
    shares = {key.partition(".")[2]: share for key, share in numbers.items() if key.startswith("sparsity.")}
    parts = (f"{modality} {percent(share, 0)}" for modality, share in shares.items())
    loss = f"loss {numbers['loss']:.3f}, " if "loss" in numbers else ""
    return f"{loss}sparsity {percent(numbers['sparsity'], 1)} (target {percent(target, 1)}): {', '.join(parts)}"


def drop_later_metrics(folder: Path) -> None:
    """Drop the metrics of steps after the last checkpoint, and its evaluation: they will be made again."""
    checkpoint = latest(folder / CHECKPOINTS)
    step, path = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0, folder / "metrics.jsonl"
    numbered = [(line.get("step", 0), line) for line in runs.read_metrics(path)]
    lines = [line for number, line in numbered if number < step or (number == step and "loss" in line)]
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
