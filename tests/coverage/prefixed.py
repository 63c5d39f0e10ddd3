"""Decoders that read a picture of one fixed size as tokens before the text: LLaVA 1.5 and what came of it."""

from __future__ import annotations

from typing import Any

import transformers

from tests.coverage import parts
from tests.coverage.architectures import architecture
from tests.coverage.parts import PATCH, SHORT_ANSWER, SIDE, VISION, clip_images, images

PATCHES = (SIDE // PATCH) ** 2
VICUNA = parts.chat("{ROLE}: ", " ", "ASSISTANT:", "<image>\n")


def llava_parts(cls: str = "LlavaConfig", **settings: Any) -> tuple[Any, Any]:
    """A LLaVA's config over CLIP and Llama, and the tokenizer of both."""
    tokenizer = parts.llama("<image>", image_token="<image>", padding_side="left")
    config = getattr(transformers, cls)(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**parts.language(tokenizer)),
        image_token_index=tokenizer.image_token_id, **settings,
    )  # fmt: skip
    return config, tokenizer


HOW = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}


@architecture("fused", "vqa", prompt=SHORT_ANSWER)
def llava() -> tuple[Any, Any]:
    config, tokenizer = llava_parts()
    processor = transformers.LlavaProcessor(clip_images(), tokenizer, chat_template=VICUNA, **HOW)
    return transformers.LlavaForConditionalGeneration(config), processor


@architecture("fused", "vqa", prompt=SHORT_ANSWER)
def vipllava() -> tuple[Any, Any]:
    config, tokenizer = llava_parts("VipLlavaConfig", vision_feature_layers=[-1, -2])
    processor = transformers.LlavaProcessor(clip_images(), tokenizer, chat_template=VICUNA, **HOW)
    return transformers.VipLlavaForConditionalGeneration(config), processor


@architecture("fused", "caption", marker="<image>", prompt="caption en")
def paligemma() -> tuple[Any, Any]:
    tokenizer = parts.gemma("<image>", image_token="<image>")
    config = transformers.PaliGemmaConfig(
        vision_config={**VISION, "vision_use_head": False, "model_type": "siglip_vision_model", "projection_dim": 32},
        text_config={**parts.language(tokenizer), "head_dim": 16, "model_type": "gemma"},
        image_token_index=tokenizer.image_token_id, projection_dim=32,
    )  # fmt: skip
    shown = images("Siglip")
    shown.image_seq_length = PATCHES
    return transformers.PaliGemmaForConditionalGeneration(config), transformers.PaliGemmaProcessor(shown, tokenizer)


@architecture("fused", "caption", prompt="a picture of")
def kosmos2() -> tuple[Any, Any]:
    tokenizer = parts.xlm_roberta()
    processor = transformers.Kosmos2Processor(clip_images(), tokenizer, num_patch_index_tokens=16)
    processor.num_image_tokens = 64
    text = {
        "vocab_size": len(tokenizer), "embed_dim": 32, "layers": 2, "ffn_dim": 64, "attention_heads": 2,
        "max_position_embeddings": 256,
    }  # fmt: skip
    config = transformers.Kosmos2Config(text_config=text, vision_config=VISION, latent_query_num=64)
    model = transformers.Kosmos2ForConditionalGeneration(config)
    parts.noisy(model.image_to_text_projection.latent_query)
    return model, processor


@architecture("fused", "caption", marker="<image>", prompt="a picture of")
def chameleon() -> tuple[Any, Any]:
    codes = [f"IMGIMG{letter}Z" for letter in "ABCDEFGH"]
    special = ("<image>", "<racm3:break>", "<eoss>", "<reserved08706>", *codes)
    tokenizer = parts.fast(
        *special, image_token="<image>", boi_token="<racm3:break>", eoi_token="<eoss>", sep_token="<reserved08706>"
    )
    grid = SIDE // 2
    vq = {
        "embed_dim": 16, "num_embeddings": 8, "latent_channels": 16, "resolution": SIDE, "base_channels": 32,
        "channel_multiplier": [1, 2], "num_res_blocks": 1,
    }  # fmt: skip
    config = transformers.ChameleonConfig(
        **parts.language(tokenizer), vq_config=vq,
        vocabulary_map={token: tokenizer.convert_tokens_to_ids(token) for token in special},
    )  # fmt: skip
    shown = images("Chameleon", size={"shortest_edge": SIDE}, crop_size=parts.SQUARE)
    processor = transformers.ChameleonProcessor(shown, tokenizer, image_seq_length=grid * grid)
    return transformers.ChameleonForConditionalGeneration(config), processor


