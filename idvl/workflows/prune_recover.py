"""Prune a model from calibration samples, then recover it: two runs in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idvl import runs
from idvl.checkpoints.hub import check as check_hub
from idvl.checkpoints.report import REPORT
from idvl.errors import UsageError, quoted
from idvl.pruning.calibration_plan import CalibrationPlan
from idvl.pruning.calibration_settings import calibrates
from idvl.recipe import Recipe, RecoverSection, TrainSection
from idvl.recovery import settings as recovery
from idvl.recovery.plan import RecoveryPlan
from idvl.recovery.start import ZEROS, Start
from idvl.recovery.teacher import teacher_of
from idvl.session import read_by, with_dataset
from idvl.workflows import prune, recover
from idvl.workflows.model_run import ModelResult

# the folders of the two runs
PRUNED, RECOVERED = "pruned", "recovered"


@dataclass(frozen=True)
class Plan:
    """What is going to be pruned, and what the recovery then trains and takes."""

    pruning: CalibrationPlan
    recovery: RecoveryPlan

    @property
    def report(self) -> dict[str, Any]:
        """report.json of the pruning, without what only the masks know."""
        return self.pruning.report

    def lines(self) -> list[str]:
        """What the two take."""
        return [*self.pruning.lines(), *(f"recovery: {line}" for line in self.recovery.lines())]

    def to_json(self) -> dict[str, Any]:
        """The plan for programs: that of the pruning, and the recovery's, whose report only the masks know."""
        recovery = self.recovery.to_json()
        return self.pruning.to_json() | {"recovery": {key: recovery[key] for key in recovery if key != "report"}}


def run(recipe: Recipe, *, folder: Path | None, push_to: str | None = None, **options: Any) -> ModelResult:
    """Prune, then recover, in two run folders, pruned/ and recovered/. The result of the recovery, or both plans.

    The section train is the recovery's. What the recovery would refuse is refused before anything is pruned, as far as
    the dense model tells.
    """
    if not calibrates(recipe.prune):
        raise UsageError(
            f"criterion {recipe.prune.criterion} prunes while training, with the settings of section train, which "
            "recover needs: choose wanda or sparsegpt, or run idvl recover afterwards"
        )
    recovery.refuse(recipe)
    if recipe.recover.masks not in (None, ZEROS):
        raise UsageError(
            f"masks {quoted(recipe.recover.masks)} and --recover: the recovery takes the masks that the pruning sets; "
            "leave masks out"
        )
    if push_to:
        check_hub(push_to)
    folder = folder or runs.default_folder(runs.FolderName("prune", recipe.model.name, recipe.data.dataset or ""))
    if runs.read_record(folder) is not None:
        raise UsageError(f"{quoted(folder)} is a run, and --recover needs a folder for two: choose another --output")
    pruned, recovered = folder / PRUNED, folder / RECOVERED
    if options.get("overwrite"):  # the recovery checks its folder only when the pruned model is replaced
        for path in (pruned, recovered):
            runs.keep(path, read_by(with_dataset(recipe)))
    resume = options.pop("resume", False)
    after = {"folder": recovered, "resume": resume and recovered.exists(), "push_to": push_to, **options}
    if options.get("plan_only") or not (resume and (pruned / REPORT).exists()):
        # what the recovery refuses is refused before anything is pruned
        planned = recover.plan_before_pruning(recipe, **after)
    kept = recipe.model_copy(update={"train": TrainSection(), "recover": RecoverSection()})
    teacher = teacher_of(Start(recipe.model.name, None), recipe) if recipe.recover.teacher else None
    first = prune.run(kept, folder=pruned, resume=resume and pruned.exists(), teacher=teacher, **options)
    if options.get("plan_only"):
        # the recovery was planned first: what it lacked is there by now
        lacking = {(each.name, each.split): each for each in (*first.downloads, *planned.downloads)}
        return ModelResult(plan=Plan(first.plan, planned.plan), downloads=tuple(lacking.values()))
    model = recipe.model.model_copy(update={"name": str(pruned), "revision": None})
    return recover.run(recipe.model_copy(update={"model": model}), **after)
