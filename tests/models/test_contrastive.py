"""Models that compare images with texts: loss and embeddings are those of plain transformers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from idvl.models.contrastive import compares
from idvl.models.families import family_of
from idvl.models.generation import Generation
from idvl.models.losses import sigmoid_pairs
from tests.coverage.architectures import architectures
from tests.support import tiny

# words that differ in case, which SigLIP does not see
TEXTS = ["a red star", "the large Blue circle", "two green squares above a small star", "near"]
SAMPLES = [dataclasses.replace(one, texts=(text,)) for one, text in zip(tiny.samples(4), TEXTS, strict=True)]
FAMILY_OF = {"clip": "clip", "siglip": "siglip", "siglip2": "siglip"}
NAMES = ["clip", "siglip", "siglip2", "altclip", "chinese_clip", "metaclip2", "vision_text_dual", "align", "groupvit"]


def learn(loaded, samples):
    length = loaded.family.text_length(loaded.processor, samples)
    inputs = loaded.family.training_task.inputs(loaded.processor, samples, length, loaded.model.config)
    assert inputs["labels"].tolist() == list(range(len(samples)))
    return loaded.family.training_task.loss(loaded.model, inputs, None)


def plain(loaded, name):
    """The inputs of a training script, as the authors document it."""
    texts = [text.lower() for text in TEXTS] if "siglip" in name else TEXTS
    padding = {"padding": "max_length", "truncation": True} if "siglip" in name else {"padding": True}
    return dict(loaded.processor(images=[one.source for one in SAMPLES], text=texts, return_tensors="pt", **padding))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_transformers(get, name):
    loaded = get(name)
    assert loaded.family.key == FAMILY_OF.get(name, "generic")
    total, count, _ = learn(loaded, SAMPLES)
    theirs = loaded.model(**plain(loaded, name), return_loss=True)
    assert count == 4
    torch.testing.assert_close(total / count, theirs.loss)
    gradients = torch.autograd.grad(total / count, list(loaded.model.parameters()), allow_unused=True)
    expected = torch.autograd.grad(theirs.loss, list(loaded.model.parameters()), allow_unused=True)
    for one, other in zip(gradients, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", [*NAMES, "flava", "flava_pretraining"])
def test_embeddings_are_those_of_transformers_whatever_the_batch(get, name):
    loaded = get(name)
    items = {"embed_images": SAMPLES, "embed_texts": TEXTS}
    found = {}
    for kind, some in items.items():
        skill = loaded.family.skills[kind]
        batches = [skill.prepare(loaded, part, Generation()) for part in (some[:3], some[3:])]
        found[kind] = torch.cat([skill.perform(loaded, batch, Generation()) for batch in batches])
    if name.startswith("flava"):
        flava = getattr(loaded.model, "flava", loaded.model)
        output = flava(**plain(loaded, name))
        images, texts = output.image_embeddings[:, 0], output.text_embeddings[:, 0]
        projected = flava.image_projection(images), flava.text_projection(texts)
        expected = tuple(F.normalize(one, dim=-1) for one in projected)
    else:
        output = loaded.model(**plain(loaded, name))
        expected = output.image_embeds, output.text_embeds
    torch.testing.assert_close(tuple(found.values()), expected, atol=1e-5, rtol=1e-5)


def test_flavas_loss_is_the_contrastive_one_of_its_pretraining(get):
    loaded = get("flava_pretraining")
    total, count, _ = learn(loaded, SAMPLES)
    masks = {"return_codebook_pixels": True, "return_image_mask": True}
    inputs = loaded.processor(
        images=[one.source for one in SAMPLES], text=TEXTS, padding=True, return_tensors="pt", **masks
    )
    theirs = loaded.model(**inputs, return_loss=True).loss_info.global_contrastive
    torch.testing.assert_close(total / count, theirs)


def test_processes_that_share_pairs_have_one_sigmoid_loss():
    torch.manual_seed(0)
    images, texts = (F.normalize(torch.randn(6, 4), dim=-1) for _ in range(2))
    scale, bias = torch.tensor(3.0), torch.tensor(-2.0)
    whole = sigmoid_pairs(images, texts, scale, bias)
    parts = [
        sigmoid_pairs(images[start : start + 3], texts[start : start + 3], scale, bias, lambda _, at=start: (texts, at))
        for start in (0, 3)
    ]
    torch.testing.assert_close(parts[0].total + parts[1].total, whole.total)
    assert whole.count == 6


def test_an_image_of_variable_resolution_keeps_its_shape_in_training(get):
    """And padded patches change nothing."""
    loaded = get("siglip2")
    wide = dataclasses.replace(SAMPLES[0], source=SAMPLES[0].source.resize((96, 32)))
    inputs = loaded.family.training_task.inputs(loaded.processor, [wide, SAMPLES[1]], 64, loaded.model.config)
    height, width = inputs["spatial_shapes"][0].tolist()
    assert width > 2 * height
    measured = loaded.family.inputs(loaded.processor, [wide, SAMPLES[1]], 64)
    assert measured["spatial_shapes"].tolist() == [[16, 16]] * 2
    mask = loaded.family.token_mask("vision_model.encoder.layers.0.mlp.fc1", 256, inputs)
    assert mask.sum(1).tolist() == inputs["spatial_shapes"].prod(1).tolist()


def test_detectors_are_not_taken_for_models_of_pairs(get):
    model, _ = architectures()["owlvit"].make()
    assert not compares(type(model), "owlvit")
    model.config.architectures = ["OwlViTModel"]
    assert family_of(model.config).training_task is None and not family_of(model.config).skills
