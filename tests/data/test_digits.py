"""The real digits: a fixed stratified half is held out, and scikit-learn's pictures come through unharmed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from idvl.data import digits
from idvl.errors import UsageError

load_digits = pytest.importorskip("sklearn.datasets").load_digits


def test_samples_are_scikit_learns_pictures():
    bunch = load_digits()
    for split in digits.SPLITS:
        for sample in digits.samples(split, 50):
            index = int(sample.id.rsplit("/", 1)[1])
            assert sample.id == f"digits/{split}/{index:04d}"
            assert sample.label == bunch.target[index] and sample.texts == ()
            assert sample.image.mode == "RGB" and sample.image.size == (8, 8)
            ink = np.asarray(sample.image).astype(float) * 16 / 255
            assert np.abs(ink - bunch.images[index][:, :, None]).max() < 0.04


def test_splits_are_stratified_and_cover_everything_once():
    held = {split: digits.samples(split, digits.SIZES[split]) for split in digits.SPLITS}
    ids = {split: {s.id.rsplit("/", 1)[1] for s in samples} for split, samples in held.items()}
    assert {split: len(found) for split, found in ids.items()} == digits.SIZES
    assert not ids["train"] & ids["test"] and len(ids["train"] | ids["test"]) == 1_797
    assert len({s.image.tobytes() for samples in held.values() for s in samples}) == 1_797
    counts = {split: np.bincount([s.label for s in samples]) for split, samples in held.items()}
    assert len(digits.LABELS) == len(counts["test"]) and np.abs(counts["test"] - counts["train"]).max() <= 1


def test_the_seed_decides_which_and_a_split_gives_no_more_than_it_has():
    assert digits.samples("test", 100, 5) == digits.samples("test", 100, 5) != digits.samples("test", 100, 6)
    assert digits.samples() == digits.samples("test", digits.DEFAULT_SAMPLES, 0)
    assert len(digits.samples("train", 5_000)) == digits.SIZES["train"]


def test_bad_requests_are_refused(monkeypatch):
    with pytest.raises(UsageError, match=r"no split 'tests'.*train, test; did you mean 'test'"):
        digits.samples("tests")
    with pytest.raises(UsageError, match="0 samples requested"):
        digits.samples("test", 0)
    digits._load.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'idvl\[digits\]'"):
        digits.samples("test", 1)