@architecture("fused", "vqa")
def janus() -> tuple[Any, Any]:
    marks = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = parts.llama(*marks.values(), **marks)
    vision = {**VISION, "mlp_ratio": 2.0, "projection_dim": 32, "num_image_tokens": PATCHES}
    del vision["intermediate_size"]
    vq = {
        "embed_dim": 8, "num_embeddings": 16, "latent_channels": 16, "base_channels": 32, "channel_multiplier": [1, 2],
        "num_res_blocks": 1, "num_patches": 4, "projection_dim": 32, "image_token_embed_dim": 32,
    }  # fmt: skip
    config = transformers.JanusConfig(
        text_config={**parts.language(tokenizer), "model_type": "llama"}, vision_config=vision, vq_config=vq,
        image_token_id=tokenizer.image_token_id,
    )  # fmt: skip
    shown = images("Janus", min_size=8)
    template = parts.chat("<|{role}|>: ", "\n\n", "<|assistant|>:", "<image_placeholder>\n")
    processor = transformers.JanusProcessor(shown, tokenizer, chat_template=template, num_image_tokens=PATCHES)
    return transformers.JanusForConditionalGeneration(config), processor


@architecture("fused", "vqa")
def gemma3() -> tuple[Any, Any]:
    marks = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = parts.gemma(*marks.values(), "<start_of_turn>", "<end_of_turn>", **marks)
    config = transformers.Gemma3Config(
        vision_config={**VISION, "vision_use_head": False, "model_type": "siglip_vision_model"},
        text_config={**parts.language(tokenizer), "head_dim": 16, "sliding_window": 64},
        mm_tokens_per_image=4, image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id, eoi_token_index=tokenizer.eoi_token_id,
    )  # fmt: skip
    template = parts.chat(
        "<start_of_turn>{role}\n", "<end_of_turn>\n", "<start_of_turn>model\n", "<start_of_image>", "<bos>"
    )
    processor = transformers.Gemma3Processor(images("Gemma3"), tokenizer, chat_template=template, image_seq_length=4)
    model = transformers.Gemma3ForConditionalGeneration(config)
    parts.noisy(model.model.multi_modal_projector.mm_input_projection_weight)
    return model, processor


@architecture("fused", "caption", prompt="what is in the picture")
def emu3() -> tuple[Any, Any]:
    marks = {
        "image_token": "<image>", "boi_token": "<|image start|>", "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>", "eof_token": "<|extra_201|>",
    }  # fmt: skip
    codes = [f"<|visual token {i:06d}|>" for i in range(16)]
    tokenizer = parts.fast(*marks.values(), "<|extra_200|>", *codes, **marks)
    vq = {
        "codebook_size": 16, "embed_dim": 4, "base_channels": 32, "channel_multiplier": [1, 1, 1, 1],
        "num_res_blocks": 1, "hidden_size": 32, "attn_resolutions": [],
    }  # fmt: skip
    places = {token: tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<|extra_200|>", *codes)}
    config = transformers.Emu3Config(text_config=parts.language(tokenizer), vq_config=vq, vocabulary_map=places)
    shown = transformers.Emu3ImageProcessor(min_pixels=SIDE * SIDE, max_pixels=4 * SIDE * SIDE, spatial_factor=8)
    template = parts.chat("{ROLE}: ", " ", "ASSISTANT:", "<image>")
    processor = transformers.Emu3Processor(shown, tokenizer, chat_template=template)
    return transformers.Emu3ForConditionalGeneration(config), processor


@architecture("fused", "vqa")
def fuyu() -> tuple[Any, Any]:
    special = ("|ENDOFTEXT|", "|SPEAKER|", "|NEWLINE|", "<0x00>", "<0x01>", "<0x02>", "<0x03>", "<0x04>")
    tokenizer = parts.llama(*special)
    text = transformers.PersimmonConfig(**parts.encoder(tokenizer, max_position_embeddings=512))
    config = transformers.FuyuConfig(
        text_config=text.to_dict(), image_size=SIDE, patch_size=PATCH,
        image_token_id=tokenizer.convert_tokens_to_ids("|SPEAKER|"),
    )  # fmt: skip
    shown = images("Fuyu", patch_size={"height": PATCH, "width": PATCH})
    return transformers.FuyuForCausalLM(config), transformers.FuyuProcessor(shown, tokenizer)
