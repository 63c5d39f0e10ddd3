"""InternVL, which cuts an image into tiles, as many as its shape asks for.

The text of a sample is its first one. Not prunable: embeddings, the convolution of patches, the head.
"""

from __future__ import annotations

from idvl.models.decoders import decoder_family

# as in the authors' evaluation of captions and of VQA, and in their training
PROMPTS = {
    "caption": "Provide a one-sentence caption for the provided image.",
    "answer": "{}\nAnswer the question using a single word or phrase.",
}

FAMILY = decoder_family(
    PROMPTS,
    model_types=("internvl",),
    classes=("InternVLForConditionalGeneration",),
    tower="vision_tower",
    connector="multi_modal_projector",
)
