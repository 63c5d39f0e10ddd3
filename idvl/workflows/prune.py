"""Prune a model while it trains, or once from calibration samples; plain transformers opens the folder left behind.

recipe -> model, samples -> plan -> profile -> pruner -> training -> model/, masks, report, card. The profile is a run
of estimate-id in a folder inside this one's. With calibration, a walk takes the place
of profile and training. It does not know how a terminal looks.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from idvl import json_file, runs
from idvl.checkpoints.hub import check as check_hub
from idvl.checkpoints.hub import push
from idvl.device import peak_memory
from idvl.errors import RunError, quoted
from idvl.evaluation.evaluation import Evaluation
from idvl.files import write_json
from idvl.measurement.estimation import Estimation
from idvl.models.loading import load
from idvl.profile import Profile
from idvl.pruning import calibration, dimensions, head, signals
from idvl.pruning.calibrate import BLOCKS, calibrate
from idvl.pruning.calibration import Calibration
from idvl.pruning.calibration_plan import CalibrationPlan, report_of
from idvl.pruning.calibration_plan import make as make_calibration_plan
from idvl.pruning.evaluation import BETWEEN, FINAL, evaluate_pruned, prepare_evaluation
from idvl.pruning.job import Job
from idvl.pruning.job import gather as gather_job
from idvl.pruning.plan import PruningPlan
from idvl.pruning.plan import make as make_plan
from idvl.pruning.saving import REPORT, add_evaluation, check_saved, is_evaluated, read_report, save, skip_evaluation
from idvl.pruning.settings import calibrates, continued, resolve
from idvl.pruning.training import CHECKPOINTS, prune
from idvl.recipe import Recipe
from idvl.reporter import Reporter, resumable
from idvl.session import begin, image_store, open_run
from idvl.sparsity.pruner import WeightPruner
from idvl.sparsity.schedule import Schedule

# how far the sparsity may be from the one asked for, as a share of the weights that go or stay, whichever are fewer
MISSED = 0.1


@dataclass(frozen=True, kw_only=True)
class PruningResult:
    """What a run ends with: the report and its folder, or after a plan (and beside the first process) neither."""

    plan: PruningPlan | CalibrationPlan | None
    report: dict[str, Any] | None = None
    folder: Path | None = None


def run(
    recipe: Recipe,
    *,
    folder: Path | None,
    reporter: Reporter,
    resume: bool = False,
    overwrite: bool = False,
    plan_only: bool = False,
    push_to: str | None = None,
    private: bool = True,
) -> PruningResult:
    """Carry out a recipe. `folder` None: a new one under runs/. `push_to`: the Hub repository to upload the model to.

    Raises UsageError, before anything is written or removed, for what cannot be carried out.
    """
    recipe = resolve(recipe)
    if push_to:
        check_hub(push_to)
    name = runs.FolderName("prune", recipe.model.name, recipe.data.dataset)
    options = {"resume": resume, "overwrite": overwrite}
    path, device, team = begin(recipe, name, folder, plan=plan_only, push_to=push_to, **options)
    with ExitStack() as stack:
        stores = [stack.enter_context(image_store(path, team, kind)) for kind in ("training", "evaluation")]
        gather = calibration.gather if calibrates(recipe.prune) else gather_job
        job = gather(recipe, device, team, reporter, store=stores[0])
        state = team.first(lambda: _state(path)) if resume and not plan_only else RunState()
        work = _prepare(job, state, path if resume else None, reporter, store=stores[1])
        if plan_only:
            return PruningResult(plan=work.plan)
        options |= {"recipe": team.first(lambda: _recipe_of(recipe, path, state)), "signature": job.signature()}
        opened, folder = open_run(stack, team, folder, name, **options)
        pruning = PruningRun(job, work, folder, opened, reporter, resume)
        pruning.announce()
        with resumable(folder, reporter):
            pruning.execute()
            pruning.evaluate()
        report = team.first(lambda: read_report(folder))
        _warn_of_zeros(report, recipe, reporter)
        if opened and push_to:
            reporter.note(f"uploaded to {push(folder / 'model', push_to, private=private)}")
    return PruningResult(plan=work.plan, report=report, folder=folder if opened else None)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """How far a run has come that is resumed."""

    begun: bool = False
    saved: bool = False
    evaluated: bool = False


def _state(folder: Path) -> RunState:
    """The state of the run in a folder. RunError where its saved model is damaged."""
    saved = (folder / REPORT).exists()
    if saved:
        check_saved(folder)
    evaluated = saved and is_evaluated(read_report(folder))
    return RunState(begun=runs.read_record(folder) is not None, saved=saved, evaluated=evaluated)


def _recipe_of(recipe: Recipe, folder: Path, state: RunState) -> dict[str, Any]:
    """The recipe to write down: of a resumed run, with the settings of what it has done."""
    if not state.begun:
        return recipe.to_dict()
    return continued(recipe, folder, ended=state.saved, evaluated=state.evaluated)


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What is left to do: the plan (None: the model is saved), the estimation of the profile, and the evaluation.

    `unevaluated` is the reason why no evaluation is possible.
    """

    plan: PruningPlan | CalibrationPlan | None
    estimation: Estimation | None
    evaluation: Evaluation | None
    unevaluated: str | None


