"""SmolVLM, Idefics2 and Idefics3: tiles of an image, or the image at its own shape, before a small language model.

The text of a sample is its first one. Pixels that fill up a smaller image of a batch are padding of the tower, which
the model masks by patches. The resampler of Idefics2 is part of the connector. Not prunable: embeddings, the
convolution of patches, the head.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from idvl.models.decoders import decoder_family
from idvl.models.decoders import token_mask as text_mask
from idvl.models.families.base import Family

# of a caption that of the model cards, of an answer that of the authors' evaluation in VLMEvalKit
PROMPTS = {"caption": "Can you describe this image?", "answer": "{}\nGive a very brief answer."}


def token_mask(layer: str, n_tokens: int, inputs: dict[str, Tensor], *, patch: int) -> Tensor | None:
    """Real tokens of the text, and patches of the image in the tower and at the connector's entry."""
    if (mask := text_mask(layer, n_tokens, inputs)) is not None or "pixel_attention_mask" not in inputs:
        return mask
    # pixels are filled up behind the last row and column: a patch is real if its last pixel is
    real = inputs["pixel_attention_mask"][:, :, patch - 1 :: patch, patch - 1 :: patch].flatten(2).bool()
    images, patches = real.shape[1:]
    latents = n_tokens // images - patches if re.search(r"resampler.*\.[kv]_proj$", layer) else 0
    if n_tokens != images * (patches + latents) or real.all():
        return None
    return F.pad(real, (0, latents), value=True).flatten(1)


def for_config(config: Any) -> Family:
    """The tower has its own size of patches."""
    return replace(FAMILY, token_mask=partial(token_mask, patch=config.vision_config.patch_size))


FAMILY = replace(
    decoder_family(
        PROMPTS,
        model_types=("smolvlm", "idefics2", "idefics3"),
        classes=(
            "SmolVLMForConditionalGeneration",
            "Idefics2ForConditionalGeneration",
            "Idefics3ForConditionalGeneration",
        ),
        tower="vision_model",
        connector="connector",
    ),
    for_config=for_config,
)
