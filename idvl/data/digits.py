"""The built-in real dataset: the 1,797 handwritten digits, 8 x 8 pixels, that scikit-learn ships.

They come from the UCI Optical Recognition of Handwritten Digits set. Half of them are held out, the same half always:
stratified by digit and shuffled by a seed fixed here. It does not know what a model makes of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image

from idvl.data.samples import Sample
from idvl.errors import UsageError, did_you_mean, quoted

SPLITS = ("train", "test")
SIZES = {"train": 898, "test": 899}
LABELS = tuple("0123456789")
# Estimates are for inputs that a model was not fitted to, and builtin/vit is trained on `train`. Half is held out, not
# the usual fifth, because an intrinsic dimension from n points errs as 1 / sqrt(n): 899 points, not 360.
DEFAULT_SPLIT = "test"
DEFAULT_SAMPLES = SIZES["test"]


def samples(split: str = DEFAULT_SPLIT, n: int | None = None, seed: int = 0) -> list[Sample]:
    """`n` (None: DEFAULT_SAMPLES) different digits drawn uniformly by seed, all of the split where it holds fewer.

    They have labels and no texts: samples are to have distinct texts, and there are only ten digits. Raises UsageError
    for an unknown split, an n below 1 or a missing scikit-learn.
    """
    if split not in SPLITS:
        hint = did_you_mean(split, SPLITS)
        raise UsageError(f"digits has no split {quoted(split)}: its splits are {', '.join(SPLITS)}{hint}")
    n = DEFAULT_SAMPLES if n is None else n
    if n < 1:
        raise UsageError(f"{n} samples requested: at least 1 is needed")
    images, labels = _load()
    members = _members(split)
    indices = random.Random(f"digits/{split}/{seed}").sample(members, min(n, len(members)))
    return [
        Sample(
            id=f"digits/{split}/{index:04d}",
            source=Image.fromarray(images[index]).convert("RGB"),
            label=int(labels[index]),
        )
        for index in indices
    ]


def candidates(split: str, n: int, seed: int) -> Iterator[Sample]:
    """The samples one by one."""
    return iter(samples(split, n, seed))


@cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) uint8 pictures, ink bright on black, 17 grey levels; (1797,) labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError(
            "dataset digits needs scikit-learn, which is not installed: pip install 'idvl[digits]'"
        ) from None
    bunch = load_digits()
    return np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target


@cache
def _members(split: str) -> list[int]:
    """The indices of a split, ascending: of each digit's shuffled pictures every second is held out for test."""
    order = list(range(len(_load()[1])))
    random.Random("digits").shuffle(order)
    order.sort(key=lambda index: _load()[1][index])
    return sorted(index for rank, index in enumerate(order) if (rank % 2 == 0) == (split == "test"))
