"""Evaluation of a pruning run: of the model while it is pruned, and at the end. It prunes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from idvl.data.formats.table import WHOLE
from idvl.errors import UsageError, quoted
from idvl.evaluation import evaluation, scoring
from idvl.evaluation.evaluation import Evaluation
from idvl.evaluation.learnt import DIMENSIONS, measured_on, no_test, reused
from idvl.files import write_json
from idvl.json_file import load
from idvl.models.fingerprints import fingerprint
from idvl.models.loading import Loaded
from idvl.profile import Profile
from idvl.recipe import EvalSection, Recipe
from idvl.reporter import Reporter

# folders inside a run's: the evaluation of what it ends with, and those during training
FINAL, BETWEEN = "eval", "evaluations"
SIGNATURE = "signature.json"
# settings that request an evaluation, which must then be possible
EXPLICIT = ("task", "split", "every", "templates", "rerank", "metrics")
EXPLICIT += ("prompt", "beams", "beam_length", "min_length", "max_length")


def prepare_evaluation(job: Any, reporter: Reporter, *, store: Path) -> tuple[Evaluation | None, str | None]:
    """The evaluation of the job's model, or the reason why there can be none; neither where none is requested.

    Raises UsageError for an explicit request that cannot be met.
    """
    settings = job.recipe.eval
    if not settings.after and settings.every is None:
        return None, None
    if job.loaded.offload:
        reason = "its weights are offloaded; idvl eval loads them whole"
        reporter.warn(f"the pruned model is not evaluated: {reason}")
        return None, reason
    try:
        work = evaluation.prepare(job.recipe, job.loaded, job.team, reporter, store=store)
        work.checked_pass()
    except UsageError as error:
        if any(getattr(settings, name) != getattr(EvalSection(), name) for name in EXPLICIT):
            raise
        reporter.warn(f"the pruned model is not evaluated: {error}")
        return None, str(error)
    used, evaluated = job.selection.description, work.selection.description
    shared = {sample.id for sample in job.selection.samples} & {sample.id for sample in work.selection.samples}
    data = job.recipe.data
    source = data.model_copy(update={"split": used["split"]})
    which = job.purpose and reused(source, used["fingerprint"], data, evaluated)
    if which and not settings.split:
        reason = _no_split_left(job, used["split"], evaluated["split"])
        reporter.warn(f"the pruned model is not evaluated: {reason}")
        return None, reason
    if which or (job.purpose and shared and evaluated.get("join")):
        reporter.warn(no_test(f"the run uses {which or 'some of these samples'}, for {job.purpose}"))
        work = replace(work, selection=work.selection.learnt(job.purpose))
    elif which := job.profile and _measured_on(job.profile, job.recipe, evaluated):
        reporter.warn(no_test(f"the profile {quoted(job.recipe.prune.profile)} was measured on {which}"))
        work = replace(work, selection=work.selection.learnt(DIMENSIONS))
    return work, None


def _no_split_left(job: Any, used: str, evaluated: str) -> str:
    """Why the split of an evaluation that nobody named is no test, where the job used it or a split that overlaps."""
    that = f"is {used}, and it was" if evaluated == used else f"{evaluated} overlaps with {used}, which was"
    local = job.selection.description.get("path") and (used == evaluated or WHOLE in (used, evaluated))
    ways = "leave --split out, or " if job.recipe.data.split else "add folders train/ and test/, or " if local else ""
    return f"the split {that} used for {job.purpose}: {ways}name another split with eval.split"


def _measured_on(profile: Profile, recipe: Recipe, evaluated: Mapping[str, Any]) -> str | None:
    """Which samples evaluated a profile was measured on, in words, None where none is known to be."""
    fingerprint = profile.dataset.get("fingerprint")
    try:
        return reused(measured_on(profile, recipe.prune.profile), fingerprint, recipe.data, evaluated)
    except UsageError:  # a path that is not there any more
        return reused(None, fingerprint, recipe.data, evaluated)


def evaluate_pruned(work: Evaluation, loaded: Loaded, folder: Path, reporter: Reporter) -> dict[str, Any]:
    """The results of a pruned model, evaluated in a folder.

    What is in the folder is resumed if it has the same weights and settings, and recreated otherwise.
    """
    description = {**loaded.description, "fingerprint": fingerprint(loaded.model)}
    work = replace(work, loaded=replace(loaded, description=description))
    work.team.first(lambda: _claim(folder, work.signature()))
    task_pass = work.checked_pass()
    return work.execute(task_pass, folder, reporter, batch_size=work.batch_size(task_pass, reporter))


def evaluate_step(work: Evaluation, loaded: Loaded, folder: Path, step: int, reporter: Reporter) -> dict[str, float]:
    """The metrics of the model of a run in `folder` after so many steps."""
    metrics = scoring.values(evaluate_pruned(work, loaded, folder / BETWEEN / f"step-{step:09d}", reporter))
    reporter.note(f"step {step}: {', '.join(f'{name} {value:.2f}' for name, value in metrics.items())}")
    return metrics


def _claim(folder: Path, signature: dict[str, Any]) -> None:
    """Make the folder, without what is of another model or other settings."""
    path, values = folder / SIGNATURE, json.loads(json.dumps(signature))
    if folder.exists() and any(folder.iterdir()):
        if not path.exists():
            raise UsageError(
                f"{quoted(folder)} holds another evaluation: move it, or leave the evaluation out (--no-eval)"
            )
        if _read_signature(path) != values:
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, values)


def _read_signature(path: Path) -> Any:
    """The signature in a file, None for one that is damaged."""
    try:
        return load(path)
    except (OSError, ValueError):
        return None
