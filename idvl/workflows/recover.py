"""Recover a pruned model: a part of it is trained, its zeros stay; plain transformers opens the folder left behind.

pruned model -> its masks, its dense teacher, samples -> plan -> training -> merge -> model/, masks, report, card.
It does not know how a terminal looks.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from idvl.pruning.evaluation import BETWEEN
from idvl.pruning.training import CHECKPOINTS
from idvl.recipe import Recipe
from idvl.recovery.job import Recovery, gather
from idvl.recovery.plan import RecoveryPlan, make
from idvl.recovery.settings import resolve
from idvl.recovery.start import Start, find
from idvl.recovery.teacher import teacher_of
from idvl.recovery.train import recover
from idvl.reporter import Reporter
from idvl.session import runs_behind
from idvl.workflows.model_run import ModelResult, ModelRun, carry_out


def run(recipe: Recipe, **options: Any) -> ModelResult:
    """Carry out a recipe, whose model is a pruned one. `options` are those of `carry_out`."""
    start = find(recipe.model.name)
    recipe = resolve(recipe, start)
    teacher = teacher_of(start, recipe) if recipe.train.distill else None
    reads = runs_behind(start.model)
    return carry_out(
        recipe, RecoveryRun, partial(gather, start, teacher=teacher), teacher=teacher, reads=reads, **options
    )


def plan_before_pruning(recipe: Recipe, **options: Any) -> ModelResult:
    """The plan of the recovery of a model that the recipe prunes first, but for its evaluation. It writes nothing.

    UsageError or RunError for what the recovery would refuse, as far as the dense model tells; the pruning's own plan
    refuses the evaluation, which is the same.
    """
    start = Start(recipe.model.name, None)
    recipe = resolve(recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"after": False})}), start)
    teacher = None
    if recipe.train.distill:
        teacher = teacher_of(start, recipe) if recipe.recover.teacher else recipe.model
    gathered = partial(gather, start, teacher=teacher, is_dense=True)
    return carry_out(recipe, RecoveryRun, gathered, teacher=teacher, **options | {"plan_only": True})


class RecoveryRun(ModelRun):
    """A run of idvl recover."""

    command = "recover"
    done = "recovered"
    leftovers: ClassVar[frozenset[str]] = frozenset({CHECKPOINTS})

    @staticmethod
    def plan(job: Recovery, resumed: Path | None, reporter: Reporter) -> tuple[RecoveryPlan, None]:
        """What is going to happen."""
        return job.team.each(lambda: make(job)), None

    def execute(self) -> None:
        """Train, merge and save the model."""
        job, evaluation = self.job, self.work.evaluation
        if self.opened:
            for name in (CHECKPOINTS, *([BETWEEN] if job.recipe.eval.every else [])):
                self.opened.path(name)
        recover(job, self.folder, self.opened, self.reporter, resume=self.resume, evaluation=evaluation)
        if self.opened:
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
