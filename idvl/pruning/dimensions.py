"""The intrinsic dimensions that weight a pruning run: read, published, estimated first, or estimated again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idvl import runs
from idvl.errors import UsageError
from idvl.measurement.api import estimate_id
from idvl.measurement.estimation import Estimation
from idvl.models.layers import SCOPES, Layer
from idvl.profile import Profile, load_profile
from idvl.pruning.settings import AUTO
from idvl.recipe import PruneSection, Recipe
from idvl.reporter import Reporter
from idvl.session import choose_samples, other_widths
from idvl.sparsity.pruner import WeightPruner

if TYPE_CHECKING:
    from idvl.pruning.calibration import Calibration
    from idvl.pruning.job import Job

# the folder inside a run's of the run that estimates its profile
FOLDER = "profile"


def recipe_profile(prune: PruneSection, layers: Mapping[str, Layer]) -> Profile | None:
    """The profile that a recipe names, None where it names or needs none. UsageError for one of another model."""
    if prune.id_weight == "none" or prune.profile == AUTO:
        return None
    return fitting(prune.profile, layers)


def fitting(profile: Profile | Path | str, layers: Mapping[str, Layer]) -> Profile:
    """A profile, or the one of this name or path. UsageError for one whose layers have other widths."""
    name = "" if isinstance(profile, Profile) else f" {profile}"
    if not isinstance(profile, Profile):
        profile = load_profile(profile)
    for difference in other_widths(profile, layers).values():
        raise UsageError(f"the profile{name} is of another model: {difference}")
    return profile


def is_foreign(profile: Profile, model: Mapping[str, Any]) -> bool | None:
    """Whether a profile is of other weights than a described model has; None where it does not tell."""
    measured = profile.model.get("fingerprint")
    return None if measured is None else measured != model["fingerprint"]


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
    selection = choose_samples(recipe, job.team, split=recipe.data.split, n=data.samples, force=data.force)
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
