"""Decoders that cut a picture into tiles, as many as its shape asks for."""

from __future__ import annotations

from typing import Any

import transformers

from tests.coverage import parts
from tests.coverage.architectures import architecture
from tests.coverage.parts import BRIEF_ANSWER, CHATML, PATCH, SHORT_ANSWER, SIDE, SQUARE, VISION, WIDTH, images
from tests.coverage.prefixed import HOW, VICUNA, llava_parts

PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
SIGLIP = {**VISION, "vision_use_head": False, "model_type": "siglip_vision_model"}


@architecture("fused", "vqa", prompt=SHORT_ANSWER)
def llava_next() -> tuple[Any, Any]:
    config, tokenizer = llava_parts("LlavaNextConfig", image_grid_pinpoints=PINPOINTS)
    shown = images("LlavaNext", size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS)
    processor = transformers.LlavaNextProcessor(shown, tokenizer, chat_template=VICUNA, **HOW)
    model = transformers.LlavaNextForConditionalGeneration(config)
    parts.noisy(model.model.image_newline)
    return model, processor


@architecture("fused", "vqa", prompt=SHORT_ANSWER)
def llava_onevision() -> tuple[Any, Any]:
    tokenizer = parts.qwen("<image>", "<video>", image_token="<image>", video_token="<video>")
    config = transformers.LlavaOnevisionConfig(
        vision_config=SIGLIP, text_config={**parts.language(tokenizer), "model_type": "qwen2"},
        image_token_index=tokenizer.image_token_id, video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=PINPOINTS, vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    shown = images("LlavaOnevision", image_grid_pinpoints=PINPOINTS)
    processor = transformers.LlavaOnevisionProcessor(
        shown, tokenizer, transformers.LlavaOnevisionVideoProcessor(size=SQUARE), num_image_tokens=16,
        vision_feature_select_strategy="full", chat_template=parts.chat(*CHATML, "<image>"),
    )  # fmt: skip
    model = transformers.LlavaOnevisionForConditionalGeneration(config)
    parts.noisy(model.model.image_newline)
    return model, processor


def _idefics(*more: str, cls: Any = parts.fast) -> Any:
    special = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *more)
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    return cls(*special, *rows)


IDEFICS = parts.chat("{role}: ", "<end_of_utterance>\n", "Assistant:", "<image>")


@architecture("fused", "vqa", prompt=BRIEF_ANSWER)
def idefics2() -> tuple[Any, Any]:
    tokenizer = _idefics()
    config = transformers.Idefics2Config(
        vision_config=VISION, text_config={**parts.language(tokenizer), "model_type": "mistral"},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        perceiver_config={
            "hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 2,
            "resampler_head_dim": 16, "num_key_value_heads": 1,
        },
    )  # fmt: skip
    shown = images("Idefics2", size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE}, do_image_splitting=False)
    processor = transformers.Idefics2Processor(shown, tokenizer, image_seq_len=4, chat_template=IDEFICS)
    return transformers.Idefics2ForConditionalGeneration(config), processor


def _tiles(name: str) -> Any:
    """Pictures up to twice a tile's side, in tiles of SIDE pixels and one of the whole."""
    edge = {"longest_edge": SIDE}
    return images(name, size={"longest_edge": 2 * SIDE}, max_image_size=edge)


