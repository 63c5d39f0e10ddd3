"""Prune a model while it trains, and leave a folder behind that plain transformers opens.

recipe -> model, samples -> plan -> profile -> pruner -> training -> model/, masks, report, card. The profile is a run
of estimate-id in a folder inside this one's. It does not know how a terminal looks.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from idvl import runs
from idvl.checkpoints.hub import check as check_hub
from idvl.checkpoints.hub import push
from idvl.errors import RunError
from idvl.models.loading import Loaded
from idvl.profile import Profile
from idvl.recipe import Recipe
from idvl.workflows.estimation import Estimation
from idvl.workflows.launch import join_team
from idvl.workflows.pruning import dimensions, head
from idvl.workflows.pruning.job import Job, gather
from idvl.workflows.pruning.plan import Plan
from idvl.workflows.pruning.plan import make as make_plan
from idvl.workflows.pruning.saving import save
from idvl.workflows.pruning.settings import resolved
from idvl.workflows.pruning.training import CHECKPOINTS, prune
from idvl.workflows.reporter import Reporter

# (the model, masked; step) -> its numbers; called on every process
Evaluate = Callable[[Loaded, int], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run ends with: the report and its folder, or after a plan (and beside the first process) neither."""

    plan: Plan | None
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
    evaluate: Evaluate | None = None,
) -> Result:
    """Carry out a recipe. `folder` None: a new one under runs/. `push_to`: the Hub repository to upload the model to.

    `evaluate` is called every `eval.every` steps and, with `eval.after`, at the end. Raises UsageError, before anything
    is written or removed, for what cannot be carried out.
    """
    recipe = resolved(recipe)
    if push_to:
        check_hub(push_to)
    named = "prune", recipe.model.name, recipe.data.dataset
    runs.check(folder or runs.default_folder(*named), resume=resume, overwrite=overwrite)
    device, team = join_team(recipe.model.device)
    job = gather(recipe, device, team, reporter)
    ended = folder is not None and resume and not plan_only and team.first((folder / "report.json").exists)
    plan, estimation = (None, None) if ended else _planned(job, folder if resume else None, reporter)
    if plan_only:
        return Result(plan=plan)
    with ExitStack() as held:
        opened: list[runs.Run] = []
        options = {"recipe": recipe.to_dict(), "signature": job.signature(), "resume": resume, "overwrite": overwrite}
        team.first(
            lambda: opened.append(held.enter_context(runs.Run.open(folder or runs.new_folder(*named), **options)))
        )
        folder = team.first(lambda: opened[0].folder)
        if ended:
            reporter.note("the model is pruned already")
            report = team.first(lambda: _read_report(folder / "report.json"))
        else:
            for line in (*plan.scope(), *plan.lines()):
                reporter.note(line)
            work = Work(job, plan, folder, opened[0] if opened else None, reporter, resume)
            report = work.carry_out(estimation, evaluate)
        if opened and push_to:
            reporter.note(f"uploaded to {push(folder / 'model', push_to, private=private)}")
    return Result(plan=plan, report=report, folder=folder if opened else None)


def _planned(job: Job, resumed: Path | None, reporter: Reporter) -> tuple[Plan, Estimation | None]:
    """What is going to happen, and the estimation of its profile where it can be made of the model as it is."""
    plan = job.team.each(lambda: make_plan(job))
    if not job.estimates:
        return plan, None
    new_head = job.recipe.train.new_head
    begun = resumed / dimensions.FOLDER if resumed and not new_head else None
    estimation = dimensions.estimation(job, reporter, begun=begun)
    if not estimation.is_done:
        plan = replace(plan, before=plan.before | {"measuring dimensions": estimation.plan(reporter).seconds})
    return plan, None if new_head else estimation


@dataclass(frozen=True)
class Work:
    """A job with its plan and its folder, which the first process alone has opened."""

    job: Job
    plan: Plan
    folder: Path
    opened: runs.Run | None
    reporter: Reporter
    resume: bool

    def carry_out(self, estimation: Estimation | None, evaluate: Evaluate | None) -> dict[str, Any]:
        """Learn the head, estimate the profile, prune, evaluate, save; the report."""
        job, made = self.job, runs.provenance()
        job.team.first(lambda: [self.opened.path(name) for name in (dimensions.FOLDER, CHECKPOINTS)])
        if job.recipe.train.new_head:
            head.learn(job, self.folder, self.opened, self.reporter)
        profile = self._estimated(estimation) if job.estimates else job.known
        measure = (lambda step: evaluate(job.loaded, step)) if evaluate else None
        start = time.perf_counter()
        pruner, outcome = prune(
            job, profile, self.folder, self.opened, self.reporter, resume=self.resume, evaluate=measure
        )
        facts = {**made, **asdict(outcome), "seconds": round(time.perf_counter() - start, 3)}
        evaluation = None
        if measure and job.recipe.eval.after:
            with pruner.masked():
                evaluation = measure(outcome.steps)
        report = job.team.first(lambda: save(job, pruner, profile, self.plan, self.opened, facts, evaluation))
        if self.opened:
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        return report

    def _estimated(self, estimation: Estimation | None) -> Profile:
        """The profile of the dense model, from a run of its own inside this one's folder."""
        place = self.folder / dimensions.FOLDER
        if estimation is None:
            estimation = dimensions.estimation(self.job, self.reporter, begun=place if self.resume else None)
        done = estimation.carry_out(place, self.reporter, resume=estimation.begun is not None)
        return self.job.team.first(lambda: done.profile)


def _read_report(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{str(path)!r} is damaged ({error}): start anew with --overwrite") from error
