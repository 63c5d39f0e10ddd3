"""CLIP: two towers that meet only in a similarity. The text of a sample is its first one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from idvl.data.samples import Sample
from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.forward import call, on_device, unlabelled
from idvl.models.generation import Generation
from idvl.models.inputs import longest_text, process
from idvl.models.losses import Gather, Objective, contrastive
from idvl.models.skills import pictures, sentences, unit


def token_mask(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of the text tower; all tokens of the vision tower count."""
    return inputs["attention_mask"].bool() if layer_name.startswith("text_model.") else None


def loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """The symmetric contrastive loss, its temperature learnt, over the pairs of all processes."""
    output = call(model, unlabelled(inputs))
    return contrastive(output.image_embeds, output.text_embeds, model.logit_scale.exp(), gather)


def training_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """Inputs of n pairs; the label of each is its own place."""
    return {**process(processor, samples, text_length), "labels": torch.arange(len(samples))}


@torch.no_grad()
def embed_images(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The projected embeddings of images."""
    return unit(loaded.model.get_image_features(**on_device(loaded.model, inputs)).pooler_output)


@torch.no_grad()
def embed_texts(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The projected embeddings of texts."""
    return unit(loaded.model.get_text_features(**on_device(loaded.model, inputs)).pooler_output)


FAMILY = Family(
    model_types=("clip",),
    classes=("CLIPModel",),
    needs=("image", "text"),
    blocks=r"(text_model|vision_model)\.encoder\.layers\.\d+",
    modalities=(
        (r"^vision_model\.encoder\.layers\.", "vision"),
        (r"^text_model\.encoder\.layers\.", "language"),
    ),
    reads_image=None,
    inputs=process,
    text_length=longest_text,
    token_mask=token_mask,
    training_task=TrainingTask(loss=loss, inputs=training_inputs, contrastive=True, least_batch=2),
    skills={
        "embed_images": Skill(prepare=pictures, perform=embed_images),
        "embed_texts": Skill(prepare=sentences, perform=embed_texts),
    },
)
