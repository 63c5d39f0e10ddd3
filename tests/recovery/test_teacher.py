"""Teachers that read, or do not read, what the pruned model's processor prepares of an image."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from idvl.errors import UsageError
from idvl.models.loading import Loaded, wrap
from idvl.models.processors import image_processor_of
from idvl.recovery.teacher import check_images
from tests.support import tiny

# a kind of model, settings of the teacher's image processor, what is said
OTHER = [
    ("blip", {"size": {"height": 64, "width": 64}}, "another size .*3 x 64 x 64, not 3 x 32 x 32.*set teacher"),
    (
        "blip",
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        "other pixels .*by its image_mean, image_std.*set teach",
    ),
    ("blip", {"do_normalize": False}, "by its do_normalize"),
    ("blip", {"rescale_factor": 1 / 127.5}, "by its rescale_factor"),
    ("blip-nlvr2", {"image_std": [0.3] * 3}, "by its image_std"),
    ("clip", {"size": {"shortest_edge": 40}}, r"by its size\)"),
    ("clip", {"do_center_crop": False}, "another size .*3 x 32 x 64, not 3 x 32 x 32"),
]


def with_settings(loaded: Loaded, **settings) -> Loaded:
    """The model with a processor of other settings for images."""
    processor = copy.deepcopy(loaded.processor)
    for key, value in settings.items():
        setattr(image_processor_of(processor), key, value)
    return replace(loaded, processor=processor, name="teacher")


@pytest.mark.parametrize(("kind", "settings", "said"), OTHER)
def test_a_teacher_of_other_pixels_is_refused(kind, settings, said):
    student = wrap(*tiny.KINDS[kind]())
    with pytest.raises(UsageError, match=said):
        check_images(with_settings(student, **settings), student)


@pytest.mark.parametrize("kind", ["blip", "clip", "llava", "bert"])
def test_a_teacher_that_resamples_by_another_filter_is_taken(kind):
    student = wrap(*tiny.KINDS[kind]())
    check_images(student, student)
    if kind != "bert":
        check_images(with_settings(student, resample=2), student)
        check_images(with_settings(student, resample=0), student)


def test_a_teacher_of_other_image_tokens_is_refused():
    student, (model, processor) = wrap(*tiny.KINDS["llava"]()), tiny.KINDS["llava"]()
    processor.patch_size = 16
    with pytest.raises(UsageError, match="reads an image as 4 tokens, the pruned model as 16: set teacher"):
        check_images(wrap(model, processor), student)
