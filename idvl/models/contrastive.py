"""Two towers that meet only in a similarity: their loss, and the embeddings of images and texts read off.

It does not know which architectures are such.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from idvl.data.samples import Sample
from idvl.models.forward import call, on_device, unlabelled
from idvl.models.generation import Generation
from idvl.models.inputs import process
from idvl.models.losses import Gather, Objective, contrastive
from idvl.models.skills import unit

# ALIGN smooths its labels (Jia et al. 2021, section 4.3), and alone divides by a temperature
ALIGN_SMOOTHING = 0.1


def compares(cls: type, model_type: str) -> bool:
    """Whether a transformers class compares images with texts by their embeddings, and learns from pairs of both.

    Detectors do so too, but of the regions of an image.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES as DETECTORS

    embeds = hasattr(cls, "get_image_features") and hasattr(cls, "get_text_features")
    return embeds and "return_loss" in inspect.signature(cls.forward).parameters and model_type not in DETECTORS


def numbered(batch: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    """Inputs of n pairs with their labels: the label of each is its own place."""
    return {**batch, "labels": torch.arange(n)}


def pair_inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, config: Any, **how: Any
) -> dict[str, Tensor]:
    """Inputs of n pairs, numbered; `how` as in `process`."""
    return numbered(process(processor, samples, text_length, **how), len(samples))


def loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """The symmetric contrastive loss, its temperature learnt, over the pairs of all processes."""
    output = call(model, unlabelled(inputs))
    if hasattr(model, "temperature"):
        scale, smoothing = 1 / model.temperature, ALIGN_SMOOTHING
    else:
        scale, smoothing = model.logit_scale.exp(), 0.0
    return contrastive(output.image_embeds, output.text_embeds, scale, gather, label_smoothing=smoothing)


@torch.no_grad()
def embed_images(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The projected embeddings of images."""
    return _embedded(loaded.model, loaded.model.get_image_features, inputs)


@torch.no_grad()
def embed_texts(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The projected embeddings of texts."""
    return _embedded(loaded.model, loaded.model.get_text_features, inputs)


def _embedded(model: nn.Module, features: Callable[..., Any], inputs: dict[str, Tensor]) -> Tensor:
    return unit(features(**on_device(model, inputs)).pooler_output)
