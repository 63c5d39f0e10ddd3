"""Which sizes of prepared images a model is loaded for."""

from __future__ import annotations

import copy

import pytest
import torch

from idvl.errors import UsageError
from idvl.models.inputs import encode
from idvl.models.loading import wrap
from idvl.models.probes import trial_sample
from idvl.models.processors import image_processor_of, prepared_picture
from tests.support import tiny

# towers of images of 32 x 32 pixels in patches of 8 x 8, whose position embeddings are not interpolated
FIXED = ("blip_caption", "blip2_opt", "git", "siglip", "vit", "llava")
# of any size: interpolated positions, relative ones, none, packed patches, tiles
FREE = ("dinov2", "beit", "swinv2", "convnext", "vilt_vqa", "qwen2_vl", "smolvlm")


def resized(processor, height, width):
    """A copy of a processor that prepares images of this size."""
    processor = copy.deepcopy(processor)
    images = image_processor_of(processor)
    images.size = {"height": height, "width": width}
    if getattr(images, "crop_size", None):
        images.crop_size = images.size
    return processor


@pytest.mark.parametrize("name", FIXED)
def test_images_of_another_size_than_the_position_embeddings_are_refused(get, name):
    loaded = get(name)
    for height, width in ((16, 16), (64, 64), (16, 64)):
        told = (
            f"images of {width} x {height} pixels, while its position embeddings are for 32 x 32; check .*_config.json"
        )
        with pytest.raises(UsageError, match=told):
            wrap(loaded.model, resized(loaded.processor, height, width))


@pytest.mark.parametrize("name", ("blip_caption", "siglip", "vit"))
def test_a_processor_that_does_not_resize_is_taken(get, name):
    loaded = get(name)
    processor = copy.deepcopy(loaded.processor)
    image_processor_of(processor).do_resize = False
    assert wrap(loaded.model, processor).name == loaded.name


@pytest.mark.parametrize("name", FREE)
def test_models_that_take_any_size_are_loaded(get, name):
    loaded = get(name)
    processor = copy.deepcopy(loaded.processor)
    images = image_processor_of(processor)
    images.size = {key: 2 * value for key, value in dict(images.size).items()}
    (trial,) = encode(wrap(loaded.model, processor), [trial_sample()], batch_size=1, fixed=False)
    with torch.no_grad():
        assert loaded.family.call(loaded.model, trial)


def test_an_image_that_is_cut_to_the_same_patches_is_taken(get):
    loaded = get("blip_caption")
    processor = resized(loaded.processor, 39, 39)
    pixels = prepared_picture(processor)["pixel_values"]
    embeddings = loaded.model.vision_model.embeddings
    torch.testing.assert_close(embeddings(pixels), embeddings(pixels[..., :32, :32]))
    assert wrap(loaded.model, processor).name == loaded.name


def test_a_model_of_two_images_is_no_exception():
    model, processor = tiny.KINDS["blip-nlvr2"]()
    with pytest.raises(UsageError, match="position embeddings are for 32 x 32"):
        wrap(model, resized(processor, 16, 16))
