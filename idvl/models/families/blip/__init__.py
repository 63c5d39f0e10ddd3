"""BLIP: captioning, question answering, image-text matching, and whether a sentence is true of two images.

The text of a sample is its first one. Captioning reads it behind the prompt, as a given caption; matching reads it
beside the image. Question answering reads it as the question, and the sample's first answer, or the question again
where there is none, as the answer. As in BLIP's training, captions and questions are cleaned, what is written starts
with [DEC], and what is read beside an image with [ENC].

In training, captioning learns each next token of the caption, answering of the answer; matching learns to tell an
image's own text from that of the sample before it in the batch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from idvl.models import statements
from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.families.blip import pairs
from idvl.models.families.blip.beams import check_version
from idvl.models.families.blip.forward import answering_call, started_call
from idvl.models.families.blip.inputs import (
    PROMPT,
    answering_inputs,
    answering_length,
    captioning_inputs,
    captioning_length,
    matching_inputs,
    matching_length,
    token_mask,
)
from idvl.models.families.blip.skills import (
    answer,
    candidates,
    caption,
    captions,
    embed_images,
    embed_texts,
    match,
    prompts,
)
from idvl.models.families.blip.training import (
    answering_labels,
    answering_loss,
    captioning_labels,
    captioning_loss,
    matching_labels,
    matching_loss,
    unusable_reason,
)
from idvl.models.generation import QUESTION
from idvl.models.skills import pictures

TEXT = r"^text_(en|de)coder\."
# a block that runs again in the backward pass would not find the questions' mask
ANSWERING = TrainingTask(
    loss=answering_loss,
    inputs=answering_labels,
    unusable_reason=unusable_reason,
    smooths=True,
    text_dropout=TEXT,
    checkpointing=False,
)
CAPTIONING = TrainingTask(loss=captioning_loss, inputs=captioning_labels, smooths=True, text_dropout=TEXT)
MATCHING = TrainingTask(loss=matching_loss, inputs=matching_labels, text_dropout=TEXT, least_batch=2, partial=True)
VERIFYING = TrainingTask(
    loss=partial(statements.loss, started_call),
    inputs=pairs.training_inputs,
    unusable_reason=statements.unusable_reason,
    text_dropout=TEXT,
    swapped=pairs.swapped,
)
RETRIEVAL = {
    "embed_images": Skill(prepare=pictures, perform=embed_images),
    "embed_texts": Skill(prepare=captions, perform=embed_texts),
    "match": Skill(prepare=candidates, perform=match),
}


def for_config(config: Any) -> Family:
    """Question answering: its decoder's cross-attention reads the question, only its encoder's reads the image."""
    if "BlipForImageTextRetrieval" in (config.architectures or ()):
        reading = {"inputs": matching_inputs, "text_length": matching_length}
        return replace(FAMILY, **reading, training_task=MATCHING, skills=RETRIEVAL)
    if "BlipForImagesAndTextClassification" in (config.architectures or ()):
        reading = {"inputs": pairs.inputs, "text_length": pairs.text_length}
        skill = Skill(prepare=pairs.prepare, perform=statements.verify_statement)
        return replace(FAMILY, **reading, training_task=VERIFYING, skills={"verify_statement": skill})
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


def fit(family: Family, model: Any, processor: Any) -> Family:
    """Without `clean_texts`, texts are read as they are."""
    if family.clean_texts:
        return family
    task = replace(family.training_task, inputs=partial(family.training_task.inputs, clean=False))
    reading = {"inputs": partial(family.inputs, clean=False), "text_length": partial(family.text_length, clean=False)}
    return replace(family, **reading, training_task=task)


FAMILY = Family(
    model_types=("blip",),
    classes=(
        "BlipForConditionalGeneration",
        "BlipForQuestionAnswering",
        "BlipForImageTextRetrieval",
        "BlipForImagesAndTextClassification",
    ),
    needs=("image", "text"),
    blocks=r"(vision_model\.encoder\.layers|text_(de|en)coder\.(bert\.)?encoder\.layer)\.\d+",
    modalities=(
        (r"^vision_model\.encoder\.layers\.", "vision"),
        (r"\.crossattention\.", "cross"),
        (r"^text_(de|en)coder\.(bert\.)?encoder\.layer\.", "language"),
    ),
    reads_image=r"crossattention\.self[01]?\.(key|value)$",
    inputs=captioning_inputs,
    text_length=captioning_length,
    token_mask=token_mask,
    call=started_call,
    training_task=CAPTIONING,
    skills={
        "caption": Skill(
            prepare=partial(prompts, skill="caption"), perform=caption, prompt=PROMPT, whole_beams=check_version
        )
    },
    clean_texts=True,
    for_config=for_config,
    fit=fit,
)