def _prepare(
    job: Job | Calibration, state: RunState, resumed: Path | None, reporter: Reporter, *, store: Path
) -> Preparation:
    """What is left of a run to do. `resumed`: its folder where it is continued; `store`: a file for images."""
    evaluation, reason = (None, None) if state.evaluated else prepare_evaluation(job, reporter, store=store)
    plan, estimation = (None, None) if state.saved else _plan(job, resumed, reporter)
    return Preparation(plan=plan, estimation=estimation, evaluation=evaluation, unevaluated=reason)


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
            f"{sparsity:.2%} of the weights in scope are zero, the target is {target:.2%}"
            f"{hint if recipe.prune.compat == 'icml24' else ''}"
        )
    if zeros := report["verified"]["other_zeros"]:
        reporter.warn(f"{zeros:,} more weights in scope are zero, as they were before; they are not counted")


@dataclass(frozen=True)
class PruningRun:
    """A job, what is left of it to do, and its folder, which the first process alone has opened."""

    job: Job | Calibration
    work: Preparation
    folder: Path
    opened: runs.Run | None
    reporter: Reporter
    resume: bool

    def announce(self) -> None:
        """Note what the run is going to do."""
        plan = self.work.plan
        for line in (*plan.scope(), *plan.lines()) if plan else ("the model is pruned already",):
            self.reporter.note(line)

    def execute(self) -> None:
        """Prune and save the model, unless that is done."""
        if self.work.plan is None:
            self._remove_leftovers()
        elif isinstance(self.job, Calibration):
            self._calibrate()
        else:
            self._prune()

    def evaluate(self) -> None:
        """Evaluate the saved model; report and card tell how well it does, or why it is not evaluated."""
        job, work = self.job, self.work
        if work.evaluation and job.recipe.eval.after:
            if self.opened:
                self.opened.path(FINAL)
            section = job.recipe.model
            options = {"trust_remote_code": section.trust_remote_code, "chat_template": section.chat_template}
            device = job.loaded.model.device
            saved = job.team.each(lambda: load(str(self.folder / "model"), device=device, **options))
            results = evaluate_pruned(work.evaluation, saved, self.folder / FINAL, self.reporter)
            job.team.first(lambda: add_evaluation(job, self.folder, results))
        elif work.unevaluated:
            job.team.first(lambda: skip_evaluation(self.folder, work.unevaluated))

    def _remove_leftovers(self) -> None:
        """Remove the checkpoints of a run whose model is pruned already: a kill may have kept it from doing so."""
        for name in {CHECKPOINTS, head.CHECKPOINTS, BLOCKS} & set(self.opened.record["files"] if self.opened else []):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _prune(self) -> None:
        """Learn the head, estimate the profile, prune while training, save."""
        job, provenance = self.job, runs.provenance()
        if self.opened:
            for name in (dimensions.FOLDER, CHECKPOINTS, *([BETWEEN] if job.recipe.eval.every else [])):
                self.opened.path(name)
        if job.recipe.train.new_head:
            head.learn(job, self.folder, self.opened, self.reporter)
        profile = self._estimate() if job.needs_estimate else job.profile
        start = time.perf_counter()
        pruner, outcome = prune(
            job, profile, self.folder, self.opened, self.reporter, resume=self.resume, evaluation=self.work.evaluation
        )
        facts = {
            **provenance,
            **asdict(outcome),
            "schedule": asdict(job.schedule),
            "seconds": round(time.perf_counter() - start, 3),
            "peak_memory": peak_memory(job.loaded.model.device),
            "image_backend": job.loaded.description["image_backend"],
        }
        job.team.first(lambda: self._save(pruner, profile, facts))
        if self.opened:
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def _calibrate(self) -> None:
        """Prune once from calibration samples, save."""
        job, provenance = self.job, runs.provenance()
        if job.values is None:
            job.values = self._measured()
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
