"""Prune a model while it trains, or once from calibration samples; plain transformers opens the folder left behind.

recipe -> model, samples -> plan -> profile -> pruner -> training -> model/, masks, report, card. The profile is a run
of estimate-id in a folder inside this one's. With calibration, a walk takes the place
of profile and training. It does not know how a terminal looks.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

from idvl import json_file, runs
from idvl.errors import RunError, listed, quoted
from idvl.files import write_json
from idvl.measurement.estimation import Estimation
from idvl.profile import Profile
from idvl.pruning import calibration, dimensions, head, signals
from idvl.pruning.calibrate import BLOCKS, calibrate
from idvl.pruning.calibration import Calibration
from idvl.pruning.calibration_plan import CalibrationPlan, report_of
from idvl.pruning.calibration_plan import make as make_calibration_plan
from idvl.pruning.calibration_settings import calibrates
from idvl.pruning.counts import nearly_empty
from idvl.pruning.evaluation import BETWEEN
from idvl.pruning.job import Job
from idvl.pruning.job import gather as gather_job
from idvl.pruning.plan import PruningPlan
from idvl.pruning.plan import make as make_plan
from idvl.pruning.saving import save
from idvl.pruning.settings import resolve
from idvl.pruning.training import CHECKPOINTS, prune
from idvl.recipe import Recipe
from idvl.reporter import Reporter
from idvl.sparsity.pruner import WeightPruner
from idvl.sparsity.schedule import Schedule
from idvl.units import percent
from idvl.workflows.model_run import ModelResult, ModelRun, carry_out

# how far the sparsity may be from the one asked for, as a share of the weights that go or stay, whichever are fewer
MISSED = 0.1


def run(recipe: Recipe, *, reporter: Reporter, **options: Any) -> ModelResult:
    """Carry out a recipe. `options` are those of `carry_out`: folder, resume, overwrite, plan_only, push_to, ..."""
    recipe = resolve(recipe)
    gather = calibration.gather if calibrates(recipe.prune) else gather_job
    result = carry_out(recipe, PruningRun, gather, reporter=reporter, **options)
    if result.report:
        _warn_of_zeros(result.report, recipe, reporter)
    return result


def _plan(
    job: Job | Calibration, resumed: Path | None, reporter: Reporter
) -> tuple[PruningPlan | CalibrationPlan, Estimation | None]:
    """What is going to happen, and the estimation of its profile where it can be made of the model as it is."""
    if isinstance(job, Calibration):
        plan = job.team.first(lambda: make_calibration_plan(job))
    else:
        if job.recipe.prune.compat == "none":
            _warn_of_few(job.schedule, reporter)
        plan = job.team.each(lambda: make_plan(job))
    if not job.needs_estimate:
        return plan, None
    new_head = job.recipe.train.new_head
    resume_from = resumed / dimensions.FOLDER if resumed and not new_head else None
    estimation = dimensions.estimation(job, reporter, resume_from=resume_from)
    if not estimation.is_done:
        plan = replace(plan, before=plan.before | {"measuring dimensions": estimation.plan(reporter).seconds})
    return plan, None if new_head else estimation


def _recorded_values(path: Path) -> dict[str, float]:
    """The signal in a file of a run. RunError for one that is damaged."""
    try:
        return json_file.read(path, signals.AllocationFile)["values"]
    except (OSError, ValueError) as error:
        raise RunError(
            f"{quoted(path)} is damaged ({json_file.reason(error)}): delete it, and --resume measures again"
        ) from error


def _warn_of_few(schedule: Schedule, reporter: Reporter) -> None:
    """Say where the sparsity rises in fewer masks than it could."""
    if schedule.adapted() != schedule:
        times = f"{schedule.updates} masks are" if schedule.updates != 1 else "a single mask is"
        reporter.warn(
            f"{times} set while the sparsity rises, one every {schedule.mask_every} steps: "
            f"leave mask_every out, which makes it {schedule.adapted().mask_every} here"
        )


def _warn_of_zeros(report: Mapping[str, Any], recipe: Recipe, reporter: Reporter) -> None:
    """Say where the share of zeros is far from the recipe's, and where other weights were zero before."""
    total = report["total"]
    sparsity, target = total["sparsity"], total["asked"]
    if abs(sparsity - target) > MISSED * min(target, 1 - target):
        hint = "; compat icml24 removes nothing before a window has ended, take more steps"
        reporter.warn(
            f"{percent(sparsity)} of the weights in scope are zero, the target is {percent(target)}"
            f"{hint if recipe.prune.compat == 'icml24' else ''}"
        )
    if zeros := report["verified"]["other_zeros"]:
        reporter.warn(f"{zeros:,} more weights in scope are zero; the sparsity in scope does not count them")


