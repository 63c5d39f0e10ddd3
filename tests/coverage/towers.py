"""Image and text encoders side by side, which compare pictures and captions."""

from __future__ import annotations

from typing import Any

import transformers

from tests.coverage import parts
from tests.coverage.architectures import architecture
from tests.coverage.parts import SIDE, SQUARE, VISION, WIDTH, clip_images, images

ALL = "."  # no text layer ever sees the picture


def clip_text(tokenizer: Any) -> dict[str, Any]:
    """Sizes of CLIP's text tower, whose summary is read where the end token stands."""
    return parts.encoder(tokenizer, max_position_embeddings=77)


@architecture("towers", "retrieval", alone=ALL)
def clip() -> tuple[Any, Any]:
    tokenizer = parts.clip()
    config = transformers.CLIPConfig(text_config=clip_text(tokenizer), vision_config=VISION, projection_dim=16)
    return transformers.CLIPModel(config), transformers.CLIPProcessor(clip_images(), tokenizer)


@architecture("towers", "retrieval", alone=ALL)
def siglip() -> tuple[Any, Any]:
    # as SigLIP's: no attention mask, and what the model reads is always filled up to its length
    tokenizer = parts.t5(model_input_names=["input_ids"], model_max_length=16)
    text = parts.encoder(tokenizer, max_position_embeddings=16)
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    return transformers.SiglipModel(config), transformers.SiglipProcessor(images("Siglip"), tokenizer)


@architecture("towers", "retrieval", alone=ALL)
def siglip2() -> tuple[Any, Any]:
    reads = {"model_max_length": 64, "model_input_names": ["input_ids"], "padding_side": "right"}
    tokenizer = parts.gemma(cls="Siglip2Tokenizer", **reads)
    text = parts.encoder(tokenizer)
    # its processor reads 256 patches of 16 pixels, whatever the checkpoint says
    vision = {**WIDTH, "patch_size": 16, "num_patches": 256}
    config = transformers.Siglip2Config(text_config=text, vision_config=vision)
    patches = transformers.Siglip2ImageProcessorPil(patch_size=16, max_num_patches=256)
    return transformers.Siglip2Model(config), transformers.Siglip2Processor(patches, tokenizer)


@architecture("towers", "retrieval", alone=ALL)
def altclip() -> tuple[Any, Any]:
    tokenizer = parts.xlm_roberta(model_max_length=64)
    text = parts.encoder(tokenizer, max_position_embeddings=66, project_dim=32, initializer_factor=1.0)
    config = transformers.AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    return transformers.AltCLIPModel(config), transformers.AltCLIPProcessor(clip_images(), tokenizer)


@architecture("towers", "retrieval", alone=ALL)
def chinese_clip() -> tuple[Any, Any]:
    tokenizer = parts.bert()
    config = transformers.ChineseCLIPConfig(
        text_config=parts.encoder(tokenizer), vision_config=VISION, projection_dim=16
    )
    shown = images("ChineseCLIP", crop_size=SQUARE)
    return transformers.ChineseCLIPModel(config), transformers.ChineseCLIPProcessor(shown, tokenizer)


@architecture("towers", "retrieval", alone=ALL)
def metaclip2() -> tuple[Any, Any]:
    tokenizer = parts.xlm_roberta(model_max_length=77)
    config = transformers.MetaClip2Config(text_config=clip_text(tokenizer), vision_config=VISION, projection_dim=16)
    return transformers.MetaClip2Model(config), transformers.CLIPProcessor(clip_images(), tokenizer)


@architecture("towers", "retrieval", alone=ALL)
def vision_text_dual() -> tuple[Any, Any]:
    tokenizer = parts.bert()
    vision, text = transformers.ViTConfig(**VISION), transformers.BertConfig(**parts.encoder(tokenizer))
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=16)
    model = transformers.VisionTextDualEncoderModel(config)
    return model, transformers.VisionTextDualEncoderProcessor(images("ViT"), tokenizer)


@architecture("towers", "retrieval", alone=ALL)
def align() -> tuple[Any, Any]:
    tokenizer = parts.bert()
    vision = {
        "image_size": SIDE, "kernel_sizes": [3, 3], "in_channels": [32, 16], "out_channels": [16, 24],
        "strides": [1, 2], "num_block_repeats": [1, 1], "expand_ratios": [1, 6], "hidden_dim": 32,
        "width_coefficient": 1.0, "depth_coefficient": 1.0,
    }  # fmt: skip
    config = transformers.AlignConfig(text_config=parts.encoder(tokenizer), vision_config=vision, projection_dim=24)
    shown = images("EfficientNet", size=SQUARE, crop_size=SQUARE, do_center_crop=True)
    return transformers.AlignModel(config), transformers.AlignProcessor(shown, tokenizer)


@architecture("towers", "retrieval", alone=ALL)
def groupvit() -> tuple[Any, Any]:
    tokenizer = parts.clip()
    vision = {**VISION, "depths": [1, 1, 1], "num_group_tokens": [4, 2, 0], "num_output_groups": [4, 2, 2]}
    config = transformers.GroupViTConfig(
        text_config=clip_text(tokenizer), vision_config=vision, projection_dim=16, projection_intermediate_dim=32
    )
    return transformers.GroupViTModel(config), transformers.CLIPProcessor(clip_images(), tokenizer)


@architecture("towers", alone=ALL)
def owlvit() -> tuple[Any, Any]:
    tokenizer = parts.clip(model_max_length=64, pad_token="!")
    text = parts.encoder(tokenizer)
    config = transformers.OwlViTConfig(text_config=text, vision_config=VISION, projection_dim=32)
    shown = images("OwlViT", crop_size=SQUARE)
    return transformers.OwlViTModel(config), transformers.OwlViTProcessor(shown, tokenizer)


@architecture("towers", alone=ALL)
def owlv2() -> tuple[Any, Any]:
    tokenizer = parts.clip(model_max_length=64, pad_token="!")
    text = parts.encoder(tokenizer)
    config = transformers.Owlv2Config(text_config=text, vision_config=VISION, projection_dim=32)
    return transformers.Owlv2Model(config), transformers.Owlv2Processor(images("Owlv2"), tokenizer)
