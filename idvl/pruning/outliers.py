"""Outliers among the Wanda scores of the dense model: what OWL reads of each block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from idvl.errors import RunError
from idvl.geometry.gram import full_precision
from idvl.models.capture import Tap, Watch
from idvl.models.walk import to_device
from idvl.pruning.counts import groups_of, oriented
from idvl.pruning.inputs import totals
from idvl.reporter import Progress
from idvl.sparsity.allocation.owl import outliers
from idvl.sparsity.criteria.wanda import Wanda
from idvl.sparsity.statistics import Sums

if TYPE_CHECKING:
    from idvl.pruning.calibration import Calibration


def shares(job: Calibration, progress: Progress) -> dict[str, float]:
    """The share of outliers in the group of each layer in scope. One dense pass, for sums of squares alone."""
    inputs = dense_inputs(job, progress)
    groups: dict[str, list[str]] = {}
    for name, group in groups_of(job.recipe.prune, job.layers).items():
        groups.setdefault(group, []).append(name)
    values = {}
    for members in groups.values():
        share = outliers([_scores(job, name, inputs[name]) for name in members])
        values |= dict.fromkeys(members, share)
    return {name: values[name] for name in job.layers}


def dense_inputs(job: Calibration, progress: Progress) -> dict[str, Sums]:
    """The sums over what enters each layer in the dense model, of all processes."""
    family, model, sums = job.loaded.family, job.loaded.model, job.new_sums(products=False)
    tap = Tap(job.batches, job.token_mask, job.trace.axes)

    def run() -> None:
        watched, fed = Watch(job.users, "input", tap.record), tap.feeding(sums, job.users)
        with torch.inference_mode(False), torch.no_grad(), full_precision(job.device), watched, fed:
            for tap.batch, batch in enumerate(job.batches):
                family.call(model, to_device(batch, job.device))
                progress(tap.batch + 1, len(job.batches))

    job.team.each(run)
    users = {name: job.users_of(name) for name in job.layers}
    return {name: read.total() for names, read in totals(sums, users, job.team) for name in names}


def _scores(job: Calibration, name: str, sums: Sums) -> Tensor:
    """The scores of a layer's weights by the root mean square of a token, so that layers of unlike tokens compare."""
    layer = job.layers[name]
    scores = Wanda().score(oriented(layer, layer.module.weight), sums)
    if not bool(scores.isfinite().all()):
        raise RunError(f"{name} holds NaN or infinite weights")
    return scores
