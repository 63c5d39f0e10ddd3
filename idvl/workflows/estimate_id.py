"""Estimate the intrinsic dimension of every layer of a model on a dataset, and leave a run folder behind.

recipe -> model, samples -> measurement -> metrics.jsonl, profile.json, profile.png. It does not know how a terminal
looks: what it has to say goes to the reporter it is given.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from idvl.data.samples import refuse_few
from idvl.errors import UsageError
from idvl.measurement.estimation import Estimation, ProfileResult, folder_name
from idvl.measurement.settings import settings_of
from idvl.models.layers import find_layers
from idvl.models.loading import Loaded
from idvl.profile import Profile, load_profile
from idvl.recipe import Recipe
from idvl.reporter import Reporter
from idvl.session import begin, open_model, other_widths, planned_downloads, with_dataset


def run(
    recipe: Recipe,
    *,
    folder: Path | None,
    reporter: Reporter,
    resume: bool = False,
    overwrite: bool = False,
    plan_only: bool = False,
    compare: Path | None = None,
) -> ProfileResult:
    """Carry out a recipe. `folder` None: a new one under runs/. `compare`: a profile to draw beside the new one.

    Raises UsageError, before anything is written, for what cannot be carried out.
    """
    profiles = [(str(compare), load_profile(compare))] if compare else []
    recipe = with_dataset(recipe)
    settings_of(recipe)
    if recipe.data.samples:  # before the model is loaded
        refuse_few(recipe.data.samples, force=recipe.data.force)
    options = {"resume": resume, "overwrite": overwrite, "plan": plan_only, "compare": compare}
    _, device, team = begin(recipe, folder_name(recipe), folder, reads=[compare], **options)
    lacking = planned_downloads(recipe, team, reporter, recipe.data.split) if plan_only else ()
    loaded = open_model(recipe.model, device, team, offload=recipe.estimate.offload)
    profiles = [(name, _comparable(name, profile, loaded, reporter)) for name, profile in profiles]
    work = Estimation(recipe, loaded, team, reporter, resume_from=folder if resume else None)
    if plan_only:
        return ProfileResult(plan=work.plan(reporter), model=loaded.description, downloads=lacking)
    return work.execute(folder, reporter, resume=resume, overwrite=overwrite, others=profiles)


def _comparable(name: str, profile: Profile, loaded: Loaded, reporter: Reporter) -> Profile:
    """The profile without layers that are as wide as none of that name here. UsageError where nothing is left."""
    layers = find_layers(loaded.model, loaded.family)
    if not layers.keys() & profile.layers.keys():
        theirs, ours = (next(iter(names), "none") for names in (profile.layers, layers))
        raise UsageError(
            f"{name} is of another model: no layer of it is in {loaded.name}; the first is {theirs} there, {ours} here"
        )
    foreign = other_widths(profile, layers)
    if not foreign:
        return profile
    first = next(iter(foreign.values()))
    if len(foreign) == len(profile.layers):
        raise UsageError(f"{name} is of another model: {first}")
    reporter.warn(f"{len(foreign)} of {len(profile.layers)} layers of {name} are not drawn: {first}")
    return replace(profile, layers={key: layer for key, layer in profile.layers.items() if key not in foreign})
