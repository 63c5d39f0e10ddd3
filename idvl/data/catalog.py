"""The datasets that idvl knows by name: where they live, what their columns hold, and how much of them a run takes.

It neither opens nor downloads anything.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from idvl.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One known dataset, either on the Hub (`ids`, tried in order) or built in (`module`, which makes its samples).

    `splits` are named as the Hub spells them, with the number of their samples where it is known; SAME_SPLIT lists
    the spellings that are taken for one another.
    """

    name: str
    holds: str
    splits: dict[str, int | None]
    default_split: str
    default_samples: int
    licence: str
    ids: tuple[str, ...] = ()
    module: str | None = None
    revision: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    id_column: str | None = None
    gated: bool = False
    notes: str = ""


_ENTRIES = (
    Entry(
        name="shapes",
        holds="images of two coloured shapes, four captions each, drawn by program",
        module="idvl.data.shapes",
        splits={"train": None, "validation": None, "test": None},
        default_split="validation",
        default_samples=2_000,
        licence="Apache-2.0",
    ),
    Entry(
        name="digits",
        holds="1,797 handwritten digits of 8 x 8 pixels with their labels, from scikit-learn",
        module="idvl.data.digits",
        splits={"train": 898, "test": 899},
        default_split="test",
        default_samples=899,
        licence="CC-BY-4.0",
    ),
    Entry(
        name="coco",
        holds="photographs, five captions each",
        ids=("lmms-lab-encoder/COCO-Caption", "lmms-lab/COCO-Caption"),
        image_column="image",
        text_column="answer",
        id_column="question_id",
        splits={"val": 40_504, "test": 40_775},
        default_split="val",
        default_samples=2_000,
        licence="CC-BY-4.0 (captions); the images under their owners' Flickr terms",
        notes="val is COCO val2014, 40,504 images, and holds the Karpathy validation and test images; the captions of "
        "test are not public. For the Karpathy splits give --data-dir a folder with the images and dataset_coco.json",
    ),
    Entry(
        name="flickr30k",
        holds="photographs, five captions each",
        ids=("lmms-lab-encoder/flickr30k", "lmms-lab/flickr30k"),
        image_column="image",
        text_column="caption",
        id_column="img_id",
        splits={"test": 31_783},
        default_split="test",
        default_samples=2_000,
        licence="non-commercial research, as the Flickr terms of the images say",
        notes="test holds all 31,783 images; --dataset-id umaru97/flickr30k_train_val_test has train, val and test",
    ),
    Entry(
        name="textvqa",
        holds="photographs with writing, a question and ten answers each",
        ids=("lmms-lab-encoder/textvqa", "lmms-lab/textvqa"),
        image_column="image",
        text_column="question",
        id_column="question_id",
        splits={"train": 34_602, "validation": 5_000, "test": 5_734},
        default_split="validation",
        default_samples=2_000,
        licence="CC-BY-4.0",
        notes="several questions share an image, of which one is taken; the answers of test are not public",
    ),
)
CATALOG: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}

SAME_SPLIT = (("validation", "val", "valid", "dev"), ("train", "training"), ("test", "testing"))
# asked for in the place of a split: train where there is one, else the dataset's default
TRAINING = "train?"
SPLIT_ORDER = ("validation", "val", "valid", "dev", "test", "testing", "train", "training")


def unknown(kind: str, value: str, known: Iterable[str], hint: str = "") -> UsageError:
    """The error for a name that does not exist: what was asked, the nearest name there is, and all of them."""
    known = list(known)
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return UsageError(f"no {kind} {value!r}{guess} (there is {', '.join(known) or 'none'}){hint and '; ' + hint}")


def choose_split(asked: str | None, available: Iterable[str], *, where: str, entry: Entry | None = None) -> str:
    """The split to read: the one asked for under any of its usual spellings, or the dataset's default.

    Without a default the first of SPLIT_ORDER is taken: samples that were not trained on come first. TRAINING is a
    wish, not a demand. Raises UsageError, with the splits there are, for one that does not exist.
    """
    available = list(available)
    default = entry.default_split if entry else None
    for wanted in ("train", default) if asked == TRAINING else (asked or default,):
        spellings = next((group for group in SAME_SPLIT if wanted in group), ())
        for spelling in (wanted, *spellings):
            if spelling in available:
                return spelling
    if asked == TRAINING:
        asked = None
    if asked is not None:
        notes = f"; {entry.notes}" if entry and entry.notes else ""
        raise unknown("split", asked, available, hint=f"in {where}{notes}")
    return next((split for split in SPLIT_ORDER if split in available), available[0])
