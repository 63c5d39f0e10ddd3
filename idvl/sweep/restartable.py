"""Runs that start, or resume where their folder was started, with the result of each: its metrics, and the headline.

It does not know why they are run.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from idvl import runs
from idvl.distributed import join_team
from idvl.errors import RunError, UsageError
from idvl.evaluation import scoring
from idvl.profile import Profile, load_profile
from idvl.recipe import Recipe
from idvl.reporter import Reporter
from idvl.session import open_model
from idvl.workflows import estimate_id
from idvl.workflows import evaluate as evaluating
from idvl.workflows import prune as pruning
from idvl.workflows.model_run import state_of


def prune(recipe: Recipe, folder: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Prune; the pruned model's metrics, none where the recipe wants none. UsageError where it cannot be evaluated.

    A model that is missing or damaged since it was saved is pruned again; one that cannot be read now is left alone.
    """
    options = {"resume": _exists(folder)}
    try:
        state_of(folder)
    except RunError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
            raise
        options = {"overwrite": True}
    report = pruning.run(recipe, folder=folder, reporter=reporter, **options).report
    evaluation = report.get("evaluation")
    if evaluation is None:
        return {"headline": None, "metrics": {}}
    if "skipped" in evaluation:
        raise UsageError(f"pruned, but not evaluated: {evaluation['skipped']}")
    return _headline(evaluation)


def evaluate(recipe: Recipe, folder: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Evaluate; the model's metrics."""
    return _headline(evaluating.run(recipe, folder=folder, reporter=reporter, resume=_exists(folder)).results)


def measure(recipe: Recipe, folder: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Estimate dimensions; the median of each modality."""
    return _medians(estimate_id.run(recipe, folder=folder, reporter=reporter, resume=_exists(folder)).profile)


def measure_again(recipe: Recipe, folder: Path, *, reporter: Reporter) -> dict[str, Any]:
    """`measure`, which replaces what was measured there of another model. Other settings are refused as ever."""
    record = runs.read_record(folder)
    fingerprint = {"fingerprint": record["signature"].get("fingerprint")} if record else None
    if fingerprint is None or fingerprint == identify(recipe, folder, reporter=reporter):
        return measure(recipe, folder, reporter=reporter)
    return _medians(estimate_id.run(recipe, folder=folder, reporter=reporter, overwrite=True).profile)


def identify(recipe: Recipe, folder: Path, *, reporter: Reporter) -> dict[str, Any]:
    """The fingerprint of the recipe's model as it is now. Nothing is written at `folder`."""
    loaded = open_model(recipe.model, *join_team(recipe.model.device))
    return {"fingerprint": loaded.description["fingerprint"]}


def is_pruned(recipe: Recipe, folder: Path) -> bool:
    """Whether a pruning run has nothing left to do. RunError where its model is damaged."""
    state = state_of(folder)
    return state.saved and (state.evaluated or not recipe.eval.after)


def is_evaluated(_: Recipe, folder: Path) -> bool:
    """Whether an evaluation has its results and predictions."""
    return scoring.is_complete(folder)


def is_measured(_: Recipe, folder: Path) -> bool:
    """Whether a measurement has its profile. UsageError where it is missing or damaged."""
    return bool(load_profile(folder / "profile.json").layers)


def _medians(profile: Profile) -> dict[str, Any]:
    layers = [layer for layer in profile.layers.values() if layer.estimate.dimension is not None]
    medians = {
        f"ID.{modality}": statistics.median(layer.estimate.dimension for layer in layers if layer.modality == modality)
        for modality in dict.fromkeys(layer.modality for layer in layers)
    }
    return {"headline": next(iter(medians), None), "metrics": medians}


def _exists(folder: Path) -> bool:
    return runs.read_record(folder) is not None


def _headline(results: dict[str, Any]) -> dict[str, Any]:
    values, headline = scoring.values(results), results["headline"]
    if headline not in values:
        metric = results["metrics"].get(headline, {})
        raise UsageError(f"no value of {headline}: {metric.get('skipped') or 'it is not among the metrics'}")
    return {"headline": headline, "metrics": values}
