"""Pix2Struct: an encoder of a picture's patches, in its own shape, and the decoder that writes about it.

The text of a sample is its first one. Patches that fill up a picture are padding. Checkpoints that read a question draw
it into the picture, which needs a font: they are not supported.
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
from idvl.models.skills import pictures

READS_IMAGE = r"encoder_decoder_attention\.attention\.(key|value)$"


def token_mask(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor:
    """Real patches in the encoder and in keys and values of them, real tokens of the decoder."""
    image = layer_name.startswith("encoder.") or re.search(READS_IMAGE, layer_name)
    return inputs["attention_mask" if image else "decoder_attention_mask"].bool()


def for_config(config: Any) -> Family:
    """The decoder begins with the configuration's start token."""
    text = config.text_config
    return replace(FAMILY, inputs=partial(read_inputs, start=text.decoder_start_token_id, pad=text.pad_token_id))


FAMILY = Family(
    model_types=("pix2struct",),
    classes=("Pix2StructForConditionalGeneration",),
    needs=("image", "text"),
    blocks=r"(encoder\.encoder|decoder)\.layer\.\d+",
    modalities=(
        (r"^encoder\.encoder\.layer\.", "vision"),
        (r"^decoder\.layer\.\d+\.encoder_decoder_attention\.", "cross"),
        (r"^decoder\.layer\.", "language"),
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
