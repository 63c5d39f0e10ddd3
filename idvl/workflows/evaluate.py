"""Evaluate a model on a task: predictions as they come, then what they are worth; leaves a run folder behind.

recipe -> model, samples, task -> predictions.jsonl -> results.json. It does not know how a terminal looks.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idvl.evaluation import evaluation, scoring
from idvl.recipe import EVALUATING, Recipe
from idvl.reporter import Reporter, resumable
from idvl.runs import FolderName
from idvl.session import (
    begin,
    image_store,
    open_model,
    open_run,
    run_of,
    with_dataset,
)


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What a run ends with: results.json as a value, and its folder."""

    results: dict[str, Any]
    folder: Path


def run(
    recipe: Recipe,
    *,
    folder: Path | None,
    reporter: Reporter,
    resume: bool = False,
    overwrite: bool = False,
    compared: Path | None = None,
) -> EvaluationResult:
    """Carry out a recipe. `folder` None: a new one, beside the model where that is of a run of idvl.

    Raises UsageError, before anything is written, for what cannot be carried out.
    """
    recipe = _resolved(recipe)
    compared = compared / scoring.RESULTS if compared and compared.is_dir() else compared
    name = _folder_name(recipe)
    options = {"resume": resume, "overwrite": overwrite, "compare": compared}
    path, device, team = begin(recipe, name, folder, reads=[compared], **options)
    loaded = open_model(recipe.model, device, team)
    with ExitStack() as stack:
        store = stack.enter_context(image_store(path, team, "evaluation"))
        work = evaluation.prepare(recipe, loaded, team, reporter, store=store)
        if compared:
            ids = [sample.id for sample in work.selection.samples]
            team.each(lambda: scoring.comparable(compared, work.name, ids, work.selection.description["fingerprint"]))
        task_pass = work.checked_pass()
        size = work.batch_size(task_pass, reporter)
        options = {"signature": work.signature(), "resume": resume, "overwrite": overwrite}
        opened, folder = open_run(stack, team, folder, name, recipe=recipe.to_dict(*EVALUATING), **options)
        for file in evaluation.FILES if opened else ():
            opened.path(file)
        with resumable(folder, reporter):
            results = work.execute(task_pass, folder, reporter, batch_size=size, compared=compared)
    return EvaluationResult(results=results, folder=folder)


def _resolved(recipe: Recipe) -> Recipe:
    """The recipe with its dataset, and with the split of either section."""
    split = recipe.eval.split or recipe.data.split
    return with_dataset(recipe).model_copy(update={"eval": recipe.eval.model_copy(update={"split": split})})


def _folder_name(recipe: Recipe) -> FolderName:
    """What a new folder is called: RUN/eval for the model of a run, else runs/eval-MODEL-DATASET."""
    if run := run_of(recipe.model.name):
        return FolderName("eval", parent=run)
    return FolderName("eval", recipe.model.name, recipe.data.dataset)
