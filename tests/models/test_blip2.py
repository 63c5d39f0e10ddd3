"""BLIP-2 and InstructBLIP as their authors use them: inputs, losses and texts are those of plain transformers."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from idvl.models.generation import Generation
from idvl.models.loading import wrap
from tests.coverage.architectures import architectures, audible
from tests.support import tiny

CAPTIONED = tiny.samples(4)
GREEDY = Generation(prompt="{}", beams=1, min_length=1, max_length=6)


@pytest.fixture(scope="module")
def get():
    """An architecture of `make coverage` by name, with weights so large that it tells one question from another."""

    @functools.cache
    def build(name):
        torch.manual_seed(0)
        model, processor = architectures()[name].make()
        audible(model)
        return wrap(model.eval(), processor)

    return build


def answer(loaded, samples, settings=GREEDY):
    skill = loaded.family.skills["answer"]
    return skill.perform(loaded, skill.prepare(loaded, samples, settings), settings)


@pytest.mark.parametrize("name", ["instructblip_vicuna", "instructblip_t5", "blip2_opt", "blip2_t5"])
def test_answers_are_those_of_generate_for_one_question_alone(get, name):
    loaded = get(name)
    plain = []
    for sample in CAPTIONED:
        inputs = loaded.processor(images=sample.image, text=sample.texts[0], return_tensors="pt")
        written = loaded.model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=6, min_new_tokens=1)[0]
        begun = 0 if name.endswith("t5") else inputs["input_ids"].shape[1]
        plain.append(loaded.processor.tokenizer.decode(written[begun:], skip_special_tokens=True).strip())
    assert answer(loaded, CAPTIONED) == plain
