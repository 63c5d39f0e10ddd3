"""BridgeTower, image-text matching: two towers, whose upper blocks feed a stack for the image's tokens and one for the
text's, which read each other by cross-attention. The text of a sample is its first one.

Not prunable: the attention of the vision tower, which is one fused module, the maps from towers to stacks, which run
once for each block, poolers and head.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from idvl.data.samples import Sample
from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.forward import call, unlabelled
from idvl.models.inputs import longest_text, process
from idvl.models.losses import Gather, Objective, over_labels
from idvl.models.matching import match, matched_inputs, pairs

KEY_OR_VALUE = r"\.crossattention\.self\.(key|value)$"


def reads_image(layer: str) -> bool:
    """Whether a layer's tokens are the image's: the other stack's in keys and values of cross-attention."""
    if layer.startswith("bridgetower.vision_model."):
        return True
    crossed = re.search(KEY_OR_VALUE, layer) is not None
    return crossed != layer.startswith("bridgetower.cross_modal_image_layers.")


def token_mask(layer: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of the text; all image tokens count."""
    return None if reads_image(layer) else inputs["attention_mask"].bool()


def image_tokens(layer: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """All tokens of a layer, or none, where its modality does not say which."""
    if ".cross_modal_" not in layer:
        return None
    return torch.full((len(inputs["input_ids"]), n_tokens), reads_image(layer))


def training_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """2 n pairs of n samples, with labels."""
    return matched_inputs(process(processor, samples, text_length))


def loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """Cross-entropy of the matching head (Xu et al. 2023, section 3.4)."""
    return over_labels(call(model, unlabelled(inputs)).logits, inputs["labels"])


FAMILY = Family(
    model_types=("bridgetower",),
    classes=("BridgeTowerForImageAndTextRetrieval",),
    # the other classes have the same configuration
    describes_unnamed=lambda config: False,
    needs=("image", "text"),
    blocks=r"bridgetower\.(vision_model\.visual\.transformer\.resblocks|text_model\.encoder\.layer|cross_modal_\w+)\.\d+",
    modalities=(
        (r"^bridgetower\.vision_model\.visual\.transformer\.resblocks\.\d+\.mlp\.", "vision"),
        (r"^bridgetower\.text_model\.encoder\.layer\.", "language"),
        (r"^bridgetower\.cross_modal_(image|text)_layers\.\d+\.crossattention\.", "cross"),
        (r"^bridgetower\.cross_modal_(image|text)_layers\.", "fusion"),
    ),
    reads_image=rf"^bridgetower\.cross_modal_text_layers\..*{KEY_OR_VALUE}",
    inputs=process,
    text_length=longest_text,
    token_mask=token_mask,
    image_tokens=image_tokens,
    training_task=TrainingTask(loss=loss, inputs=training_inputs, least_batch=2, partial=True),
    skills={"match": Skill(prepare=pairs, perform=match)},
)
