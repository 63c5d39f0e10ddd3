"""Whether the split that a model is evaluated on was used to make the model.

A split counts as used for training, for calibration and for the intrinsic dimensions that a model was pruned by, by any
of the runs behind the model; and for training, where that of a built-in model used it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from idvl import recipe as recipes
from idvl import runs
from idvl.builtin import dataset_of
from idvl.checkpoints.report import load_report
from idvl.data.folder_splits import spellings_of, split_of_file
from idvl.data.formats.table import WHOLE
from idvl.data.samples import Selection
from idvl.distributed import Team
from idvl.errors import UsageError, quoted
from idvl.profile import Profile
from idvl.recipe import DataSection, Recipe
from idvl.reporter import Reporter
from idvl.session import RECIPE, data_of, from_folder_of, model_before, places, runs_behind

# what a profile is used for
DIMENSIONS = "intrinsic dimensions"


class Learnt(NamedTuple):
    """What samples of a split were used for, and a line that says so."""

    purpose: str
    warning: str


def mark_learnt(selection: Selection, recipe: Recipe, team: Team, reporter: Reporter) -> Selection:
    """The samples, described as learnt from, with a warning, where `learnt_from` finds a use of them."""
    learnt = team.first(lambda: learnt_from(recipe.model.name, recipe.data, selection.description))
    if not learnt:
        return selection
    reporter.warn(learnt.warning)
    return selection.learnt(learnt.purpose)


def learnt_from(model: str, data: DataSection, evaluated: Mapping[str, Any]) -> Learnt | None:
    """The last use behind a model of the samples evaluated, of their split, or of one that overlaps with it.

    `evaluated` has their split and fingerprint.
    """
    behind = runs_behind(model)
    for run in behind:
        for purpose, source, fingerprint in _uses(run):
            if which := reused(source, fingerprint, data, evaluated):
                return Learnt(purpose, no_test(f"{quoted(run)} used {which}, for {purpose}"))
    start = _before(behind[-1]) if behind else model
    if start.startswith("builtin/"):
        trained = DataSection(dataset=dataset_of(start), split="train")
        if which := overlap(trained, data, evaluated["split"]):
            return Learnt("training", no_test(f"{start} was trained on {which}"))
    return None


def no_test(used: str) -> str:
    """The warning for samples that were used."""
    return f"{used}: these scores are not a test; evaluate another split or dataset"


def measured_on(profile: Profile, named: str, run: Path | None = None) -> DataSection | None:
    """Where the samples of a profile came from, None where it does not tell.

    `named`: its path in the recipe of `run` (None: of one that begins). A relative path of a dataset starts from where
    the profile was measured, as far as the folder of that run is there. UsageError for a path that is not there.
    """
    about = profile.dataset
    if not about.get("dataset") or not about.get("split"):
        return None
    place = {key: about.get(key) for key in ("dataset", "dataset_id", "split")}
    if about.get("path"):
        place |= {"data_dir": about["path"], "dataset_id": None}
    started = (runs.read_record(run) or {}).get("directory") if run else None
    path = os.path.join(started or "", os.path.expanduser(named))
    holder = Path(path if os.path.isdir(path) else os.path.dirname(path))
    holder = holder if runs.read_record(holder) else run
    data = DataSection(**place)
    return from_folder_of(holder, data, warn=False) if holder else data


def reused(
    used: DataSection | None, fingerprint: str | None, data: DataSection, evaluated: Mapping[str, Any]
) -> str | None:
    """Which samples used are among those evaluated, in words; None where none is known to be.

    `used`: where the samples used came from, None where that is not known. Equal fingerprints are of the same samples
    in the same order, whatever the paths. `evaluated` has split and fingerprint.
    """
    if which := used and overlap(used, data, evaluated["split"]):
        return f"samples of {which}"
    return "the same samples" if fingerprint and fingerprint == evaluated["fingerprint"] else None


def overlap(used: DataSection, data: DataSection, split: str) -> str | None:
    """The split that was used and how it overlaps with one of a dataset, in words; None where it does not.

    Paths without links are compared, so that train/ inside a folder is part of the folder's split train.
    """
    for (one, own), (other, its) in itertools.product(_folders(used, used.split), _folders(data, split)):
        if one == other and own == its:
            return f"this split, {split}"
        if one == other and WHOLE in (own, its):
            return f"{own}, which overlaps with {its}"
        if _is_part(one, other, its) or _is_part(other, one, own):
            return f"{own} of {quoted(one)}, which overlaps with {its} of {quoted(other)}"
    return None


def _folders(data: DataSection, split: str) -> Iterator[tuple[str, str]]:
    """What a split is read from: its dataset with its name, and the whole of a folder that the split is a link to."""
    for place in places(data):
        yield place, split
        folder = os.path.join(place, split)
        if os.path.isabs(place) and os.path.islink(folder):
            yield os.path.realpath(folder), WHOLE


def _is_part(inner: str, outer: str, split: str) -> bool:
    """Whether a path lies inside another, in what this has for a split: train/, train.csv or birds_train.parquet."""
    if not os.path.isabs(outer) or not inner.startswith(os.path.join(outer, "")):
        return False
    parts, word = os.path.relpath(inner, outer).lower().split(os.sep), split.lower()
    of_file = split_of_file(parts[-1], spellings_of(None) | {word}) if os.path.splitext(inner)[1] else None
    return split == WHOLE or word in (*parts, of_file)


def _uses(run: Path) -> Iterator[tuple[str, DataSection | None, str | None]]:
    """What a run used samples for, where these came from, None where that is not known, and their fingerprint."""
    try:
        report = load_report(run)
    except UsageError:
        return
    recorded = data_of(run)
    for purpose in ("training", "calibration"):
        samples = report["made"].get(purpose) or {}
        if split := samples.get("split"):
            yield purpose, recorded and recorded.model_copy(update={"split": split}), samples.get("fingerprint")
    # the profile of a recovery is that of the run that pruned
    if "recovered" not in report:
        yield DIMENSIONS, *_measured_by(run)


def _measured_by(run: Path) -> tuple[DataSection | None, str | None]:
    """Where the samples of the profile that a run pruned by came from, and their fingerprint, as far as it is known."""
    fingerprint = None
    try:
        profile = Profile.load(run / "profile.json")
        fingerprint = profile.dataset.get("fingerprint")
        return measured_on(profile, recipes.load(run / RECIPE).prune.profile, run), fingerprint
    except UsageError:
        return None, fingerprint


def _before(run: Path) -> str:
    """The model that a run began with, "" where it does not tell."""
    try:
        return model_before(run)
    except UsageError:
        return ""
