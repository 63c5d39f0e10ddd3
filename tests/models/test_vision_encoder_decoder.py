"""TrOCR, ViT-GPT2 and Pix2Struct: inputs, labels, loss and captions are those of a plain script."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
import transformers

from idvl.errors import UsageError
from idvl.evaluation.evaluation import unread_settings
from idvl.models.generation import Generation
from idvl.models.labels import IGNORED
from idvl.models.layers import find_layers
from idvl.models.loading import load
from tests.coverage.architectures import build
from tests.support import tiny

NAMES = ["trocr", "vit_gpt2", "pix2struct"]
SAMPLES = tiny.samples(4)


@pytest.fixture(scope="module")
def get(tmp_path_factory):
    @functools.cache
    def made(name):
        return load(str(build(name, tmp_path_factory.mktemp(name))), device="cpu")

    return made


def shows(loaded):
    """What prepares a picture."""
    processor = loaded.processor
    return processor if hasattr(processor, "chat_template") else processor.image_processor


@pytest.mark.parametrize("name", NAMES)
def test_labels_and_loss_are_those_of_a_plain_script(get, name):
    loaded = get(name)
    tokenizer, images = loaded.processor.tokenizer, shows(loaded)
    task, length = loaded.family.training_task, loaded.family.text_length(loaded.processor, SAMPLES)
    inputs = task.inputs(loaded.processor, SAMPLES, length, loaded.model.config)
    total, count, _ = task.loss(loaded.model, inputs, None)
    expected, terms = torch.zeros(()), 0
    for row, sample in zip(inputs["labels"], SAMPLES, strict=True):
        answer = tokenizer(sample.texts[0])["input_ids"]
        answer = answer if answer[-1] == tokenizer.eos_token_id else [*answer, tokenizer.eos_token_id]
        assert row[row != IGNORED].tolist() == answer
        shown = images(sample.image, return_tensors="pt")
        expected = expected + loaded.model(**shown, labels=torch.tensor([answer])).loss * len(answer)
        terms += len(answer)
    assert count == terms
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_decoder_reads_what_it_is_trained_on(get, name):
    loaded = get(name)
    length = loaded.family.text_length(loaded.processor, SAMPLES)
    batch = loaded.family.inputs(loaded.processor, SAMPLES, length)
    labels = loaded.family.training_task.inputs(loaded.processor, SAMPLES, length, loaded.model.config)["labels"]
    model = loaded.model
    shift = getattr(model, "_shift_right", None) or model.prepare_decoder_input_ids_from_labels
    assert torch.equal(batch["decoder_input_ids"], shift(labels))
    assert torch.equal(batch["decoder_attention_mask"][:, 1:].bool(), labels[:, :-1] != IGNORED)
    layers = find_layers(loaded.model, loaded.family)
    kinds = {name: layer.modality for name, layer in layers.items()}
    assert all((kind == "vision") == name.startswith("encoder.") for name, kind in kinds.items())
    assert {name for name, kind in kinds.items() if kind == "cross"} == {
        name for name in layers if "crossattention" in name or "encoder_attn" in name or "encoder_decoder" in name
    }
    for name, layer in layers.items():
        image = layer.modality == "vision" or layer.reads_image
        mask = loaded.family.token_mask(name, length, batch)
        # Pix2Struct pads pictures too
        assert mask is None if image and "flattened_patches" not in batch else mask is not None
        expected = batch["attention_mask" if image else "decoder_attention_mask"] if mask is not None else None
        assert mask is None or torch.equal(mask, expected.bool())
        ends = (".c_attn", ".k_proj", ".v_proj", ".key", ".value")
        assert layer.reads_image == (layer.modality == "cross" and name.endswith(ends))


@pytest.mark.parametrize("name", NAMES)
def test_captions_are_those_of_generate(get, name):
    loaded = get(name)
    skill, settings = loaded.family.skills["caption"], Generation(beams=1, min_length=1, max_length=6)
    found = skill.perform(loaded, skill.prepare(loaded, SAMPLES, settings), settings)
    for text, sample in zip(found, SAMPLES, strict=True):
        shown = shows(loaded)(sample.image, return_tensors="pt")
        how = {"num_beams": 1, "do_sample": False, "min_new_tokens": 1, "max_new_tokens": 6}
        written = loaded.model.generate(**shown, **how)
        assert text == loaded.processor.tokenizer.decode(written[0], skip_special_tokens=True).strip()
    # nothing is put before a caption
    assert "prompt" in unread_settings(loaded, "caption") and "beams" not in unread_settings(loaded, "caption")


def test_a_tokenizer_and_an_image_processor_without_a_class_stay_as_they_were(get, tmp_path):
    loaded = get("vit_gpt2")
    loaded.processor.save_pretrained(tmp_path)
    assert type(transformers.AutoTokenizer.from_pretrained(tmp_path)).__name__ == "GPT2Tokenizer"
    assert transformers.AutoImageProcessor.from_pretrained(tmp_path).size == {"height": 32, "width": 32}


def test_a_caption_without_room_in_the_decoder_is_one_line_to_train_on_and_cut_to_measure(get):
    loaded = get("vit_gpt2")
    limit = loaded.processor.tokenizer.model_max_length
    long = [SAMPLES[0], dataclasses.replace(SAMPLES[1], texts=("a red star " * limit,))]
    length = loaded.family.text_length(loaded.processor, long)
    assert length == limit
    inputs = loaded.family.inputs(loaded.processor, long, length)
    assert inputs["decoder_input_ids"].shape == (2, limit)
    with pytest.raises(UsageError, match=f"caption of sample 'tiny-1' has .* more than the model's {limit}: remove"):
        loaded.family.training_task.inputs(loaded.processor, long, length, loaded.model.config)
    skill, settings = loaded.family.skills["caption"], Generation(beams=1, min_length=1, max_length=limit + 1)
    with pytest.raises(UsageError, match=f"a text of {limit + 1} tokens at most .* a maximal length up to {limit}"):
        skill.perform(loaded, skill.prepare(loaded, SAMPLES[:1], settings), settings)
    longest = dataclasses.replace(settings, min_length=limit, max_length=limit)
    assert skill.perform(loaded, skill.prepare(loaded, SAMPLES[:1], longest), longest)
