"""Prune a model from calibration samples, then recover it: two runs in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from idvl import runs
from idvl.checkpoints.hub import check as check_hub
from idvl.errors import UsageError, quoted
from idvl.pruning.calibration_settings import calibrates
from idvl.recipe import Recipe, RecoverSection, TrainSection
from idvl.recovery import settings as recovery
from idvl.recovery.start import Start
from idvl.recovery.teacher import teacher_of
from idvl.session import read_by, with_dataset
from idvl.workflows import prune, recover
from idvl.workflows.model_run import ModelResult

# the folders of the two runs
PRUNED, RECOVERED = "pruned", "recovered"


def run(recipe: Recipe, *, folder: Path | None, push_to: str | None = None, **options: Any) -> ModelResult:
    """Prune, then recover, in two run folders, pruned/ and recovered/. The result of the recovery, or the first plan.

    The section train is the recovery's.
    """
    if not calibrates(recipe.prune):
        raise UsageError(
            f"criterion {recipe.prune.criterion} prunes while training, with the settings of section train, which "
            "recover needs: choose wanda or sparsegpt, or run idvl recover afterwards"
        )
    recovery.refuse(recipe)
    if push_to:
        check_hub(push_to)
    folder = folder or runs.default_folder(runs.FolderName("prune", recipe.model.name, recipe.data.dataset or ""))
    if runs.read_record(folder) is not None:
        raise UsageError(f"{quoted(folder)} is a run, and --recover needs a folder for two: choose another --output")
    kept = recipe.model_copy(update={"train": TrainSection(), "recover": RecoverSection()})
    if options.get("overwrite"):  # the recovery checks its folder only when the pruned model is replaced
        for name in (PRUNED, RECOVERED):
            runs.keep(folder / name, read_by(with_dataset(recipe)))
    resume = options.pop("resume", False)
    path = folder / PRUNED
    teacher = teacher_of(Start(recipe.model.name, None), recipe) if recipe.recover.teacher else None
    first = prune.run(kept, folder=path, resume=resume and path.exists(), teacher=teacher, **options)
    if options.get("plan_only"):
        return first
    model = recipe.model.model_copy(update={"name": str(path), "revision": None})
    path = folder / RECOVERED
    return recover.run(
        recipe.model_copy(update={"model": model}),
        folder=path,
        resume=resume and path.exists(),
        push_to=push_to,
        **options,
    )
