"""ViT: the vision transformer, bare or as a classifier of images. It reads no text, and every token counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from idvl.data.samples import Sample
from idvl.errors import UsageError
from idvl.models.families import Family, Lesson, call, unlabelled
from idvl.models.inputs import process
from idvl.models.objective import Gather, Objective, over_labels
from idvl.models.skills import Skill, logits, pictures


def loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """Cross-entropy of the classes."""
    scores = getattr(call(model, unlabelled(inputs)), "logits", None)
    if scores is None:
        raise UsageError(f"{type(model).__name__} has no classifier to train: load a ViTForImageClassification")
    return over_labels(scores, inputs["labels"])


def training_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """pixel_values (n, 3, side, side) and labels (n,)."""
    labels = torch.tensor([sample.label for sample in samples])
    return {**process(processor, samples, text_length, needs=("image",)), "labels": labels}


def lacks(sample: Sample, config: Any) -> str | None:
    """A label among the model's classes."""
    if sample.label is None:
        return "it has no label; choose a dataset of labelled images"
    if not 0 <= sample.label < config.num_labels:
        return f"its label is {sample.label}, but the model's classes are 0 to {config.num_labels - 1}: add --new-head"
    return None


def for_config(config: Any) -> Family:
    """The bare encoder has no loss, and nothing to classify with."""
    return replace(FAMILY, lesson=None, skills={}) if "ViTModel" in (config.architectures or ()) else FAMILY


FAMILY = Family(
    model_types=("vit",),
    classes=("ViTForImageClassification", "ViTModel"),
    needs=("image",),
    blocks=r"(vit\.)?layers\.\d+",
    modalities=((r"^(vit\.)?layers\.\d+\.", "vision"),),
    reads_image=None,
    inputs=partial(process, needs=("image",)),
    text_length=lambda processor, samples: 0,
    token_mask=lambda layer_name, n_tokens, inputs: None,
    lesson=Lesson(loss=loss, inputs=training_inputs, lacks=lacks),
    skills={"classify": Skill(prepare=pictures, perform=logits)},
    for_config=for_config,
)
