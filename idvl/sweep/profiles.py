"""The ID profiles that cells of a matrix share: recipes of runs of estimate-id, and folders' names. It runs none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from idvl.pruning.calibration_settings import calibrates, reads_dimensions
from idvl.pruning.dimensions import dense_recipe
from idvl.recipe import ESTIMATING, Recipe, described
from idvl.recipe.sections import AUTO

# settings that older runs did not have: at their defaults they are left out of the names of folders
LATER = ("data.allow_outside", "model.chat_template", "model.clean_texts", "estimate.offload")


def estimation_of(recipe: Recipe) -> Recipe | None:
    """The estimate-id run that a pruning recipe would begin with; None where it begins with none, or a head of its own.

    It measures all layers, whatever the scope, so that cells of other scopes share it.
    """
    if not reads_dimensions(recipe.prune) or recipe.prune.profile != AUTO or recipe.train.new_head:
        return None
    return dense_recipe(recipe)


def shared_name(recipe: Recipe) -> str:
    """The folder's name of an estimate-id run that several cells share: its model, and a hash of all settings."""
    settings = recipe.to_dict(*ESTIMATING)
    for key in LATER:
        section, _, name = key.partition(".")
        if settings[section][name] == described()[key]["default"]:
            del settings[section][name]
    text = json.dumps(settings, sort_keys=True)
    return f"{Path(recipe.model.name).name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def with_profile(recipe: Recipe, profile: Path) -> Recipe:
    """A pruning recipe that reads its profile from a file.

    Calibrated pruning then measures nothing, and data.samples has no meaning; training may measure again.
    """
    data = recipe.data.model_copy(update={"samples": None}) if calibrates(recipe.prune) else recipe.data
    prune = recipe.prune.model_copy(update={"profile": str(profile)})
    return recipe.model_copy(update={"prune": prune, "data": data})


def of_pruned(recipe: Recipe, model: Path) -> Recipe:
    """The estimate-id run of what a pruning recipe made of its model, as that of the dense one."""
    return dense_recipe(
        recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": str(model), "revision": None})})
    )
