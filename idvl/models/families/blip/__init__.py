"""BLIP: captioning, question answering and image-text matching.

The text of a sample is its first one. Captioning reads it as a given caption; matching reads it beside the image.
Question answering reads it as the question, and the sample's first answer, or the question again where there is none,
as the answer. As in BLIP's training, what is written starts with [DEC] and what is read beside an image with [ENC].

In training, captioning learns each next token of the caption, answering of the answer; matching learns to tell an
image's own text from that of the sample before it in the batch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.families.blip.forward import answering_call, started_call
from idvl.models.families.blip.inputs import PROMPT, answering_inputs, answering_length, inputs, token_mask
from idvl.models.families.blip.skills import answer, caption, captions, embed_images, embed_texts, match, pairs, prompts
from idvl.models.families.blip.training import (
    answering_loss,
    captioning_inputs,
    captioning_loss,
    learning_inputs,
    matching_inputs,
    matching_loss,
    unusable_reason,
)
from idvl.models.generation import QUESTION
from idvl.models.inputs import longest_text
from idvl.models.skills import pictures

# a block that runs again in the backward pass would not find the questions' mask
ANSWERING = TrainingTask(
    loss=answering_loss, inputs=learning_inputs, unusable_reason=unusable_reason, checkpointing=False
)
MATCHING = TrainingTask(loss=matching_loss, inputs=matching_inputs, least_batch=2, partial=True)
RETRIEVAL = {
    "embed_images": Skill(prepare=pictures, perform=embed_images),
    "embed_texts": Skill(prepare=captions, perform=embed_texts),
    "match": Skill(prepare=pairs, perform=match),
}


def for_config(config: Any) -> Family:
    """Question answering: its decoder's cross-attention reads the question, only its encoder's reads the image."""
    if "BlipForImageTextRetrieval" in (config.architectures or ()):
        return replace(FAMILY, training_task=MATCHING, skills=RETRIEVAL)
    if "BlipForQuestionAnswering" not in (config.architectures or ()):
        return FAMILY
    # the lengths of BLIP's own `generate` (models/blip_vqa.py)
    answering = Skill(prepare=partial(prompts, skill="answer"), perform=answer, prompt=QUESTION, lengths=(1, 10))
    return replace(
        FAMILY,
        reads_image=r"^text_encoder\..*crossattention\.self\.(key|value)$",
        inputs=answering_inputs,
        call=answering_call,
        text_length=answering_length,
        training_task=ANSWERING,
        skills={"answer": answering},
    )


FAMILY = Family(
    model_types=("blip",),
    classes=("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"),
    needs=("image", "text"),
    blocks=r"(vision_model\.encoder\.layers|text_(de|en)coder\.(bert\.)?encoder\.layer)\.\d+",
    modalities=(
        (r"^vision_model\.encoder\.layers\.", "vision"),
        (r"\.crossattention\.", "cross"),
        (r"^text_(de|en)coder\.(bert\.)?encoder\.layer\.", "language"),
    ),
    reads_image=r"crossattention\.self\.(key|value)$",
    inputs=inputs,
    text_length=longest_text,
    token_mask=token_mask,
    call=started_call,
    training_task=TrainingTask(loss=captioning_loss, inputs=captioning_inputs),
    skills={"caption": Skill(prepare=partial(prompts, skill="caption"), perform=caption, prompt=PROMPT)},
    for_config=for_config,
)
