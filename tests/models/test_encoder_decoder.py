"""Encoder-decoders learn the answer or the caption, and its end: labels and loss are those of a plain script."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from idvl.models.capture import Watch, tapped_walk
from idvl.models.inputs import encode
from idvl.models.labels import IGNORED
from idvl.models.layers import find_layers
from tests.support import tiny

CAPTIONED = tiny.samples(4)
ANSWERED = [dataclasses.replace(one, answers=("two red",)) for one in CAPTIONED[:2]]
ANSWERED += [dataclasses.replace(one, answers=("a",)) for one in CAPTIONED[2:]]
CASES = [(name, CAPTIONED) for name in ("t5", "bart", "florence2")]
CASES += [(name, ANSWERED) for name in ("t5", "florence2")]
# the words behind <CAPTION>
PROMPTS = {"florence2": "<CAPTION>"}


def plain(loaded, name, sample):
    """What the encoder reads, and the labels of the decoder, of one sample."""
    processor, tokenizer = loaded.processor, getattr(loaded.processor, "tokenizer", loaded.processor)
    answer = tokenizer(sample.answers[0] if sample.answers else sample.texts[0])["input_ids"]
    assert answer[-1] == tokenizer.eos_token_id
    asked = sample.texts[0] if sample.answers else PROMPTS.get(name, "")
    if "image" in loaded.family.needs:
        inputs = processor(images=sample.image, text=asked, return_tensors="pt")
    else:
        inputs = tokenizer(sample.texts[0], return_tensors="pt")
    return dict(inputs), torch.tensor([answer])


@pytest.mark.parametrize(("name", "samples"), CASES, ids=[f"{name}-{bool(s[0].answers)}" for name, s in CASES])
def test_labels_and_loss_are_those_of_a_plain_script(get, name, samples):
    loaded = get(name)
    task, length = loaded.family.training_task, loaded.family.text_length(loaded.processor, samples)
    inputs = task.inputs(loaded.processor, samples, length, loaded.model.config)
    total, count, _ = task.loss(loaded.model, inputs, None)
    expected, terms = 0.0, 0
    for row, sample in zip(inputs["labels"], samples, strict=True):
        given, labels = plain(loaded, name, sample)
        assert row[row != IGNORED].tolist() == labels[0].tolist()
        assert (row[labels.shape[1] :] == IGNORED).all()
        expected += loaded.model(**given, labels=labels).loss * labels.numel()
        terms += labels.numel()
    assert count == terms
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)


class Inputs(dict):
    """What enters each layer in each batch, call by call."""

    def add(self, layer, batch, tensor, real):
        self.setdefault((layer, batch), []).append(tensor.clone())


def test_blocks_of_a_walk_read_what_a_forward_pass_gives_them_bit_by_bit(get):
    """Statement 14: the first block makes the position bias of all, also where each block runs twice."""
    loaded, seen, walked = get("t5"), Inputs(), Inputs()
    layers, batches = find_layers(loaded.model, loaded.family), list(encode(loaded, CAPTIONED, batch_size=2))
    for number, batch in enumerate(batches):
        watch = Watch(layers, "input", lambda name, tensor, number=number: seen.add(name, number, tensor, None))
        with torch.no_grad(), watch:
            loaded.family.call(loaded.model, batch)
    how = {"by_block": True, "capture": "input", "token_mask": loaded.family.token_mask, "device": torch.device("cpu")}
    with torch.no_grad(), tapped_walk(loaded.model, batches, loaded.family.call, layers, **how) as (walk, tap):
        for segment in walk:
            segment.run(last=False)
            with tap.feeding(walked, layers):
                segment.run(last=True)
    assert {name for name, _ in walked} == set(layers) and walked.keys() == seen.keys()
    assert sum("block.1.layer.0.SelfAttention.o" in name for name in layers) == 2
    for place, tensors in seen.items():
        assert len(tensors) == len(walked[place]) == 1 and torch.equal(tensors[0], walked[place][0]), place
