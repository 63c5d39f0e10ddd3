"""ViLT's answers and matching, and hidden words: losses and labels are those of plain scripts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from idvl.models.generation import Generation
from idvl.models.inputs import encode
from idvl.models.labels import IGNORED
from idvl.models.layers import find_layers
from idvl.models.masked_words import masked_inputs
from idvl.models.text_positions import text_offsets
from tests.support import tiny


def learn(loaded, samples):
    task, length = loaded.family.training_task, loaded.family.text_length(loaded.processor, samples)
    inputs = task.inputs(loaded.processor, samples, length, loaded.model.config)
    return inputs, *task.loss(loaded.model, inputs, None)[:2]


def logits(loaded, sample, text):
    """Of one picture in its own shape, and one text."""
    return loaded.model(**loaded.processor(images=sample.image, text=text, return_tensors="pt")).logits


def test_an_answer_is_one_of_the_models_classes(get):
    loaded = get("vilt_vqa")
    assert loaded.family.key == "vilt"
    answers = ["Red", "blue", "nobody says so", "star"]
    samples = [dataclasses.replace(one, answers=(word,)) for one, word in zip(tiny.samples(4), answers, strict=True)]
    inputs, total, count = learn(loaded, samples)
    ids = loaded.model.config.label2id
    assert inputs["labels"].tolist() == [ids["red"], ids["blue"], IGNORED, ids["star"]] and count == 3
    expected = torch.zeros(())
    for label, sample in zip(inputs["labels"], samples, strict=True):
        if label != IGNORED:
            right = F.one_hot(label[None], len(ids)).float()
            shown = loaded.processor(images=sample.image, text=sample.texts[0], return_tensors="pt")
            expected = expected + loaded.model(**shown, labels=right).loss
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)
    skill, settings = loaded.family.skills["answer"], Generation(prompt="{}")
    found = skill.perform(loaded, skill.prepare(loaded, samples, settings), settings)
    names = loaded.model.config.id2label
    assert found == [names[int(logits(loaded, one, one.texts[0]).argmax())] for one in samples]
    assert "no answer" in loaded.family.training_task.unusable_reason(tiny.samples(1)[0], loaded.model.config)


def test_an_images_own_text_is_told_from_the_one_before(get):
    loaded = get("vilt_itm")
    samples = tiny.samples(3)
    samples = [samples[0], dataclasses.replace(samples[0], source=samples[1].source), samples[2]]
    inputs, total, count = learn(loaded, samples)
    # the second image's other text is its own
    assert inputs["labels"].tolist() == [0, IGNORED, 0] and count == 2
    expected = torch.zeros(())
    for at in (0, 2):
        texts = samples[at].texts[0], samples[at - 1].texts[0]
        scores = torch.cat([logits(loaded, samples[at], text) for text in texts], 1)
        expected = expected + F.cross_entropy(scores, torch.tensor([0]))
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vilt_itm", "bridgetower"])
def test_a_match_is_the_models_score_of_one_pair_alone(get, name):
    """Whatever the texts beside it."""
    loaded, settings = get(name), Generation()
    (sample,), texts = tiny.samples(1), [one.texts[0] for one in tiny.samples(4)]
    skill = loaded.family.skills["match"]
    scores = skill.perform(loaded, skill.prepare(loaded, [(sample, texts * 20)], settings), settings)
    torch.testing.assert_close(scores, scores[:4].repeat(20), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        expected = torch.stack([logits(loaded, sample, text)[0, -1] for text in texts])
    torch.testing.assert_close(scores[:4], expected, rtol=1e-4, atol=1e-5)


def test_bridgetowers_matching_loss_is_that_of_a_plain_script(get):
    loaded, samples = get("bridgetower"), tiny.samples(3)
    inputs, total, count = learn(loaded, samples)
    assert inputs["labels"].tolist() == [1, 1, 1, 0, 0, 0] and count == 6
    expected = torch.zeros(())
    for at in range(3):
        for label, text in ((1, samples[at].texts[0]), (0, samples[at - 1].texts[0])):
            shown = loaded.processor(samples[at].image, text, return_tensors="pt")
            expected = expected + loaded.model(**shown, labels=torch.tensor([label])).loss
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)


def test_bridgetowers_stacks_hold_the_image_or_the_text(get):
    """What padded text changes is what the masks leave out, and keys and values are of the other stack's tokens."""
    loaded = get("bridgetower")
    places, faults = text_offsets(loaded.family, loaded.model, loaded.processor)
    (batch,) = encode(loaded, tiny.samples(4), batch_size=4)
    real = batch["attention_mask"].bool()
    assert not faults and not real.all()
    for name, layer in find_layers(loaded.model, loaded.family).items():
        mask, image = (get(name, 17, batch) for get in (loaded.family.token_mask, loaded.family.image_tokens))
        assert torch.equal(mask, real) if name in places else mask is None
        assert layer.reads_image <= (mask is None)
        if layer.modality in ("cross", "fusion"):
            assert image.all() == (mask is None) and image.any() == image.all()


def test_the_loss_is_that_of_the_hidden_words(get):
    loaded = get("bert")
    samples = tiny.samples(6)
    inputs, total, count = learn(loaded, samples)
    again, *_ = learn(loaded, samples[::-1])
    expected, terms = torch.zeros(()), 0
    for row, sample in enumerate(samples):
        plain = loaded.processor(sample.texts[0], return_tensors="pt")["input_ids"]
        n = plain.shape[1]
        labels, shown = inputs["labels"][row, :n], inputs["input_ids"][row, :n]
        guessed = labels != IGNORED
        assert guessed.sum() == max(1, round(0.15 * (n - 2))) and not guessed[0] and not guessed[-1]
        assert torch.equal(labels[guessed], plain[0][guessed]) and torch.equal(shown[~guessed], plain[0][~guessed])
        assert (inputs["labels"][row, n:] == IGNORED).all()
        assert torch.equal(again["labels"][5 - row, :n], labels)
        found = loaded.model(input_ids=shown[None]).logits[0]
        expected, terms = expected + F.cross_entropy(found[guessed], labels[guessed], reduction="sum"), terms + n
    assert count == int((inputs["labels"] != IGNORED).sum())
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)


def test_of_the_hidden_words_a_tenth_are_shown_and_a_tenth_are_others(get):
    loaded = get("bert")
    words = " ".join(" ".join(sample.texts) for sample in tiny.samples(600))
    long = [dataclasses.replace(tiny.samples(1)[0], texts=(words,))]
    tokenizer, length = loaded.processor, len(words.split()) + 2
    tokenizer_limit, tokenizer.model_max_length = tokenizer.model_max_length, length
    inputs = masked_inputs(tokenizer, long, length, loaded.model.config, needs=("text",))
    tokenizer.model_max_length = tokenizer_limit
    guessed = inputs["labels"] != IGNORED
    shown, were = inputs["input_ids"][guessed], inputs["labels"][guessed]
    assert len(shown) == round(0.15 * (length - 2))
    assert float((shown == tokenizer.mask_token_id).float().mean()) == pytest.approx(0.8, abs=0.06)
    assert float((shown == were).float().mean()) == pytest.approx(0.1, abs=0.04)
