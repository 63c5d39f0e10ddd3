"""LFM2-VL: tiles of an image, or the image at its own shape, before a language model of convolutions and attention.

The text of a sample is its first one. Patches that fill up an image are padding, and so are the connector's places for
them, which read the first patch of the batch. Not prunable: embeddings, that of patches included, convolutions, the
head.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from idvl.models.decoders import decoder_family
from idvl.models.decoders import token_mask as text_mask
from idvl.models.families.base import Family
from idvl.models.joining import SHARES

# of a caption that of the model cards; they have none for short answers
PROMPTS = {"caption": "What is in this image?", "answer": "{}"}


def token_mask(layer: str, n_tokens: int, inputs: dict[str, Tensor], *, factor: int) -> Tensor:
    """Real tokens of the text, patches of the images, the connector's places for squares of `factor` patches a side."""
    if (mask := text_mask(layer, n_tokens, inputs)) is not None:
        return mask
    real = inputs["pixel_attention_mask"].bool()  # (images of all samples, patches)
    if layer.startswith("model.multi_modal_projector."):
        places = torch.arange(real.shape[1] // factor**2, device=real.device)
        real = places < (inputs["spatial_shapes"] // factor).prod(-1, keepdim=True)
    images = inputs[SHARES] * len(real) // inputs[SHARES].sum()
    return pad_sequence([part.flatten() for part in real.split(images.tolist())], batch_first=True)


def for_config(config: Any) -> Family:
    """The connector has its own factor."""
    return replace(FAMILY, token_mask=partial(token_mask, factor=config.downsample_factor))


FAMILY = replace(
    decoder_family(
        PROMPTS,
        model_types=("lfm2_vl",),
        classes=("Lfm2VlForConditionalGeneration",),
        tower="vision_tower",
        connector="multi_modal_projector",
    ),
    for_config=for_config,
)
