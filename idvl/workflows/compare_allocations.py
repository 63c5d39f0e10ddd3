"""Allocations compared for one budget: the sparsity that each gives every layer. Nothing is pruned.

recipe -> model, calibration samples -> the signal of each allocation -> allocations.json, allocations.png.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idvl import runs
from idvl.files import write_bytes, write_json
from idvl.pruning import calibration, dimensions, signals
from idvl.pruning.calibration import Calibration
from idvl.pruning.calibration_settings import for_allocation
from idvl.pruning.counts import target
from idvl.pruning.settings import resolve
from idvl.recipe import Recipe
from idvl.reporter import Reporter
from idvl.reporting.allocations import ALLOCATIONS, AllocationsFile
from idvl.reporting.drawing import drawn
from idvl.reporting.figures.allocations import of_document
from idvl.session import begin, image_store, open_run

FILES = TABLE, PICTURE = ALLOCATIONS, "allocations.png"


@dataclass(frozen=True, kw_only=True)
class AllocationComparison:
    """allocations.json as a value, and its folder; beside the first process neither."""

    document: dict[str, Any] | None
    folder: Path | None


def run(
    recipe: Recipe, names: Sequence[str], *, folder: Path | None, reporter: Reporter, overwrite: bool = False
) -> AllocationComparison:
    """Compare these allocations, with the other settings of a recipe. `folder` None: a new one under runs/.

    UsageError, before anything is written, for what cannot be carried out, whatever the allocation.
    """
    recipes = {name: resolve(for_allocation(recipe, name)) for name in names}
    first = next(iter(recipes.values()))
    name = runs.FolderName("allocations", first.model.name, first.data.dataset)
    path, device, team = begin(first, name, folder, resume=False, overwrite=overwrite, allocations=list(names))
    with ExitStack() as stack:
        store = stack.enter_context(image_store(path, team, "calibration"))
        job = calibration.gather(first, device, team, reporter, store=store)
        jobs = {name: job.with_recipe(recipe) for name, recipe in recipes.items()}
        for each in jobs.values():
            signals.prepare(each, reporter)
        signature = job.signature() | {"allocations": list(names)}
        options = {"recipe": first.to_dict(), "signature": signature, "overwrite": overwrite}
        opened, folder = open_run(stack, team, folder, name, **options)
        provenance = runs.provenance()
        seconds = {name: _measure(each, folder, opened, reporter) for name, each in jobs.items()}
        if opened is None:
            return AllocationComparison(document=None, folder=None)
        document = {**_document(jobs, seconds), "provenance": provenance}
        write_json(opened.path(TABLE), document)
        write_bytes(opened.path(PICTURE), drawn(of_document(document), "png"))
    return AllocationComparison(document=document, folder=folder)


def _measure(job: Calibration, folder: Path, opened: runs.Run | None, reporter: Reporter) -> float:
    """Measure what an allocation reads, unless it is known; the seconds that it takes."""
    start = time.perf_counter()
    if job.needs_estimate:
        if opened:
            opened.path(dimensions.FOLDER)
        estimation = dimensions.estimation(job, reporter)
        result = estimation.execute(folder / dimensions.FOLDER, reporter, resume=False, part=True)
        job.profile = job.team.first(lambda: result.profile)
    if job.values is None:
        job.values = signals.measure(job, reporter)
    return time.perf_counter() - start


def _document(jobs: Mapping[str, Calibration], seconds: Mapping[str, float]) -> dict[str, Any]:
    """allocations.json."""
    job = next(iter(jobs.values()))
    # in the order of running
    layers = [job.layers[name] for name in dict.fromkeys([*job.trace.shapes, *job.layers]) if name in job.layers]
    weights = {layer.name: layer.module.weight.numel() for layer in layers}
    return {
        "schema": AllocationsFile.NAME,
        "model": job.model_description,
        "sparsity": target(job.recipe.prune, job.layers),
        "layers": {
            layer.name: {"modality": layer.modality, "block": layer.block, "weights": weights[layer.name]}
            for layer in layers
        },
        "allocations": {
            name: {
                "seconds": round(seconds[name], 3),
                "sparsity": {layer: each.zeros[layer] / count for layer, count in weights.items()},
            }
            for name, each in jobs.items()
        },
    }
