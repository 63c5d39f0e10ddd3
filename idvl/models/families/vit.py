"""ViT: the vision transformer, bare or as a classifier of images. It reads no text, and every token counts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from idvl.errors import UsageError
from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.forward import call, unlabelled
from idvl.models.inputs import process
from idvl.models.labels import class_inputs, no_class_reason
from idvl.models.losses import Gather, Objective, over_labels
from idvl.models.skills import logits, pictures


def loss(
    model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None, label_smoothing: float | None = None
) -> Objective:
    """Cross-entropy of the classes."""
    scores = getattr(call(model, unlabelled(inputs)), "logits", None)
    if scores is None:
        raise UsageError(f"{type(model).__name__} has no classifier to train: load a ViTForImageClassification")
    return over_labels(scores, inputs["labels"], label_smoothing=label_smoothing or 0.0)


def for_config(config: Any) -> Family:
    """The bare encoder has no loss, and nothing to classify with."""
    return replace(FAMILY, training_task=None, skills={}) if "ViTModel" in (config.architectures or ()) else FAMILY


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
    training_task=TrainingTask(loss=loss, inputs=class_inputs, unusable_reason=no_class_reason, smooths=True),
    skills={"classify": Skill(prepare=pictures, perform=logits)},
    for_config=for_config,
)
