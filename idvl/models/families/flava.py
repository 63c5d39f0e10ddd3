"""FLAVA: a tower for images, one for texts, and a stack that reads both. The text of a sample is its first one.

It learns from pairs by its contrastive loss, which the towers alone decide: the stack of both gets no gradient. The
class with the heads of pre-training runs without them, since they read masked inputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idvl.models.contrastive import pair_inputs
from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.forward import call as forward
from idvl.models.forward import on_device, unlabelled
from idvl.models.generation import Generation
from idvl.models.inputs import longest_text, process
from idvl.models.losses import Gather, Objective, contrastive
from idvl.models.skills import pictures, sentences, unit


def encoder(model: nn.Module) -> nn.Module:
    """The model without the heads of pre-training."""
    return getattr(model, "flava", model)


def call(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """The forward pass of all three stacks."""
    return forward(encoder(model), inputs)


def token_mask(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of the text, which comes last where it is read beside an image; all others count."""
    name = layer_name.removeprefix("flava.")
    if name.startswith("image_"):
        return None
    text = inputs["attention_mask"].bool()
    return F.pad(text, (n_tokens - text.shape[1], 0), value=True)


def image_tokens(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """All tokens before the text in the stack of both, and none in what maps the text to it."""
    if not layer_name.removeprefix("flava.").startswith(("multimodal_model.", "text_to_mm_projection")):
        return None
    text = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    return F.pad(text, (n_tokens - text.shape[1], 0), value=True)


def loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """The contrastive loss of FLAVA's pre-training, over the pairs of all processes."""
    flava = encoder(model)
    output = forward(flava, unlabelled(inputs), skip_multimodal_encoder=True)
    images = F.normalize(flava.image_projection(output.image_embeddings[:, 0]), dim=-1)
    texts = F.normalize(flava.text_projection(output.text_embeddings[:, 0]), dim=-1)
    return contrastive(images, texts, flava.logit_scale.exp(), gather)


@torch.no_grad()
def embed_images(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The projected embeddings of images."""
    flava = encoder(loaded.model)
    return unit(flava.get_image_features(**on_device(loaded.model, inputs)).pooler_output[:, 0])


@torch.no_grad()
def embed_texts(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The projected embeddings of texts."""
    flava = encoder(loaded.model)
    return unit(flava.get_text_features(**on_device(loaded.model, inputs)).pooler_output[:, 0])


FAMILY = Family(
    model_types=("flava",),
    classes=("FlavaModel", "FlavaForPreTraining"),
    needs=("image", "text"),
    blocks=r"(flava\.)?(image|text|multimodal)_model\.encoder\.layer\.\d+",
    modalities=(
        (r"^(flava\.)?image_model\.encoder\.layer\.", "vision"),
        (r"^(flava\.)?text_model\.encoder\.layer\.", "language"),
        (r"^(flava\.)?multimodal_model\.encoder\.layer\.", "fusion"),
        (r"^(flava\.)?(image|text)_to_mm_projection$", "connector"),
    ),
    reads_image=None,
    inputs=process,
    text_length=longest_text,
    token_mask=token_mask,
    image_tokens=image_tokens,
    call=call,
    training_task=TrainingTask(loss=loss, inputs=pair_inputs, contrastive=True, least_batch=2, partial=True),
    skills={
        "embed_images": Skill(prepare=pictures, perform=embed_images),
        "embed_texts": Skill(prepare=sentences, perform=embed_texts),
    },
)
