"""Which split of a dataset is read: one that is named, under any of its usual spellings, or the best there is."""

from __future__ import annotations

from collections.abc import Iterable

from idvl.data.catalog import CatalogEntry
from idvl.errors import unknown

SAME_SPLIT = (("validation", "val", "valid", "dev"), ("train", "training"), ("test", "testing"))
# names that stand for the split of a purpose. For training: train where there is one, else the dataset's default; for
# an evaluation: the dataset's own for it, else test, validation, or what there is
TRAINING = "train?"
EVALUATION = "eval?"
SPLIT_ORDER = ("validation", "val", "valid", "dev", "test", "testing", "train", "training")


def spelling_of(name: str | None, available: Iterable[str], entry: CatalogEntry | None = None) -> str | None:
    """The available split that a name, a purpose or, for None, the dataset's default stands for; None if none does."""
    default, evaluation = (entry.default_split, entry.eval_split) if entry else (None, None)
    purposes = {None: (default,), TRAINING: ("train", default), EVALUATION: (evaluation, "test", "validation")}
    for candidate in purposes.get(name, (name,)):
        spellings = (candidate, *next((group for group in SAME_SPLIT if candidate in group), ()))
        aliases = [entry.aliases.get(spelling) for spelling in spellings] if entry else []
        split = next((word for word in (*spellings, *aliases) if word is not None and word in available), None)
        if split is not None:
            return split
    return None


def choose_split(name: str | None, available: Iterable[str], *, where: str, entry: CatalogEntry | None = None) -> str:
    """The split to read: the one of this name under any of its usual spellings, or the dataset's default.

    Without a default the first of SPLIT_ORDER is taken: samples that were not trained on come first. TRAINING and
    EVALUATION are wishes, not demands. Raises UsageError, with the splits there are, for one that does not exist.
    """
    available = list(available)
    split = spelling_of(name, available, entry)
    if split is None and name not in (None, TRAINING, EVALUATION):
        notes = f"; {entry.notes}" if entry and entry.notes else ""
        raise unknown("split", name, available, hint=f"in {where}{notes}")
    return split or next((split for split in SPLIT_ORDER if split in available), available[0])
