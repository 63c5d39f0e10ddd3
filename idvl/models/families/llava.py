"""LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision, VipLLaVA, and Pixtral, which is a LLaVA of transformers.

The text of a sample is its first one. Not prunable: embeddings, the convolution of patches, the embedding that ends a
row of tiles, the pooling head of a SigLIP tower, the head.
"""

from __future__ import annotations

from idvl.models.decoders import decoder_family

# response formatting of LLaVA-1.5 (Liu et al. 2023, Table 7)
PROMPTS = {
    "caption": "Provide a one-sentence caption for the provided image.",
    "answer": "{}\nAnswer the question using a single word or phrase.",
}

FAMILY = decoder_family(
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
)
