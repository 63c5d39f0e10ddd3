"""Runs that are begun, or gone on with where they were begun, and what each came to: its metrics, and the one to show.

It does not know why they are run.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from idvl import runs
from idvl.profile import Profile, load_profile
from idvl.recipe import Recipe
from idvl.workflows import estimate_id, evaluate, scoring
from idvl.workflows import prune as pruning
from idvl.workflows.reporter import Reporter


def prune(recipe: Recipe, place: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Prune; the pruned model's metrics."""
    report = pruning.run(recipe, folder=place, reporter=reporter, resume=_begun(place)).report
    return _told(report["evaluation"]) if "evaluation" in report else {"headline": None, "metrics": {}}


def judge(recipe: Recipe, place: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Evaluate; the model's metrics."""
    return _told(evaluate.run(recipe, folder=place, reporter=reporter, resume=_begun(place)).results)


def measure(recipe: Recipe, place: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Estimate dimensions; the median of each modality."""
    profile = _profile(recipe, place, reporter)
    known = [layer for layer in profile.layers.values() if layer.estimate.dimension is not None]
    medians = {
        f"ID.{modality}": statistics.median(one.estimate.dimension for one in known if one.modality == modality)
        for modality in dict.fromkeys(layer.modality for layer in known)
    }
    return {"headline": next(iter(medians), None), "metrics": medians}


def _profile(recipe: Recipe, place: Path, reporter: Reporter) -> Profile:
    """What has been measured there, without loading the model again, or now."""
    if _begun(place) and (place / "profile.json").exists():
        return load_profile(place / "profile.json")
    return estimate_id.run(recipe, folder=place, reporter=reporter, resume=_begun(place)).profile


def _begun(place: Path) -> bool:
    return runs.read_record(place) is not None


def _told(results: dict[str, Any]) -> dict[str, Any]:
    values = scoring.values(results)
    return {"headline": results["headline"] if results["headline"] in values else None, "metrics": values}
