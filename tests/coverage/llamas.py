"""Llama 3.2 with pictures in cross-attention, and Llama 4."""

from __future__ import annotations

from typing import Any

import transformers

from tests.coverage import parts
from tests.coverage.architectures import architecture
from tests.coverage.parts import PATCH, SIDE, SQUARE, VISION, images

LLAMA3 = (
    "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|image|>",
)  # fmt: skip
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>")


# queries before the first cross-attention do not see the picture
@architecture("fused", "vqa", alone=r"layers\.1\.cross_attn\.q_proj$")
def mllama() -> tuple[Any, Any]:
    tokenizer = parts.fast(*HEADERS, bos="<|begin_of_text|>", eos="<|eot_id|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|image|>"]})
    image = tokenizer.convert_tokens_to_ids("<|image|>")
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1,
        "attention_heads": 2, "vision_output_dim": 64, "image_size": SIDE, "patch_size": PATCH, "max_num_tiles": 4,
        "intermediate_layers_indices": [1],
    }  # fmt: skip
    text = {**parts.language(tokenizer), "num_hidden_layers": 3, "cross_attention_layers": [1], "vocab_size": image}
    config = transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=image)
    model = transformers.MllamaForConditionalGeneration(config)
    # gates are zero at the start, and shut the picture out
    parts.noisy(*(weight for name, weight in model.named_parameters() if "gate" in name and weight.ndim == 1), std=1)
    template = parts.chat(*LLAMA3, "<|begin_of_text|>")
    return model, transformers.MllamaProcessor(images("Mllama"), tokenizer, chat_template=template)


@architecture("fused", "vqa")
def llama4() -> tuple[Any, Any]:
    special = ("<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>")
    tokenizer = parts.fast(*special, "<|tile_y_separator|>", *HEADERS, bos="<|begin_of_text|>", eos="<|eot_id|>")
    ids = tokenizer.convert_tokens_to_ids
    text = {
        **parts.language(tokenizer), "intermediate_size_mlp": 64, "head_dim": 16, "num_local_experts": 4,
        "attention_chunk_size": 512,
    }  # fmt: skip
    vision = {
        **VISION, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32,
        "intermediate_size": 128,
    }  # fmt: skip
    config = transformers.Llama4Config(
        vision_config=vision, text_config=text, image_token_index=ids("<|patch|>"),
        boi_token_index=ids("<|image_start|>"), eoi_token_index=ids("<|image_end|>"),
    )  # fmt: skip
    processor = transformers.Llama4Processor(
        transformers.Llama4ImageProcessor(size=SQUARE, max_patches=4), tokenizer, patch_size=PATCH,
        chat_template=parts.chat(*LLAMA3, "<|begin_of_text|>"),
    )  # fmt: skip
    return transformers.Llama4ForConditionalGeneration(config), processor
