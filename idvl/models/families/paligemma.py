"""PaliGemma, which reads image and prompt both ways and writes behind them, and Gemma 3, which reads the image so.

The text of a sample is its first one. Not prunable: embeddings, the convolution of patches, the head, and Gemma 3's
projection of the image, which is no linear layer but a bare matrix.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from idvl.models.decoders import decoder_family, fit
from idvl.models.families.base import Family
from idvl.models.reading import SUFFIXED

# of a caption that of the model card; it has none for short answers
CHAT = {"caption": "Describe this image in detail.", "answer": "{}"}


def for_config(config: Any) -> Family:
    """Gemma 3 is a chat model, with other prompts."""
    return replace(FAMILY, fit=partial(fit, prompts=CHAT)) if config.model_type == "gemma3" else FAMILY


FAMILY = replace(
    decoder_family(
        SUFFIXED,
        model_types=("paligemma", "gemma3"),
        classes=("PaliGemmaForConditionalGeneration", "Gemma3ForConditionalGeneration"),
        tower="vision_tower",
        connector="multi_modal_projector",
    ),
    for_config=for_config,
)
