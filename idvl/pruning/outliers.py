"""Outliers among the Wanda scores of the dense model: what OWL reads of each block."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from idvl.errors import RunError
from idvl.geometry.gram import full_precision
from idvl.models.capture import tapped_walk
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
    loaded, sums, runs = job.loaded, job.new_sums(products=False), itertools.count(1)
    total = len(job.batches) * (len(job.trace.stops) if loaded.offload else 1)
    walked = tapped_walk(
        loaded.model,
        job.batches,
        loaded.family.call,
        job.users,
        by_block=loaded.offload is not None,
        capture="input",
        token_mask=job.token_mask,
        device=loaded.inputs_device,
        axes=job.trace.axes,
        ran=lambda block: progress(min(next(runs), total), total),
        offload=loaded.offload,
    )

    def run() -> None:
        exact = full_precision(job.device)
        with torch.inference_mode(False), exact, walked as (walk, tap), tap.feeding(sums, job.users):
            for segment in walk:
                segment.run(last=True)

    job.team.each(run)
    users = {name: job.users_of(name) for name in job.layers}
    return {name: read.total() for names, read in totals(sums, users, job.team) for name in names}


def _scores(job: Calibration, name: str, sums: Sums) -> Tensor:
    """The scores of a layer's weights by the root mean square of a token, so that layers of unlike tokens compare."""
    layer = job.layers[name]
    scores = Wanda().score(oriented(layer, job.weight(name)), sums)
    if not bool(scores.isfinite().all()):
        raise RunError(f"{name} holds NaN or infinite weights")
    return scores
