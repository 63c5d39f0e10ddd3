"""A recovery carried out: trained, merged, checked against what was trained, saved."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from idvl import runs
from idvl.device import cost_since
from idvl.errors import RunError
from idvl.evaluation.evaluation import Evaluation
from idvl.models.fingerprints import fingerprint
from idvl.pruning.evaluation import evaluate_step
from idvl.pruning.saving import write
from idvl.pruning.training import CHECKPOINTS, drop_later_metrics
from idvl.recovery.adapters import merge_lora
from idvl.reporter import Reporter
from idvl.training import Outcome, agree, train
from idvl.training.batches import Collate

if TYPE_CHECKING:
    from idvl.recovery.job import Recovery

# how far the loss of the merged model may be from that of the trained one, relatively
MERGED = 1e-6


def recover(
    job: Recovery,
    folder: Path,
    opened: runs.Run | None,
    reporter: Reporter,
    *,
    resume: bool,
    evaluation: Evaluation | None,
) -> None:
    """All steps that are left, and the model saved. RunError where merging changes what the model computes."""
    provenance = runs.provenance()
    outcome = _train(job, folder, opened, reporter, resume=resume, evaluation=evaluation)
    start = time.perf_counter()
    before = _loss(job)
    if job.recipe.recover.method == "lora":
        merge_lora(job.loaded.model)
    after = _loss(job)
    if abs(after - before) > MERGED * max(abs(before), 1.0):
        raise RunError(f"the merged model has a loss of {after}, the trained one of {before}: it was not saved")
    agree(fingerprint(job.loaded.model), "the recovered weights")
    dense = job.start.dense_fingerprint
    facts = {
        **provenance,
        **asdict(outcome),
        **runs.total_cost(cost_since(start, job.loaded.model.device), asdict(outcome)),
        "image_backend": job.loaded.description["image_backend"],
        # of a new head that the pruning learnt, which its signature does not know
        **({"dense_fingerprint": dense} if dense and dense != job.start.signature.get("fingerprint") else {}),
        "training": job.selection.source(),
    }
    report = job.counted(job.report) | {"made": facts, "recovered": _facts(job)}
    job.team.first(lambda: write(job, job.masks, report, opened, profile=job.start.profile()))


def _train(
    job: Recovery,
    folder: Path,
    opened: runs.Run | None,
    reporter: Reporter,
    *,
    resume: bool,
    evaluation: Evaluation | None,
) -> Outcome:
    if resume:
        job.team.first(lambda: drop_later_metrics(folder))
    with reporter.progress("recovering") as progress:
        hooks: dict[str, Any] = {
            "progress": lambda step, total, numbers: progress(step, total, f"loss {numbers['loss']:.3f}"),
            "log": opened.log_metric if opened else None,
        }
        if evaluation:
            hooks["evaluate"] = lambda step: evaluate_step(evaluation, job.loaded, folder, step, reporter)
        return train(
            job.loaded,
            job.selection.samples,
            job.training,
            folder=folder / CHECKPOINTS,
            resume=resume,
            teacher=job.teacher,
            **hooks,
        )


@torch.no_grad()
def _loss(job: Recovery) -> float:
    """The loss of a few training samples."""
    loaded, samples = job.loaded, job.selection.samples[: job.recipe.train.batch_size]
    batch = Collate(loaded.family, loaded.processor, loaded.model.config)(list(samples))
    batch = {key: value.to(loaded.model.device) for key, value in batch.items()}
    return loaded.family.training_task.loss(loaded.model, batch, None).total.item()


def _facts(job: Recovery) -> dict[str, Any]:
    """What report.json says of the recovery."""
    settings = job.recipe.recover
    facts: dict[str, Any] = {
        "method": settings.method,
        "parameters": job.trained,
        "pruned": {"model": job.start.model, "fingerprint": job.loaded.description["fingerprint"]},
    }
    if settings.method == "lora":
        facts |= {"rank": settings.rank, "alpha": settings.alpha, "biases": settings.biases}
    if job.teacher_description:
        teacher = {key: job.teacher_description[key] for key in ("name", "revision", "fingerprint")}
        weight = {"distill": job.training.distill, "temperature": settings.temperature, "compat": settings.compat}
        # whether the model taught itself, with the dense weights behind its masks
        facts["teacher"] = teacher | weight | {"in_place": not isinstance(job.teacher, nn.Module)}
    return facts