@architecture("fused", "vqa", prompt=BRIEF_ANSWER)
def idefics3() -> tuple[Any, Any]:
    tokenizer = _idefics()
    config = transformers.Idefics3Config(
        vision_config=VISION, text_config={**parts.language(tokenizer), "model_type": "llama"}, scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    processor = transformers.Idefics3Processor(_tiles("Idefics3"), tokenizer, image_seq_len=4, chat_template=IDEFICS)
    return transformers.Idefics3ForConditionalGeneration(config), processor


@architecture("fused", "vqa", prompt=BRIEF_ANSWER)
def smolvlm() -> tuple[Any, Any]:
    tokenizer = _idefics(cls=parts.fast)
    config = transformers.SmolVLMConfig(
        vision_config=VISION, text_config={**parts.language(tokenizer), "model_type": "llama"}, scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    videos = transformers.SmolVLMVideoProcessor(size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE})
    processor = transformers.SmolVLMProcessor(
        _tiles("SmolVLM"), tokenizer, videos, image_seq_len=4, chat_template=IDEFICS
    )
    return transformers.SmolVLMForConditionalGeneration(config), processor


@architecture("fused", "vqa", prompt=SHORT_ANSWER)
def internvl() -> tuple[Any, Any]:
    marks = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tokenizer = parts.qwen(*marks.values(), **marks)
    config = transformers.InternVLConfig(
        vision_config={**VISION, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
        text_config={**parts.language(tokenizer), "model_type": "qwen2"},
        image_token_id=tokenizer.context_image_token_id, image_seq_length=4,
    )  # fmt: skip
    shown = images("GotOcr2", crop_to_patches=True, min_patches=1, max_patches=4)
    processor = transformers.InternVLProcessor(
        shown, tokenizer, transformers.InternVLVideoProcessor(size=SQUARE), image_seq_length=4,
        chat_template=parts.chat(*CHATML, "<IMG_CONTEXT>\n"),
    )  # fmt: skip
    return transformers.InternVLForConditionalGeneration(config), processor


@architecture("fused", "vqa")
def aya_vision() -> tuple[Any, Any]:
    special = ("<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE")
    tokenizer = parts.fast(*special, "TILE_GLOBAL", *(f"TILE_{i}" for i in range(1, 5)))
    config = transformers.AyaVisionConfig(
        vision_config=SIGLIP, text_config={**parts.language(tokenizer), "model_type": "cohere2"},
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )  # fmt: skip
    shown = images("GotOcr2", crop_to_patches=True, min_patches=1, max_patches=4)
    turns = ("<|START_OF_TURN_TOKEN|>{role}", "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>chatbot", "<image>")
    processor = transformers.AyaVisionProcessor(
        shown, tokenizer, patch_size=PATCH, img_size=SIDE, downsample_factor=2, chat_template=parts.chat(*turns)
    )
    return transformers.AyaVisionForConditionalGeneration(config), processor


@architecture("fused", "caption", prompt="what is in the picture")
def aria() -> tuple[Any, Any]:
    tokenizer = parts.fast("<fim_prefix>", "<fim_suffix>", "<|img|>", image_token="<|img|>")
    config = transformers.AriaConfig(
        vision_config={**WIDTH, "image_size": 490, "patch_size": 70, "model_type": "idefics3_vision"},
        text_config={**parts.language(tokenizer), "moe_num_experts": 4, "moe_num_shared_experts": 1},
        projector_patch_to_query_dict={49: 4, 196: 16}, image_token_index=tokenizer.image_token_id,
    )  # fmt: skip
    shown = images("Aria", max_image_size=490, min_image_size=98)
    template = parts.chat(*CHATML, "<fim_prefix><|img|><fim_suffix>")
    processor = transformers.AriaProcessor(shown, tokenizer, template, size_conversion={490: 4, 980: 16})
    model = transformers.AriaForConditionalGeneration(config)
    parts.noisy(model.model.multi_modal_projector.query)
    return model, processor


@architecture("fused", "vqa")
def ovis2() -> tuple[Any, Any]:
    indicators = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    tokenizer = parts.qwen("<image>", "<IMG_ATOM>", *indicators)
    config = transformers.Ovis2Config(
        vision_config={**VISION, "vocab_size": 32}, hidden_size=32, vocab_size=len(tokenizer),
        text_config={**parts.language(tokenizer), "model_type": "qwen2"},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=[tokenizer.convert_tokens_to_ids(token) for token in indicators],
    )  # fmt: skip
    shown = images("Ovis2", crop_to_patches=True, min_patches=1, max_patches=4)
    template = parts.chat(*CHATML, "<image>\n")
    processor = transformers.Ovis2Processor(shown, tokenizer, chat_template=template, image_seq_length=16)
    return transformers.Ovis2ForConditionalGeneration(config), processor
