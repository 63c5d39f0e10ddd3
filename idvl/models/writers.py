"""Models that read an image with a text and write: how they learn captions and answers, and what they are asked with.

`prompts` is what stands before a "caption" and an "answer", {} the question; training and evaluation read the same. It
does not know which architectures are such.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from idvl.models.encoder_decoder import answering_inputs
from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.generation import QUESTION, stop_tokens, unknown_words, write
from idvl.models.losses import own_loss
from idvl.models.probes import follows_shape, trial_sample, wording_of
from idvl.models.reading import SHAPE, added_tokens, learning_inputs, reading_inputs, reading_length
from idvl.models.reading import prompts as prompt_inputs
from idvl.models.wording import Wording

# what a caption and an answer are asked for with where nothing is said
BARE = {"caption": "", "answer": QUESTION}


def fit_wording(family: Family, model: nn.Module, processor: Any) -> tuple[Family, Wording]:
    """The family with inputs as the checkpoint's processor makes them, and how texts are put to it."""
    wording = wording_of(processor, model.config, stop_tokens(model), chat=family.chat_template)
    shape, notes = SHAPE if follows_shape(processor, wording) else None, list(family.notes)
    if family.chat_template and wording.placeholder:
        notes.append(
            f"the processor has no chat template: texts follow {wording.placeholder} as they are; add the original "
            "model's chat_template.jinja if it follows instructions"
        )
    if shape:
        notes.append(
            "the processor's tokens follow the image's shape: for intrinsic dimensions of points of equal lengths "
            f"(estimate-id, --tokens flatten), images are resized to {shape[0]} x {shape[1]} pixels first"
        )
    added = added_tokens(processor, wording, trial_sample(), shape)
    family = replace(
        family,
        chat_template=wording.chat,
        shape=shape,
        inputs=partial(reading_inputs, wording=wording),
        text_length=partial(reading_length, wording=wording, **added),
        notes=tuple(notes),
    )
    return family, wording


def known_prompts(processor: Any, prompts: Mapping[str, str]) -> dict[str, str]:
    """Prompts whose words the tokenizer knows, bare ones in place of others."""
    return {
        name: BARE[name] if unknown_words(processor, prompt.replace(QUESTION, " ")) else prompt
        for name, prompt in prompts.items()
    }


def writing_task(wording: Wording, prompts: Mapping[str, str], *, encodes: bool) -> TrainingTask:
    """Learns the answer or the caption, and its end, by the loss that the model computes."""
    inputs = answering_inputs if encodes else learning_inputs
    return TrainingTask(loss=own_loss, inputs=partial(inputs, wording=wording, prompts=prompts), partial=True)


def writing_skills(
    wording: Wording,
    prompts: Mapping[str, str],
    *,
    encodes: bool,
    caption_lengths: tuple[int, int] = (5, 20),
    answer_lengths: tuple[int, int] = (1, 10),
) -> dict[str, Skill]:
    """Captions and answers, as the model's `generate` adds them to the prompt, which one that `encodes` reads apart."""

    def skill(name: str, lengths: tuple[int, int]) -> Skill:
        prepare = partial(prompt_inputs, skill=name, encodes=encodes, wording=wording)
        perform = partial(write, skill=name, encodes=encodes)
        return Skill(prepare=prepare, perform=perform, prompt=prompts[name], lengths=lengths)

    return {"caption": skill("caption", caption_lengths), "answer": skill("answer", answer_lengths)}
