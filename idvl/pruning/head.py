"""A new classifier, learnt dense before anything is pruned, and kept in the run's folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from idvl import runs
from idvl.files import disk_errors, to_disk
from idvl.models.loading import Loaded, load, quiet
from idvl.pruning.settings import head_training
from idvl.reporter import Reporter
from idvl.training import train

if TYPE_CHECKING:
    from idvl.pruning.job import Job

# folders inside a run's: the model with its head, and the checkpoints of its training
DENSE, CHECKPOINTS = "dense", "dense-checkpoints"


def learn(job: Job, folder: Path, opened: runs.Run | None, reporter: Reporter) -> None:
    """Train the job's model, dense, and have the job go on with folder/dense; at once where that is there."""
    dense, checkpoints = folder / DENSE, folder / CHECKPOINTS
    if not job.team.first(dense.exists):
        job.team.first(lambda: [opened.path(name) for name in (DENSE, CHECKPOINTS)])
        with reporter.progress("training the new head") as progress:
            train(
                job.loaded,
                job.selection.samples,
                head_training(job.training),
                folder=checkpoints,
                resume=True,
                progress=lambda step, total, numbers: progress(step, total, f"loss {numbers['loss']:.3f}"),
            )
        job.team.first(lambda: _keep(job.loaded, dense))
    if opened:
        shutil.rmtree(checkpoints, ignore_errors=True)
    job.replace_model(job.team.each(lambda: load(str(dense), dtype="float32", device=job.loaded.model.device)))


def _keep(loaded: Loaded, dense: Path) -> None:
    """Write the model whole or not at all: beside its place, to the disk, then renamed."""
    fresh = dense.with_name(f".{dense.name}.{os.getpid()}.tmp")
    with disk_errors(dense):
        for leftover in dense.parent.glob(f".{dense.name}.*.tmp"):
            shutil.rmtree(leftover)
        with quiet():
            loaded.model.save_pretrained(fresh)
        loaded.processor.save_pretrained(fresh)
        for path in (*fresh.rglob("*"), fresh):
            to_disk(path)
        fresh.replace(dense)
        to_disk(dense.parent)