class PruningRun(ModelRun):
    """A run of idvl prune."""

    command = "prune"
    done = "pruned"
    leftovers: ClassVar[frozenset[str]] = frozenset({CHECKPOINTS, head.CHECKPOINTS, BLOCKS})

    plan = staticmethod(_plan)

    def execute(self) -> None:
        """Prune and save the model."""
        if isinstance(self.job, Calibration):
            self._calibrate()
        else:
            self._prune()

    def _prune(self) -> None:
        """Learn the head, estimate the profile, prune while training, save."""
        job, provenance = self.job, runs.provenance()
        if self.opened:
            for name in (dimensions.FOLDER, CHECKPOINTS, *([BETWEEN] if job.recipe.eval.every else [])):
                self.opened.path(name)
        if job.recipe.train.new_head:
            head.learn(job, self.folder, self.opened, self.reporter)
        profile = self._estimate() if job.needs_estimate else job.profile
        pruner, outcome = prune(
            job, profile, self.folder, self.opened, self.reporter, resume=self.resume, evaluation=self.work.evaluation
        )
        facts = {
            **provenance,
            **asdict(outcome),
            "schedule": asdict(job.schedule),
            "image_backend": job.loaded.description["image_backend"],
            **({"dense_fingerprint": job.loaded.description["fingerprint"]} if job.recipe.train.new_head else {}),
            **({"training": job.selection.source()} if job.learns or job.recipe.train.new_head else {}),
        }
        job.team.first(lambda: self._save(pruner, profile, facts))
        if self.opened:
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def _calibrate(self) -> None:
        """Prune once from calibration samples, save."""
        job, provenance = self.job, runs.provenance()
        if job.values is None:
            job.values = self._measured()
        if empty := nearly_empty(job.layers, job.zeros):
            self.reporter.warn(
                f"{len(empty)} layers keep less than 1 % of their weights ({listed(empty)}): lower the sparsity, "
                "set a ceiling, or a smaller spread"
            )
        masks, outcome = calibrate(job, self.work.plan, self.folder, self.opened, self.reporter)
        facts = {**provenance, **outcome, **job.facts(), "image_backend": job.loaded.description["image_backend"]}
        # they are no factors of scores
        weighted = (
            replace(signals.powers(job.recipe.prune, job.layers, job.profile), factors={}) if job.profile else None
        )
        parts = {"profile": job.profile, "weighted": weighted}
        job.team.first(lambda: save(job, masks, report_of(job), self.opened, facts, **parts))
        if self.opened:
            shutil.rmtree(self.folder / BLOCKS, ignore_errors=True)

    def _measured(self) -> dict[str, float]:
        """The signal that the allocation reads: measured, or from the run that is resumed."""
        path, job = self.folder / signals.FILE, self.job
        if job.needs_estimate:
            if self.opened:
                self.opened.path(dimensions.FOLDER)
            job.profile = self._estimate()
            return signals.measure(job, self.reporter)
        if job.team.first(lambda: self.resume and path.exists()):
            return job.team.first(lambda: _recorded_values(path))
        values = signals.measure(job, self.reporter)
        if self.opened:
            write_json(self.opened.path(signals.FILE), signals.document(job.recipe.prune, values))
        return values

    def _save(self, pruner: WeightPruner, profile: Profile | None, facts: Mapping[str, Any]) -> None:
        profile = dimensions.newest(self.opened.folder, profile)
        parts = {"biases": pruner.bias_masks, "profile": profile, "weighted": self.job.multipliers(profile)}
        with pruner.masked():
            save(self.job, pruner.masks, self.work.plan.report, self.opened, facts, **parts)

    def _estimate(self) -> Profile:
        """The profile of the dense model, from a run of its own inside this one's folder."""
        path, estimation = self.folder / dimensions.FOLDER, self.work.estimation
        if estimation is None:
            estimation = dimensions.estimation(self.job, self.reporter, resume_from=path if self.resume else None)
        # what is there without a run.json that can be read is refused as such
        resume = self.job.team.first(lambda: estimation.resume_from is not None or (self.resume and path.exists()))
        result = estimation.execute(path, self.reporter, resume=resume, part=True)
        return self.job.team.first(lambda: result.profile)
