"""Whether the split that a model is evaluated on was used to make the model.

Training, calibration and intrinsic dimensions count, of all the runs behind a model and of a built-in one's training.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from idvl.builtin import dataset_of
from idvl.checkpoints.report import load_report
from idvl.data.catalog import CATALOG
from idvl.data.formats.table import WHOLE
from idvl.errors import UsageError, quoted
from idvl.profile import Profile
from idvl.recipe import DataSection
from idvl.session import data_of, from_folder_of, model_before, places, runs_behind

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
    return f"{used}: these scores are not a test; name another split with --split, or another dataset"


def measured_on(profile: Profile) -> DataSection | None:
    """Where a profile's samples came from, None where it does not tell."""
    about = profile.dataset
    if not about.get("dataset") or not about.get("split"):
        return None
    # of a catalogue's name read elsewhere, the path is not the name
    elsewhere = about.get("path") if about["dataset"] in CATALOG else None
    return DataSection(
        dataset=about["dataset"],
        data_dir=elsewhere,
        dataset_id=None if elsewhere else about.get("dataset_id"),
        split=about["split"],
    )


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
        made = load_report(run)["made"]
    except UsageError:
        return
    recorded = data_of(run)
    for purpose in ("training", "calibration"):
        split = (made.get(purpose) or {}).get("split")
        if recorded and split:
            yield purpose, recorded.model_copy(update={"split": split})
    try:
        measured = measured_on(Profile.load(run / "profile.json"))
        if measured:
            yield DIMENSIONS, from_folder_of(run, measured, warn=False)
    except UsageError:
        return


def _before(run: Path) -> str:
    """The model that a run began with, "" where it does not tell."""
    try:
        return model_before(run)
    except UsageError:
        return ""
