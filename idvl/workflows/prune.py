"""Prune a model while it trains, and leave a folder behind that plain transformers opens.

recipe -> model, samples -> plan -> profile -> pruner -> training -> model/, masks, report, card. The profile is a run
of estimate-id in a folder inside this one's. It does not know how a terminal looks.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from idvl import runs
from idvl.checkpoints.hub import check as check_hub
from idvl.checkpoints.hub import push
from idvl.device import peak_memory
from idvl.evaluation.evaluation import Evaluation
from idvl.measurement.profiling import Estimation
from idvl.models.loading import load
from idvl.profile import Profile
from idvl.pruning import dimensions, head, quality
from idvl.pruning.job import Job, gather
from idvl.pruning.plan import PruningPlan
from idvl.pruning.plan import make as make_plan
from idvl.pruning.saving import REPORT, add_evaluation, check_saved, is_evaluated, read_report, save, skip_evaluation
from idvl.pruning.settings import continued, resolved
from idvl.pruning.training import CHECKPOINTS, prune
from idvl.recipe import Recipe
from idvl.reporter import Reporter, resumable
from idvl.session import begin, image_store, open_run
from idvl.sparsity.schedule import Schedule

# how far the sparsity may be from the one asked for, as a share of the weights that go or stay, whichever are fewer
MISSED = 0.1


@dataclass(frozen=True, kw_only=True)
class PruningResult:
    """What a run ends with: the report and its folder, or after a plan (and beside the first process) neither."""

    plan: PruningPlan | None
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
    recipe = resolved(recipe)
    if push_to:
        check_hub(push_to)
    named = "prune", recipe.model.name, recipe.data.dataset
    how = {"resume": resume, "overwrite": overwrite, "plan": plan_only, "push_to": push_to}
    place, device, team = begin(recipe, named, folder, **how)
    with ExitStack() as held:
        training, judging = (held.enter_context(image_store(place, team, kind)) for kind in ("training", "judging"))
        job = gather(recipe, device, team, reporter, store=training)
        ended = resume and not plan_only and team.first((place / REPORT).exists)
        if ended:
            team.first(lambda: check_saved(place))
        evaluated = ended and team.first(lambda: is_evaluated(read_report(place)))
        judge, skipped = (None, None) if plan_only or evaluated else quality.prepare(job, reporter, store=judging)
        plan, estimation = (None, None) if ended else _planned(job, place if resume else None, reporter)
        if plan_only:
            return PruningResult(plan=plan)
        begun = resume and team.first(lambda: runs.read_record(place) is not None)
        done = {"ended": bool(ended), "evaluated": bool(evaluated)}
        told = team.first(lambda: continued(recipe, place, **done)) if begun else recipe.to_dict()
        options = {"recipe": told, "signature": job.signature(), "resume": resume, "overwrite": overwrite}
        opened, folder = open_run(held, team, folder, named, **options)
        if ended:
            reporter.note("the model is pruned already")
            if opened:  # the run may have been killed before it removed them
                for name in {CHECKPOINTS, head.CHECKPOINTS} & set(opened.record["files"]):
                    shutil.rmtree(folder / name, ignore_errors=True)
        else:
            for line in (*plan.scope(), *plan.lines()):
                reporter.note(line)
        with resumable(folder, reporter):
            if not ended:
                PruningRun(job, plan, folder, opened, reporter, resume).carry_out(estimation, judge)
            if judge and recipe.eval.after:
                _judge(job, judge, folder, opened, reporter)
            elif skipped:
                team.first(lambda: skip_evaluation(folder, skipped))
        report = team.first(lambda: read_report(folder))
        _warn_of_missed(report["total"], recipe, reporter)
        if others := report["verified"]["other_zeros"]:
            reporter.warn(f"{others:,} more weights in scope are zero, as they were before; they are not counted")
        if opened and push_to:
            reporter.note(f"uploaded to {push(folder / 'model', push_to, private=private)}")
    return PruningResult(plan=plan, report=report, folder=folder if opened else None)


def _judge(job: Job, judge: Evaluation, folder: Path, opened: runs.Run | None, reporter: Reporter) -> None:
    """Evaluate the saved model; report and card tell how well it does."""
    if opened:
        opened.path(quality.FINAL)
    path, asked = str(folder / "model"), job.recipe.model
    saved = job.team.each(lambda: load(path, device=job.loaded.model.device, trust_remote_code=asked.trust_remote_code))
    results = quality.measure(judge, saved, folder / quality.FINAL, reporter)
    job.team.first(lambda: add_evaluation(job, folder, results))


def _planned(job: Job, resumed: Path | None, reporter: Reporter) -> tuple[PruningPlan, Estimation | None]:
    """What is going to happen, and the estimation of its profile where it can be made of the model as it is."""
    if job.recipe.prune.compat == "none":
        _warn_of_few(job.schedule, reporter)
    plan = job.team.each(lambda: make_plan(job))
    if not job.estimates:
        return plan, None
    new_head = job.recipe.train.new_head
    begun = resumed / dimensions.FOLDER if resumed and not new_head else None
    estimation = dimensions.estimation(job, reporter, begun=begun)
    if not estimation.is_done:
        plan = replace(plan, before=plan.before | {"measuring dimensions": estimation.plan(reporter).seconds})
    return plan, None if new_head else estimation


def _warn_of_few(schedule: Schedule, reporter: Reporter) -> None:
    """Say where the sparsity rises in fewer masks than it could."""
    if schedule.adapted() != schedule:
        times = f"{schedule.updates} masks are" if schedule.updates != 1 else "a single mask is"
        reporter.warn(
            f"{times} set while the sparsity rises, one every {schedule.mask_every} steps: "
            f"leave mask_every out, which makes it {schedule.adapted().mask_every} here"
        )


def _warn_of_missed(total: Mapping[str, Any], recipe: Recipe, reporter: Reporter) -> None:
    """Say where the share of zeros is far from the one that was asked for."""
    came, asked = total["sparsity"], total["asked"]
    if abs(came - asked) > MISSED * min(asked, 1 - asked):
        why = "; compat icml24 removes nothing before a window has ended, take more steps"
        reporter.warn(
            f"{came:.2%} of the weights in scope are zero, {asked:.2%} was asked for"
            f"{why if recipe.prune.compat == 'icml24' else ''}"
        )


@dataclass(frozen=True)
class PruningRun:
    """A job with its plan and its folder, which the first process alone has opened."""

    job: Job
    plan: PruningPlan
    folder: Path
    opened: runs.Run | None
    reporter: Reporter
    resume: bool

    def carry_out(self, estimation: Estimation | None, judge: Evaluation | None) -> None:
        """Learn the head, estimate the profile, prune, save."""
        job, made = self.job, runs.provenance()
        if self.opened:
            for name in (dimensions.FOLDER, CHECKPOINTS, *([quality.STEPS] if job.recipe.eval.every else [])):
                self.opened.path(name)
        if job.recipe.train.new_head:
            head.learn(job, self.folder, self.opened, self.reporter)
        profile = self._estimated(estimation) if job.estimates else job.known
        start = time.perf_counter()
        pruner, outcome = prune(job, profile, self.folder, self.opened, self.reporter, resume=self.resume, judge=judge)
        facts = {
            **{
                **made,
                **asdict(outcome),
                "schedule": asdict(job.schedule),
                "seconds": round(time.perf_counter() - start, 3),
            },
            "peak_memory": peak_memory(job.loaded.model.device),
            "image_backend": job.loaded.description["image_backend"],
        }
        job.team.first(lambda: save(job, pruner, profile, self.plan, self.opened, facts))
        if self.opened:
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def _estimated(self, estimation: Estimation | None) -> Profile:
        """The profile of the dense model, from a run of its own inside this one's folder."""
        place = self.folder / dimensions.FOLDER
        if estimation is None:
            estimation = dimensions.estimation(self.job, self.reporter, begun=place if self.resume else None)
        # what is there without a run.json that can be read is refused as such
        resume = self.job.team.first(lambda: estimation.begun is not None or (self.resume and place.exists()))
        done = estimation.carry_out(place, self.reporter, resume=resume, part=True)
        return self.job.team.first(lambda: done.profile)
