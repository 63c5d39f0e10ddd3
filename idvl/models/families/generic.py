"""Any other transformers model with a processor: what it reads, and which layers are which, is guessed and said so.

Guesses rest on the names of modules and on the modalities that the model's class declares. Where a text sits among a
layer's tokens is not guessed but tried: changing the tokens at padded positions must change those positions alone.
Models that write text, or classify images, are trained with the loss that they compute by themselves, models that
compare images with texts with the contrastive one. What they write goes on from a prompt padded on the left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from idvl.errors import UsageError
from idvl.models.contrastive import compares, embed_images, embed_texts, pair_inputs
from idvl.models.contrastive import loss as pair_loss
from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.forward import call_in_order, has_encoder
from idvl.models.inputs import longest_text, process
from idvl.models.labels import class_inputs, no_class_reason, text_inputs
from idvl.models.layers import find_layers
from idvl.models.losses import own_loss
from idvl.models.masked_words import masked_inputs
from idvl.models.naming import BLOCK, CROSS_KEY_OR_VALUE, modalities_of
from idvl.models.probes import square_side
from idvl.models.processors import tokenizer_of
from idvl.models.reading import SUFFIXED, image_id
from idvl.models.skills import logits, pictures, sentences
from idvl.models.text_positions import images_at, marked_layers, mask_at, mask_by_length, text_offsets
from idvl.models.wording import Wording
from idvl.models.writers import BARE, fit_wording, writing_skills, writing_task


def for_config(config: Any) -> Family:
    """The generic family for what the model's class declares to read. Raises UsageError for neither image nor text."""
    cls = FAMILY.model_class(config)
    reads = getattr(cls, "input_modalities", None) or ("text",)
    reads = (reads,) if isinstance(reads, str) else tuple(reads)
    needs = tuple(kind for kind in ("image", "text") if kind in reads)
    if not needs:
        raise UsageError(f"a {config.model_type} model reads {', '.join(reads)}; idvl measures those of image and text")
    return replace(
        FAMILY,
        needs=needs,
        modalities=modalities_of(needs, writes=len(needs) == 2 and cls.can_generate()),
        reads_image=CROSS_KEY_OR_VALUE if len(needs) == 2 else None,
        inputs=partial(process, needs=needs),
        text_length=longest_text if "text" in needs else lambda processor, samples: 0,
        training_task=_training_task(config, {"needs": needs}),
        skills=_skills(config, {"needs": needs}, Wording()),
        notes=(
            f"{config.model_type} is not an architecture that idvl knows: that it reads {' and '.join(needs)}, "
            "and the modality of each layer, are guessed from names",
        ),
    )


def fit(family: Family, model: nn.Module, processor: Any) -> Family:
    """The family with the checkpoint's wording, one shape of images, and the text's positions in each layer."""
    if family.needs == ("image", "text"):
        family = _reading(family, model, processor)
    else:
        family = _single(family, model, processor)
    if "text" not in family.needs:
        return family
    offsets, faults = text_offsets(family, model, processor)
    marked = marked_layers(find_layers(model, family), offsets, image_id(model.config))
    return replace(
        family,
        token_mask=partial(mask_at, offsets),
        image_tokens=partial(images_at, offsets, marked),
        notes=(*family.notes, *faults),
    )


def _reading(family: Family, model: nn.Module, processor: Any) -> Family:
    """The family of a model of images and texts, whose processor is given one sample at a time."""
    family, wording = fit_wording(family, model, processor)
    prompts = SUFFIXED if wording.suffix else BARE
    # Florence-2 is asked for a caption
    if caption := getattr(processor, "task_prompts_without_inputs", {}).get("<CAPTION>"):
        prompts = {**prompts, "caption": caption}
    how: dict[str, Any] = {"needs": family.needs}
    return replace(
        family,
        training_task=_training_task(model.config, how, wording=wording, prompts=prompts),
        skills=_skills(model.config, how, wording, prompts),
    )


