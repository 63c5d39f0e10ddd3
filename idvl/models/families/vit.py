"""ViT: the vision transformer, bare or as a classifier of images. It reads no text, and every token counts."""

from __future__ import annotations

from functools import partial

from idvl.models.families import Family
from idvl.models.inputs import process

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
)
