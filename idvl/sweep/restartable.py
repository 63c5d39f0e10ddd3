"""Runs that are begun, or gone on with where they were begun, and what each came to: its metrics, and the one to show.

It does not know why they are run.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from idvl import runs
from idvl.distributed import join_team
from idvl.errors import UsageError
from idvl.evaluation import scoring
from idvl.profile import Profile
from idvl.recipe import Recipe
from idvl.reporter import Reporter
from idvl.session import open_model
from idvl.workflows import estimate_id, evaluate
from idvl.workflows import prune as pruning


def prune(recipe: Recipe, place: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Prune; the pruned model's metrics, none where none were asked for. UsageError where it cannot be evaluated."""
    report = pruning.run(recipe, folder=place, reporter=reporter, resume=_begun(place)).report
    evaluation = report.get("evaluation")
    if evaluation is None:
        return {"headline": None, "metrics": {}}
    if "skipped" in evaluation:
        raise UsageError(f"pruned, but not evaluated: {evaluation['skipped']}")
    return _told(evaluation)


def judge(recipe: Recipe, place: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Evaluate; the model's metrics."""
    return _told(evaluate.run(recipe, folder=place, reporter=reporter, resume=_begun(place)).results)


def measure(recipe: Recipe, place: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Estimate dimensions; the median of each modality."""
    return _medians(estimate_id.run(recipe, folder=place, reporter=reporter, resume=_begun(place)).profile)


def measure_again(recipe: Recipe, place: Path, *, reporter: Reporter) -> dict[str, Any]:
    """`measure`, which replaces what was measured there of another model. Other settings are refused as ever."""
    record = runs.read_record(place)
    known = {"fingerprint": record["signature"].get("fingerprint")} if record else None
    if known is None or known == identify(recipe, place, reporter=reporter):
        return measure(recipe, place, reporter=reporter)
    return _medians(estimate_id.run(recipe, folder=place, reporter=reporter, overwrite=True).profile)


def identify(recipe: Recipe, place: Path, *, reporter: Reporter) -> dict[str, Any]:
    """The fingerprint of the recipe's model as it is now. Nothing is written at `place`."""
    loaded = open_model(recipe.model, *join_team(recipe.model.device))
    return {"fingerprint": loaded.description["fingerprint"]}


def _medians(profile: Profile) -> dict[str, Any]:
    known = [layer for layer in profile.layers.values() if layer.estimate.dimension is not None]
    medians = {
        f"ID.{modality}": statistics.median(one.estimate.dimension for one in known if one.modality == modality)
        for modality in dict.fromkeys(layer.modality for layer in known)
    }
    return {"headline": next(iter(medians), None), "metrics": medians}


def _begun(place: Path) -> bool:
    return runs.read_record(place) is not None


def _told(results: dict[str, Any]) -> dict[str, Any]:
    values, headline = scoring.values(results), results["headline"]
    if headline not in values:
        found = results["metrics"].get(headline, {})
        raise UsageError(f"no value of {headline}: {found.get('skipped') or 'it is not among the metrics'}")
    return {"headline": headline, "metrics": values}
