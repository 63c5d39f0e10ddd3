"""Decoders that read a picture at its own shape, the patches of all pictures of a batch packed into one sequence."""

from __future__ import annotations

from typing import Any

import transformers

from tests.coverage import parts
from tests.coverage.architectures import architecture
from tests.coverage.parts import CHATML, PATCH, SHORT_ANSWER, SHORT_PHRASES, SIDE, VISION, WIDTH

PIXELS = {"shortest_edge": SIDE * SIDE, "longest_edge": 4 * SIDE * SIDE}
MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
MERGED = {"in_channels": 3, "patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2, "depth": 2}


def _qwen_vl(name: str, video: str, vision: dict[str, Any], **text: Any) -> tuple[Any, Any]:
    """A Qwen-VL of a generation: `name` of its classes, `vision` and `text` the settings that are its own."""
    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    ends = {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    tokenizer = parts.qwen(*MARKS, **named, **ends)
    turning = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    config = getattr(transformers, f"{name}Config")(
        text_config={**parts.language(tokenizer), "rope_parameters": turning, **text},
        vision_config={**MERGED, **vision},
        **{f"{token}_id": tokenizer.convert_tokens_to_ids(text_) for token, text_ in {**named, **ends}.items()},
        tie_word_embeddings=False,
    )
    sizes = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2, "size": PIXELS}
    image = getattr(transformers, "Qwen2VLImageProcessorPil", transformers.Qwen2VLImageProcessor)(**sizes)
    processor = getattr(transformers, f"{name.replace('Moe', '')}Processor")(
        image, tokenizer, getattr(transformers, f"{video}VideoProcessor")(**sizes),
        chat_template=parts.chat(*CHATML, "<|vision_start|><|image_pad|><|vision_end|>"),
    )  # fmt: skip
    return getattr(transformers, f"{name}ForConditionalGeneration")(config), processor


@architecture("fused", "vqa", prompt=SHORT_PHRASES)
def qwen2_vl() -> tuple[Any, Any]:
    return _qwen_vl("Qwen2VL", "Qwen2VL", {"embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2})


OUT = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}


@architecture("fused", "vqa", prompt=SHORT_PHRASES)
def qwen2_5_vl() -> tuple[Any, Any]:
    return _qwen_vl("Qwen2_5_VL", "Qwen2VL", {**OUT, "window_size": 32, "fullatt_block_indexes": [1]})


DEEP = {**OUT, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}


@architecture("fused", "vqa", prompt=SHORT_PHRASES)
def qwen3_vl() -> tuple[Any, Any]:
    return _qwen_vl("Qwen3VL", "Qwen3VL", DEEP, head_dim=16)


@architecture("fused", "vqa", prompt=SHORT_PHRASES)
def qwen3_vl_moe() -> tuple[Any, Any]:
    experts = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
    return _qwen_vl("Qwen3VLMoe", "Qwen3VL", DEEP, head_dim=16, **experts)


@architecture("fused", "vqa")
def glm4v() -> tuple[Any, Any]:
    marks = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
    tokenizer = parts.fast(
        "<|image|>", "<|video|>", *marks, image_token="<|image|>", video_token="<|video|>",
        bos="[gMASK]", eos="<|endoftext|>", pad="<pad>",
    )  # fmt: skip
    ids = dict(zip(("image_start", "image_end", "video_start", "video_end"), marks, strict=True))
    turning = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0}
    config = transformers.Glm4vConfig(
        text_config={**parts.language(tokenizer), "rope_parameters": turning},
        vision_config={**MERGED, **OUT, "image_size": SIDE},
        image_token_id=tokenizer.image_token_id, video_token_id=tokenizer.video_token_id,
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in ids.items()},
    )  # fmt: skip
    sizes = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2, "size": PIXELS}
    image = getattr(transformers, "Glm4vImageProcessorPil", transformers.Glm4vImageProcessor)(**sizes)
    processor = transformers.Glm4vProcessor(
        image, tokenizer, transformers.Glm4vVideoProcessor(**sizes),
        chat_template=parts.chat(
            "<|{role}|>\n", "", "<|assistant|>\n", "<|begin_of_image|><|image|><|end_of_image|>"
        ),
    )  # fmt: skip
    return transformers.Glm4vForConditionalGeneration(config), processor


MISTRAL = ("[INST]", "[/INST]", "", "[IMG]", "<s>")


def _pixtral(merge: int) -> tuple[Any, Any, dict[str, Any]]:
    """Tokenizer, processor, and settings that Pixtral and Mistral 3 share."""
    tokenizer = parts.fast("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]")
    cls = getattr(transformers, "PixtralImageProcessorPil", transformers.PixtralImageProcessor)
    size, patch = {"longest_edge": 2 * SIDE}, {"height": PATCH * merge, "width": PATCH * merge}
    processor = transformers.PixtralProcessor(
        cls(size=size, patch_size=patch), tokenizer, patch_size=PATCH, spatial_merge_size=merge,
        chat_template=parts.chat(*MISTRAL),
    )  # fmt: skip
    settings = {
        "vision_config": {**VISION, "image_size": 2 * SIDE, "model_type": "pixtral"},
        "text_config": {**parts.language(tokenizer), "head_dim": 16, "model_type": "mistral"},
        "image_token_index": tokenizer.convert_tokens_to_ids("[IMG]"),
    }
    return tokenizer, processor, settings


@architecture("fused", "vqa", prompt=SHORT_ANSWER)
def pixtral() -> tuple[Any, Any]:
    _, processor, settings = _pixtral(1)
    config = transformers.LlavaConfig(**settings, vision_feature_layer=-1, vision_feature_select_strategy="full")
    return transformers.LlavaForConditionalGeneration(config), processor


@architecture("fused", "vqa")
def mistral3() -> tuple[Any, Any]:
    _, processor, settings = _pixtral(2)
    return transformers.Mistral3ForConditionalGeneration(transformers.Mistral3Config(**settings)), processor


@architecture("fused", "vqa")
def lfm2_vl() -> tuple[Any, Any]:
    marks = {
        "image_token": "<image>", "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>",
        "image_thumbnail_token": "<|img_thumbnail|>",
    }  # fmt: skip
    tokenizer = parts.fast(*marks.values(), "<|im_start|>", eos="<|im_end|>", bos="<|startoftext|>", **marks)
    vision = {**WIDTH, "patch_size": PATCH, "num_patches": 64, "vision_use_head": False}
    config = transformers.Lfm2VlConfig(
        vision_config={**vision, "model_type": "siglip2_vision_model"},
        text_config={
            **parts.language(tokenizer), "model_type": "lfm2", "layer_types": ["conv", "full_attention"],
            "block_auto_adjust_ff_dim": False,
        },
        image_token_id=tokenizer.image_token_id, projector_hidden_size=64,
    )  # fmt: skip
    shown = transformers.Lfm2VlImageProcessor(
        tile_size=2 * SIDE, min_tiles=2, max_tiles=4, encoder_patch_size=PATCH, max_num_patches=64,
        min_image_tokens=4, max_image_tokens=16, do_image_splitting=True,
    )  # fmt: skip
    processor = transformers.Lfm2VlProcessor(
        shown, tokenizer, chat_template=parts.chat(*CHATML, "<image>", "<|startoftext|>")
    )
    return transformers.Lfm2VlForConditionalGeneration(config), processor
