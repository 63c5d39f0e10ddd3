"""LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision, VipLLaVA, and Pixtral, which is a LLaVA of transformers.

The text of a sample is its first one. Blocks of the tower behind the last state that the connector reads, such as the
last block of LLaVA-1.5's, run for nothing: they are measured, but in no scope. Not prunable: embeddings, the
convolution of patches, the embedding that ends a row of tiles, the pooling head of a SigLIP tower, the head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from idvl.models import decoders
from idvl.models.decoders import decoder_family
from idvl.models.families.base import Family

# response formatting of LLaVA-1.5 (Liu et al. 2023, Table 7)
PROMPTS = {
    "caption": "Provide a one-sentence caption for the provided image.",
    "answer": "{}\nAnswer the question using a single word or phrase.",
}


def for_config(config: Any) -> Family:
    """The connector reads the tower before its last block, or earlier: what is behind that goes nowhere."""
    chosen, blocks = config.vision_feature_layer, getattr(config.vision_config, "num_hidden_layers", 0)
    # of the states before the first block and behind each, negative numbers from the end
    states = [number % (blocks + 1) for number in ([chosen] if isinstance(chosen, int) else chosen)]
    behind = "|".join(str(block) for block in range(max(states), blocks))
    return replace(FAMILY, unread=rf"^model\.vision_tower\..*\.({behind})\." if behind else None)


def fit(family: Family, model: nn.Module, processor: Any) -> Family:
    """The family of a checkpoint; processors of older ones do not say how many tokens an image has."""
    if getattr(processor, "patch_size", 0) is None:
        tower = model.config.vision_config
        processor.patch_size = tower.patch_size
        processor.vision_feature_select_strategy = getattr(model.config, "vision_feature_select_strategy", "default")
        processor.num_additional_image_tokens = int(tower.model_type == "clip_vision_model")  # its class token
        note = "the processor does not say how many tokens an image has: taken from config.json"
        family = replace(family, notes=(*family.notes, note))
    return decoders.fit(family, model, processor, prompts=PROMPTS)


FAMILY = replace(
    decoder_family(
        PROMPTS,
        model_types=("llava", "llava_next", "llava_onevision", "vipllava"),
        classes=(
            "LlavaForConditionalGeneration",
            "LlavaNextForConditionalGeneration",
            "LlavaOnevisionForConditionalGeneration",
            "VipLlavaForConditionalGeneration",
        ),
        tower="vision_tower",
        connector="multi_modal_projector",
    ),
    for_config=for_config,
    fit=fit,
)
