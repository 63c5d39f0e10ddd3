"""A new classifier, learnt dense before anything is pruned, and kept in the run's folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from idvl import runs
from idvl.data.samples import Selection
from idvl.errors import UsageError, listed
from idvl.files import disk_errors, to_disk
from idvl.models.loading import Loaded, load, quiet
from idvl.pruning.settings import head_training
from idvl.reporter import Reporter
from idvl.training import train

if TYPE_CHECKING:
    from idvl.pruning.job import Job

# folders inside a run's: the model with its head, and the checkpoints of its training
DENSE, CHECKPOINTS = "dense", "dense-checkpoints"
# classes that a warning names
FIRST = 3
# numbers of classes from which labels without names must be dense, where labels repeat and in any case, and the least
# share of the numbers that must occur then
MANY, MOST, SPARSE = 1_000, 100_000, 0.1


def classes_of(selection: Selection, reporter: Reporter) -> list[str]:
    """The names of the classes of a new head: those of the dataset, or the numbers up to the largest label.

    That is the largest of all rows, where the dataset knows it, so that the head fits those that were not drawn too.
    A warning names classes without a training sample. UsageError where no sample has a label, and where labels without
    names are no numbers of classes: most of those up to the largest do not occur, though those that do repeat, or the
    largest is MOST or more.
    """
    dataset, names = selection.description["dataset"], selection.description.get("classes")
    # a sample that is there once for each of its texts counts once
    labels = {sample.id: sample.label for sample in selection.samples if sample.label is not None}
    if not labels:
        raise UsageError(f"new_head (--new-head) needs labels to learn, and {dataset} has none")
    known = {*labels.values()}
    highest = max(*known, *(selection.description.get("labels") or known))
    is_sparse = not names and highest >= MANY and len(known) < SPARSE * (highest + 1)
    if is_sparse and (highest >= MOST or 2 * len(known) <= len(labels)):
        raise UsageError(
            f"new_head (--new-head) would have {highest + 1:,} classes, for labels without names count from 0, and "
            f"only {len(known):,} of these numbers occur, up to {highest}: number the classes of {dataset} "
            "from 0 without gaps, or name a column with their names (--label-column)"
        )
    names = names or [str(label) for label in range(highest + 1)]
    without = [name for number, name in enumerate(names) if number not in known]
    if without:
        first = listed(without[:FIRST]) + (", ..." if without[FIRST:] else "")
        reporter.warn(
            f"{len(without):,} of {len(names):,} classes have none of the {selection.source()['samples']:,} training "
            f"samples ({first}): the new head cannot learn them, and an evaluation counts their samples as wrong, or "
            "right by chance"
        )
    return names


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
