"""What a pruning run leaves behind: model/ and what belongs to it, verified. It prunes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from idvl import runs
from idvl.checkpoints.card import base_facts, page
from idvl.checkpoints.report import report as finished_report
from idvl.checkpoints.save import save_pruned
from idvl.profile import Profile
from idvl.sparsity.pruner import Pruner
from idvl.workflows.pruning import dimensions
from idvl.workflows.pruning.job import Job
from idvl.workflows.pruning.plan import Plan


def save(
    job: Job,
    pruner: Pruner,
    profile: Profile | None,
    plan: Plan,
    opened: runs.Run,
    made: Mapping[str, Any],
    evaluation: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write the pruned model, its masks, profile and card; report.json comes last, and is returned.

    `made`: how it came about, `evaluation`: how well it does its task.
    """
    profile = dimensions.newest(opened.folder, profile)
    weighted = job.multipliers(profile)
    report = finished_report(
        plan.report,
        pruner.masks,
        biases=pruner.bias_masks,
        profile=profile,
        factors=weighted.factors,
        substituted=weighted.substituted,
    )
    report["made"] = dict(made)
    if evaluation:
        report["evaluation"] = dict(evaluation)
    asked = job.recipe.model
    card = page(
        report,
        model=job.origin,
        command=made["command"],
        recipe=job.recipe.to_dict(),
        versions=made["versions"],
        base=base_facts(job.origin, cache_dir=asked.cache_dir, local_files_only=asked.local_files_only),
        evaluation=evaluation,
    )
    for name in ("model", "masks.safetensors", "profile.json", "README.md", "report.json"):
        opened.path(name)
    stored = job.origin.get("stored_dtype")
    with pruner.masked():
        verdict = save_pruned(
            opened.folder / "model",
            job.loaded.model,
            job.loaded.processor,
            masks=pruner.masks,
            profile=profile,
            report=report,
            card=card,
            structure=job.recipe.prune.structure,
            dtype=getattr(torch, stored) if stored else None,
            trust_remote_code=asked.trust_remote_code,
        )
    return {**report, "verified": asdict(verdict)}
