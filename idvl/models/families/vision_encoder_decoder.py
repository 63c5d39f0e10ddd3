"""A picture's encoder and a decoder that writes about it: TrOCR, ViT-GPT2, Donut. A sample's text is its first one.

The encoder reads the picture alone; the decoder reads the start token and the text, and learns the text and its end.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from idvl.models.encoder_decoder import longest_written, read_inputs, writing_inputs
from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.generation import write
from idvl.models.losses import own_loss
from idvl.models.naming import BLOCK, CROSS, IN_BLOCK
from idvl.models.skills import pictures

# GPT-2 makes keys and values of its cross-attention by one map
READS_IMAGE = r"(crossattention|encoder_attn)\.(.*\.)?(c_attn|key|value|k_proj|v_proj)$"


def token_mask(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of the decoder; all image tokens count, in the encoder and in keys and values of them."""
    image = layer_name.startswith("enc") or re.search(READS_IMAGE, layer_name)
    return None if image else inputs["decoder_attention_mask"].bool()


def for_config(config: Any) -> Family:
    """The decoder begins with the configuration's start token."""
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None or pad is None:  # one that was never trained to write
        return replace(FAMILY, training_task=None, skills={})
    return replace(FAMILY, inputs=partial(read_inputs, start=start, pad=pad))


FAMILY = Family(
    model_types=("vision-encoder-decoder",),
    classes=("VisionEncoderDecoderModel",),
    needs=("image", "text"),
    blocks=rf"(en|de)coder\.{BLOCK}",
    modalities=(
        (rf"(?={IN_BLOCK})encoder\.", "vision"),
        (r"^enc_to_dec_proj$", "connector"),
        (rf"{IN_BLOCK}.*{CROSS}", "cross"),
        (rf"(?={IN_BLOCK})decoder\.", "language"),
    ),
    reads_image=READS_IMAGE,
    inputs=partial(read_inputs, start=0, pad=0),
    text_length=longest_written,
    token_mask=token_mask,
    training_task=TrainingTask(loss=own_loss, inputs=writing_inputs, partial=True),
    skills={
        "caption": Skill(
            prepare=pictures,
            perform=partial(write, skill="caption", encodes=True),
            unread=frozenset({"prompt"}),
        )
    },
    for_config=for_config,
)
