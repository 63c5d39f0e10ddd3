"""Vision models: encoders, classifiers, and hybrids of convolution and attention."""

from __future__ import annotations

from typing import Any

import transformers

from tests.coverage.architectures import architecture
from tests.coverage.parts import SIDE, SQUARE, VISION, WIDTH, clip_images, images

CLASSES = {"num_labels": 10}
STAGES = {"image_size": SIDE, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}


@architecture("vision", "classification")
def vit() -> tuple[Any, Any]:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**VISION, **CLASSES)), images("ViT")


@architecture("vision", "classification")
def deit() -> tuple[Any, Any]:
    config = transformers.DeiTConfig(**VISION, **CLASSES)
    return transformers.DeiTForImageClassification(config), images("DeiT", crop_size=SQUARE)


@architecture("vision", "classification")
def beit() -> tuple[Any, Any]:
    return transformers.BeitForImageClassification(transformers.BeitConfig(**VISION, **CLASSES)), images(
        "Beit", crop_size=SQUARE
    )


@architecture("vision", "classification")
def dinov2() -> tuple[Any, Any]:
    sizes = {name: value for name, value in VISION.items() if name != "intermediate_size"}
    config = transformers.Dinov2Config(**sizes, mlp_ratio=2, **CLASSES)
    return transformers.Dinov2ForImageClassification(config), clip_images("Bit")


@architecture("vision")
def dinov3() -> tuple[Any, Any]:
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**VISION)), images("DINOv3ViT")


@architecture("vision", "classification")
def clip_classifier() -> tuple[Any, Any]:
    config = transformers.CLIPConfig(vision_config=VISION, text_config={**WIDTH, "vocab_size": 99}, **CLASSES)
    return transformers.CLIPForImageClassification(config), clip_images()


@architecture("vision")
def clip_vision() -> tuple[Any, Any]:
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)), clip_images()


@architecture("vision", "classification")
def siglip_classifier() -> tuple[Any, Any]:
    config = transformers.SiglipConfig(vision_config=VISION, text_config={**WIDTH, "vocab_size": 99}, **CLASSES)
    return transformers.SiglipForImageClassification(config), images("Siglip")


@architecture("vision", "classification")
def swin() -> tuple[Any, Any]:
    return transformers.SwinForImageClassification(transformers.SwinConfig(**STAGES, **CLASSES)), images("ViT")


@architecture("vision", "classification")
def swinv2() -> tuple[Any, Any]:
    config = transformers.Swinv2Config(**STAGES, pretrained_window_sizes=[0, 0], **CLASSES)
    return transformers.Swinv2ForImageClassification(config), images("ViT")


@architecture("vision", "classification")
def convnext() -> tuple[Any, Any]:
    # layers are scaled by 1e-6 at the start: too little for random weights to differ by
    config = transformers.ConvNextConfig(
        num_stages=2, hidden_sizes=[16, 32], depths=[2, 2], image_size=SIDE, layer_scale_init_value=0.1, **CLASSES
    )
    return transformers.ConvNextForImageClassification(config), _convnext_images()


@architecture("vision", "classification")
def convnextv2() -> tuple[Any, Any]:
    config = transformers.ConvNextV2Config(
        num_stages=2, hidden_sizes=[16, 32], depths=[2, 2], image_size=SIDE, **CLASSES
    )
    return transformers.ConvNextV2ForImageClassification(config), _convnext_images()


@architecture("vision", "classification")
def pvt_v2() -> tuple[Any, Any]:
    config = transformers.PvtV2Config(
        image_size=SIDE, num_encoder_blocks=2, depths=[2, 2], sr_ratios=[2, 1], hidden_sizes=[16, 32],
        patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], **CLASSES,
    )  # fmt: skip
    return transformers.PvtV2ForImageClassification(config), images("Pvt")


@architecture("vision", "classification")
def mobilevit() -> tuple[Any, Any]:
    config = transformers.MobileViTConfig(
        image_size=SIDE, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        num_attention_heads=2, initializer_range=0.3, **CLASSES,
    )  # fmt: skip
    return transformers.MobileViTForImageClassification(config), clip_images("MobileViT")


@architecture("vision", "classification")
def resnet() -> tuple[Any, Any]:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], **CLASSES)
    return transformers.ResNetForImageClassification(config), _convnext_images()


@architecture("vision")
def vit_mae() -> tuple[Any, Any]:
    decoder = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2}
    config = transformers.ViTMAEConfig(**VISION, **decoder, decoder_intermediate_size=64)
    return transformers.ViTMAEForPreTraining(config), images("ViT")


def _convnext_images() -> Any:
    return images("ConvNext", size={"shortest_edge": SIDE}, crop_pct=0.875)
