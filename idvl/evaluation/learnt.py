"""Whether a model learnt from the split that it is evaluated on, as the runs behind it tell."""

from __future__ import annotations

from typing import NamedTuple

from idvl.checkpoints.report import load_report
from idvl.data.formats.table import WHOLE
from idvl.errors import UsageError, quoted
from idvl.recipe import DataSection
from idvl.session import data_of, runs_behind, same_source


class Learnt(NamedTuple):
    """What a run used samples of a split for, training or calibration, and a line that says so."""

    purpose: str
    warning: str


def learnt_from(model: str, data: DataSection, split: str) -> Learnt | None:
    """The last run behind a model that learnt from this split of a dataset, or from one that overlaps with it."""
    for run in runs_behind(model):
        try:
            made = load_report(run)["made"]
        except UsageError:
            continue
        for purpose in ("training", "calibration"):
            learnt = (made.get(purpose) or {}).get("split")
            overlaps = learnt == split or (learnt and WHOLE in (learnt, split))
            if overlaps and (recorded := data_of(run)) and same_source(recorded, data):
                which = f"this split, {split}" if learnt == split else f"{learnt}, which overlaps with {split}"
                return Learnt(
                    purpose,
                    f"{quoted(run)} used samples of {which}, for {purpose}: these scores are not a test; name another "
                    "split with --split, or another dataset",
                )
    return None
