"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL, which read an image at its own shape, its patches packed into one sequence.

The text of a sample is its first one. The merger behind the tower is the connector, and so are those of Qwen3-VL behind
some of its blocks. Not prunable: embeddings, the convolution of patches, the experts of Qwen3-VL-MoE, the head.
"""

from __future__ import annotations

from idvl.models.decoders import decoder_family

# of a caption that of the model cards, of an answer that of the authors' evaluation in VLMEvalKit
PROMPTS = {
    "caption": "Describe this image.",
    "answer": "{}\nPlease try to answer the question with short words or phrases if possible.",
}

FAMILY = decoder_family(
    PROMPTS,
    model_types=("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"),
    classes=(
        "Qwen2VLForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
    ),
    tower="visual",
    connector=r"visual\.(merger|deepstack_merger_list)",
)