def _single(family: Family, model: nn.Module, processor: Any) -> Family:
    """The family of a model of images alone, resized to one shape, or of texts alone."""
    how: dict[str, Any] = {"needs": family.needs}
    notes = list(family.notes)
    if "image" in family.needs and (side := square_side(processor)):
        how["square"] = side
        notes.append(f"the processor's sizes vary with the image: images are resized to {side} x {side} pixels first")
    tokenizer = tokenizer_of(processor)
    end = "" if tokenizer is None or _ends(tokenizer) else tokenizer.eos_token or ""
    return replace(
        family,
        chat_template=False,
        inputs=partial(process, **how),
        training_task=_training_task(model.config, how, end=end),
        skills=_skills(model.config, how, Wording()),
        notes=tuple(notes),
    )


def _ends(tokenizer: Any) -> bool:
    """Whether a tokenizer puts an end behind a text."""
    return tokenizer("a")["input_ids"][-1] in tokenizer.all_special_ids


def _training_task(
    config: Any,
    how: Mapping[str, Any],
    *,
    wording: Wording | None = None,
    prompts: Mapping[str, str] = BARE,
    end: str = "",
) -> TrainingTask | None:
    """How a class that compares images with texts, writes or classifies images is trained; None for any other.

    `how`: as in `process`. `wording` and `prompts` put texts to a model of images and texts; `end` ends a text of a
    model of texts.
    """
    from transformers.models.auto import modeling_auto as auto

    cls = FAMILY.model_class(config)
    name = cls.__name__
    if compares(cls, config.model_type):
        inputs = partial(pair_inputs, **how)
        return TrainingTask(loss=pair_loss, inputs=inputs, contrastive=True, least_batch=2, partial=True)
    writers = (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    if has_encoder(config):
        apart = (auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
        if any(name in names.values() for names in apart):
            return writing_task(wording, prompts, encodes=True)
    elif any(name in names.values() for names in writers):
        if wording:
            return writing_task(wording, prompts, encodes=False)
        return TrainingTask(loss=own_loss, inputs=partial(text_inputs, end=end, **how), partial=True)
    if how["needs"] == ("text",) and name in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values():
        return TrainingTask(loss=own_loss, inputs=partial(masked_inputs, **how), partial=True)
    if _classifies(name):
        inputs = partial(class_inputs, **how)
        return TrainingTask(loss=own_loss, inputs=inputs, unusable_reason=no_class_reason, partial=True)
    return None


def _skills(
    config: Any, how: Mapping[str, Any], wording: Wording, prompts: Mapping[str, str] = BARE
) -> dict[str, Skill]:
    """Text about images from a class that can generate, classes from a classifier, embeddings from two towers.

    `how`: as in `process`.
    """
    cls = FAMILY.model_class(config)
    if _classifies(cls.__name__):
        return {"classify": Skill(prepare=partial(pictures, square=how.get("square")), perform=logits)}
    if compares(cls, config.model_type):
        return {
            "embed_images": Skill(prepare=partial(pictures, square=how.get("square")), perform=embed_images),
            "embed_texts": Skill(prepare=sentences, perform=embed_texts),
        }
    if len(how["needs"]) < 2 or not cls.can_generate():
        return {}
    return writing_skills(wording, prompts, encodes=has_encoder(config))


def _classifies(name: str) -> bool:
    """Whether transformers lists the class of this name as a classifier of images."""
    from transformers.models.auto import modeling_auto as auto

    return any(name in names for names in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values())


FAMILY = Family(
    model_types=(),
    classes=(),
    needs=("image", "text"),
    blocks=BLOCK,
    modalities=(),
    reads_image=None,
    inputs=process,
    text_length=longest_text,
    token_mask=mask_by_length,
    call=call_in_order,
    guessed=True,
    for_config=for_config,
    fit=fit,
)
