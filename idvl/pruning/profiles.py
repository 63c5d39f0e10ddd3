"""The ID profile that a pruning recipe names: read, and compared with the model. Estimating one is `dimensions`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from idvl.errors import UsageError
from idvl.models.layers import Layer
from idvl.profile import Profile, load_profile
from idvl.recipe import PruneSection
from idvl.recipe.sections import AUTO
from idvl.session import other_widths


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
