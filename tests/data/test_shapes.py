"""The drawn dataset: splits that share nothing, pictures that show what their captions say."""

from __future__ import annotations

import hashlib
import random
import re

import numpy as np
import pytest

from idvl.data import shapes
from idvl.data.shapes import COLOURS, Scene, Thing
from idvl.errors import UsageError


def cover(image, colour):
    """(32, 32) bool: the pixels of a colour, whose channels vary by up to 12 levels; not the blends at its edges."""
    return (abs(np.asarray(image).astype(int) - COLOURS[colour]) <= 13).all(-1)


def test_splits_hold_different_scenes_and_captions():
    captions = {split: {text for s in shapes.scenes(split) for text in s.captions} for split in shapes.SPLITS}
    assert sum(len(shapes.scenes(split)) for split in shapes.SPLITS) == 2 * 72 * 71
    assert all(len(shapes.scenes(split)) >= 2_400 for split in shapes.SPLITS)
    assert sum(map(len, captions.values())) == len(set.union(*captions.values())) == 4 * 2 * 72 * 71 >= 20_000


def test_samples_have_distinct_pictures_over_all_splits():
    samples = [s for split in shapes.SPLITS for s in shapes.samples(split, seed=3)]
    assert len(samples) == 3 * shapes.DEFAULT_SAMPLES
    assert len({s.id for s in samples}) == len({s.texts[0] for s in samples}) == len(samples)
    some = samples[::3]
    assert len({hashlib.sha256(s.image.tobytes()).digest() for s in some}) == len(some)


def test_a_sample_belongs_to_its_split():
    for split in shapes.SPLITS:
        known = {scene.captions for scene in shapes.scenes(split)}
        for sample in shapes.samples(split, 50):
            assert sample.texts in known
            assert re.fullmatch(rf"shapes/{split}/\d{{6}}", sample.id)


def test_the_seed_decides_which_samples_but_not_how_they_look():
    first, again, other = (shapes.samples("test", 500, seed) for seed in (0, 0, 1))
    assert first == again
    assert [s.id for s in first] != [s.id for s in other]
    looks = {s.id: s.image.tobytes() for s in first}
    shared = [s for s in other if s.id in looks]
    assert shared and all(looks[s.id] == s.image.tobytes() for s in shared)


def test_beyond_the_scenes_they_come_again_in_other_drawings():
    n = len(shapes.scenes("test")) + 300
    samples = shapes.samples("test", n)
    assert len({s.id for s in samples}) == len({s.image.tobytes() for s in samples}) == n
    assert len({s.texts for s in samples}) == len(shapes.scenes("test"))


def test_a_run_draws_one_by_one_and_no_more_than_it_can_use(monkeypatch):
    assert list(shapes.candidates("validation", 300, 3)) == shapes.samples("validation", 300, 3)
    drawn = []
    monkeypatch.setattr(shapes, "sample", lambda split, number: drawn.append(number))
    pictures = shapes.candidates("test", 10_000_000, 0)
    next(pictures)
    assert len(drawn) == 1
    assert 1 + sum(1 for _ in pictures) == len(set(drawn)) == 4 * len(shapes.scenes("test"))


def test_the_drawing_of_a_known_sample_never_changes():
    scene = Scene(Thing("small", "red", "circle"), "left of", Thing("large", "blue", "square"))
    assert scene.captions == (
        "a small red circle left of a large blue square",
        "a large blue square right of a small red circle",
        "a small red circle with a large blue square to its right",
        "a large blue square with a small red circle to its left",
    )
    pixels = np.asarray(shapes.draw(scene, random.Random("known")))
    assert pixels.shape == (32, 32, 3)
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "3c9ab898c5a3592b"


def test_objects_lie_where_the_caption_says():
    seen = 0
    for sample in shapes.samples("validation", 300):
        first, relation, second = re.fullmatch(r"(.+) (left of|above) (.+)", sample.texts[0]).groups()
        one, other = (cover(sample.image, thing.split()[2]) for thing in (first, second))
        if first.split()[2] == second.split()[2]:
            continue
        axis = 1 if relation == "left of" else 0
        assert one.sum() > 5 and other.sum() > 5, sample.texts[0]
        assert np.argwhere(one)[:, axis].mean() + 8 < np.argwhere(other)[:, axis].mean(), sample.texts[0]
        seen += 1
    assert seen > 200


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_large_objects_cover_more_than_small_ones(shape):
    scene = Scene(Thing("small", "green", shape), "above", Thing("large", "yellow", shape))
    image = shapes.draw(scene, random.Random(0))
    assert cover(image, "yellow").sum() > 1.7 * cover(image, "green").sum() > 10


def test_an_unknown_split_or_number_is_refused():
    with pytest.raises(UsageError, match=r"no split 'valid'.*train, validation, test; did you mean 'validation'"):
        shapes.samples("valid")
    with pytest.raises(UsageError, match="0 samples requested"):
        shapes.samples("test", 0)
