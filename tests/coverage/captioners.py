"""Models that write about what a picture's encoder saw."""

from __future__ import annotations

from typing import Any

import transformers

from tests.coverage import parts
from tests.coverage.architectures import architecture
from tests.coverage.parts import PATCH, VISION, clip_images, images
from tests.coverage.text import bart_config


@architecture("fused", "caption")
def git() -> tuple[Any, Any]:
    tokenizer = parts.bert()
    ends = {"bos_token_id": 2, "eos_token_id": 3}
    config = transformers.GitConfig(**{**parts.encoder(tokenizer), **ends}, vision_config=VISION)
    return transformers.GitForCausalLM(config), transformers.GitProcessor(clip_images(), tokenizer)


@architecture("fused", "caption")
def pix2struct() -> tuple[Any, Any]:
    tokenizer = parts.t5()
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2,
        "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "patch_embed_hidden_size": PATCH * PATCH * 3, "d_ff": 64, "d_kv": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "seq_len": 128, "initializer_range": 0.02,
    }  # fmt: skip
    config = transformers.Pix2StructConfig(text_config=text, vision_config=vision)
    cls = getattr(transformers, "Pix2StructImageProcessorPil", transformers.Pix2StructImageProcessor)
    shown = cls(patch_size={"height": PATCH, "width": PATCH}, max_patches=16)
    return transformers.Pix2StructForConditionalGeneration(config), transformers.Pix2StructProcessor(shown, tokenizer)


@architecture("fused", "caption")
def vit_gpt2() -> tuple[Any, Any]:
    tokenizer = parts.gpt2(pad_token="<|endoftext|>")
    language = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    model = _seen(transformers.ViTConfig(**VISION), language, start=0, pad=0)
    return model, _Folder(images("ViT"), tokenizer)


@architecture("fused", "caption")
def trocr() -> tuple[Any, Any]:
    tokenizer = parts.gpt2("RobertaTokenizer", model_max_length=64)
    language = transformers.TrOCRConfig(
        vocab_size=len(tokenizer), d_model=32, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=64,
        max_position_embeddings=64, cross_attention_hidden_size=32,
    )  # fmt: skip
    model = _seen(transformers.ViTConfig(**VISION), language, start=2, pad=1)
    return model, transformers.TrOCRProcessor(images("ViT"), tokenizer)


def _seen(vision: Any, language: Any, *, start: int, pad: int) -> Any:
    """A picture's encoder and the decoder that reads it."""
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, language)
    config.decoder_start_token_id, config.pad_token_id = start, pad
    return transformers.VisionEncoderDecoderModel(config=config)


class _Folder:
    """An image processor and a tokenizer saved side by side, where no class holds both."""

    def __init__(self, *parts_: Any) -> None:
        self.parts = parts_

    def save_pretrained(self, folder: Any) -> None:
        for part in self.parts:
            part.save_pretrained(folder)


@architecture("fused", "caption", prompt="<CAPTION>")
def florence2() -> tuple[Any, Any]:
    tokenizer = parts.gpt2("BartTokenizer", extra_special_tokens={"image_token": "<image>"})
    vision = {
        "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
        "patch_prenorm": [False, True], "embed_dim": [16, 32], "num_heads": [2, 2], "num_groups": [2, 2],
        "window_size": 4, "projection_dim": 32, "drop_path_rate": 0.0,
    }  # fmt: skip
    config = transformers.Florence2Config(
        text_config=bart_config(tokenizer), vision_config=vision, image_token_id=tokenizer.image_token_id
    )
    shown = clip_images()
    shown.image_seq_length = 17
    return transformers.Florence2ForConditionalGeneration(config), transformers.Florence2Processor(shown, tokenizer)
