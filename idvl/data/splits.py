"""Which split of a dataset is read: one that is named, under any of its usual spellings, or the best there is."""

from __future__ import annotations

from collections.abc import Iterable

from idvl.data.catalog import CatalogEntry
from idvl.errors import UsageError, listed, unknown

SAME_SPLIT = (
    ("validation", "val", "valid", "dev", "eval", "evaluation"),
    ("train", "training"),
    ("test", "testing"),
)
# names that stand for the split of a purpose. For training: train where there is one, else the dataset's default; for
# an evaluation: the dataset's own for it, else test, validation, or the only one
TRAINING = "train?"
EVALUATION = "eval?"
SPLIT_ORDER = ("validation", "test", "train")


def same_split(name: str) -> tuple[str, ...]:
    """The usual spellings of the split of this name, the first one first; the name alone where it has no other."""
    return next((group for group in SAME_SPLIT if name.lower() in group), (name,))


def spelling_of(name: str | None, available: Iterable[str], entry: CatalogEntry | None = None) -> str | None:
    """The available split that a name, a purpose or, for None, the dataset's default stands for; None if none does.

    Case matters only where two splits differ in nothing else.
    """
    default, evaluation = (entry.default_split, entry.eval_split) if entry else (None, None)
    purposes = {None: (default,), TRAINING: ("train", default), EVALUATION: (evaluation, "test", "validation")}
    exact = {split: split for split in available}
    folded = {split.lower(): split for split in reversed(exact)}
    for candidate in purposes.get(name, (name,)):
        if candidate is None:
            continue
        spellings = (candidate, *same_split(candidate))
        aliases = [entry.aliases.get(spelling) for spelling in spellings] if entry else []
        for word in (*spellings, *aliases):
            if word is not None and (split := exact.get(word, folded.get(word.lower()))) is not None:
                return split
    return None


def choose_split(name: str | None, available: Iterable[str], *, where: str, entry: CatalogEntry | None = None) -> str:
    """The split to read, as the dataset spells it: the one of this name in any of its usual spellings, or the default.

    Without a default the first of SPLIT_ORDER is taken: samples that were not trained on come first. TRAINING is a
    wish, not a demand. Raises UsageError, with the splits there are, for one that does not exist, and for EVALUATION
    where there are several and none is called test or validation: one of them may be what the model learnt from.
    """
    available = list(available)
    split = spelling_of(name, available, entry)
    if split is None and name == EVALUATION and len(available) > 1:
        raise UsageError(
            f"{where} has the splits {listed(available)}, none of them called test or validation: name the one to "
            "evaluate on with eval.split (idvl eval --split)"
        )
    if split is None and name not in (None, TRAINING, EVALUATION):
        notes = f"; {entry.notes}" if entry and entry.notes else ""
        raise unknown("split", name, available, hint=f"in {where}{notes}")
    return split or next((found for word in SPLIT_ORDER if (found := spelling_of(word, available))), available[0])
