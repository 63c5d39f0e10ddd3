"""Whether the split that a model is evaluated on was used to make the model.

A split counts as used for training, for calibration and for the intrinsic dimensions that a model was pruned by, by any
of the runs behind the model; and for training, where that of a built-in model used it.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from idvl import recipe as recipes
from idvl import runs
from idvl.builtin import dataset_of
from idvl.checkpoints.report import load_report
from idvl.data.formats.table import WHOLE
from idvl.errors import UsageError, quoted
from idvl.profile import Profile
from idvl.recipe import DataSection
from idvl.session import RECIPE, data_of, from_folder_of, model_before, places, runs_behind

# what a profile is used for
DIMENSIONS = "intrinsic dimensions"


class Learnt(NamedTuple):
    """What samples of a split were used for, and a line that says so."""

    purpose: str
    warning: str


def learnt_from(model: str, data: DataSection, split: str) -> Learnt | None:
    """The last use behind a model of samples of this split, or of one that overlaps with it."""
    behind = runs_behind(model)
    for run in behind:
        for purpose, source in _uses(run):
            if which := overlap(source, data, split):
                return Learnt(purpose, no_test(f"{quoted(run)} used samples of {which}, for {purpose}"))
    start = _before(behind[-1]) if behind else model
    if start.startswith("builtin/"):
        trained = DataSection(dataset=dataset_of(start), split="train")
        if which := overlap(trained, data, split):
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


def overlap(used: DataSection, data: DataSection, split: str) -> str | None:
    """The split that was used and how it overlaps with one of a dataset, in words; None where it does not.

    Paths are compared, so that train/ inside a folder is part of the folder's split train.
    """
    for one, other in itertools.product(places(used), places(data)):
        if one == other and used.split == split:
            return f"this split, {split}"
        if one == other and WHOLE in (used.split, split):
            return f"{used.split}, which overlaps with {split}"
        if _is_part(one, other, split) or _is_part(other, one, used.split):
            return f"{used.split} of {quoted(one)}, which overlaps with {split} of {quoted(other)}"
    return None


def _is_part(inner: str, outer: str, split: str) -> bool:
    """Whether a path lies inside another, in what this has for a split: train/, train.csv or train-00.parquet."""
    if not os.path.isabs(outer) or not inner.startswith(os.path.join(outer, "")):
        return False
    parts = Path(os.path.relpath(inner, outer)).parts
    return split == WHOLE or any(re.split("[-.]", part)[0].lower() == split.lower() for part in parts)


def _uses(run: Path) -> Iterator[tuple[str, DataSection]]:
    """What a run used samples for, and where these came from."""
    try:
        report = load_report(run)
    except UsageError:
        return
    recorded = data_of(run)
    for purpose in ("training", "calibration"):
        split = (report["made"].get(purpose) or {}).get("split")
        if recorded and split:
            yield purpose, recorded.model_copy(update={"split": split})
    # the profile of a recovery is that of the run that pruned
    if "recovered" not in report and (measured := _measured_by(run)):
        yield DIMENSIONS, measured


def _measured_by(run: Path) -> DataSection | None:
    """Where the samples of the profile that a run pruned by came from."""
    try:
        named = recipes.load(run / RECIPE).prune.profile
        return measured_on(Profile.load(run / "profile.json"), named, run)
    except UsageError:
        return None


def _before(run: Path) -> str:
    """The model that a run began with, "" where it does not tell."""
    try:
        return model_before(run)
    except UsageError:
        return ""
