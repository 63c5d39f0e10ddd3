"""The intrinsic dimensions that a pruning run estimates itself: before it prunes, or again while it does.

`profiles` reads the profile that a recipe names instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from idvl import runs
from idvl.data.splits import TRAINING
from idvl.measurement.api import estimate_id
from idvl.measurement.estimation import Estimation
from idvl.models.layers import SCOPES, read_text
from idvl.profile import Profile
from idvl.recipe import Recipe
from idvl.reporter import Reporter
from idvl.session import choose_samples
from idvl.sparsity.pruner import WeightPruner

if TYPE_CHECKING:
    from idvl.pruning.calibration import Calibration
    from idvl.pruning.job import Job

# the folder inside a run's of the run that estimates its profile
FOLDER = "profile"


def estimation(job: Job | Calibration, reporter: Reporter, *, resume_from: Path | None = None) -> Estimation:
    """The estimation of the job's model, planned: what it would refuse is refused. `resume_from`: the run to resume."""
    resume_from = (
        resume_from if resume_from and job.team.first(lambda: runs.read_record(resume_from) is not None) else None
    )
    work = Estimation(_recipe(job), job.loaded, job.team, reporter, resume_from=resume_from)
    if not work.is_done:
        work.plan(reporter)
    return work


def refreshed(job: Job, pruner: WeightPruner, opened: runs.Run | None, epoch: int) -> Profile:
    """The dimensions of the model as it is now, masked; written into the run's folder."""
    recipe, data = _recipe(job), job.recipe.data
    selection = choose_samples(
        recipe,
        job.team,
        split=recipe.data.split,
        n=data.samples,
        force=data.force,
        distinct=read_text(job.layers, job.loaded.family) or "images",
    )
    with pruner.masked():
        profile = estimate_id(
            job.loaded.model,
            selection.samples,
            processor=job.loaded.processor,
            batch_size=recipe.data.batch_size,
            seed=recipe.data.seed,
            **recipe.estimate.model_dump(),
        )
    if opened:
        profile.save(opened.path(f"profile-epoch-{epoch:04d}.json"))
    return profile


def newest(folder: Path, profile: Profile | None) -> Profile | None:
    """The profile measured last in a run that began with `profile`."""
    files = sorted(folder.glob("profile-epoch-*.json"))
    return Profile.load(files[-1]) if files else profile


def _recipe(job: Job | Calibration) -> Recipe:
    """The recipe of the estimation: the layers in scope, on samples of the split that is trained on."""
    data = job.recipe.data.model_copy(update={"split": job.selection.description["split"]})
    scope = job.recipe.prune.scope
    modalities = sorted({layer.modality for layer in job.layers.values()})
    update = {"modality": modalities, "layers": None if scope in SCOPES else scope}
    if job.recipe.prune.compat == "icml24":
        update["estimator"] = "icml24"
    estimate = job.recipe.estimate.model_copy(update=update)
    model = job.recipe.model.model_copy(update={"name": job.loaded.name})
    return job.recipe.model_copy(update={"model": model, "data": data, "estimate": estimate})


def dense_recipe(recipe: Recipe) -> Recipe:
    """The estimate-id run of a pruning recipe's model: all layers, on the split that is trained on."""
    estimator = "icml24" if recipe.prune.compat == "icml24" else recipe.estimate.estimator
    return Recipe(
        model=recipe.model,
        data=recipe.data.model_copy(update={"split": recipe.data.split or TRAINING}),
        estimate=recipe.estimate.model_copy(update={"estimator": estimator}),
    )
