"""Encoders that read picture and text together."""

from __future__ import annotations

from typing import Any

import transformers

from tests.coverage import parts
from tests.coverage.architectures import architecture
from tests.coverage.parts import PATCH, SIDE, SQUARE, VISION, WIDTH, images


def _vilt(head: str, **settings: Any) -> tuple[Any, Any]:
    tokenizer = parts.bert()
    sizes = parts.encoder(tokenizer, image_size=SIDE, patch_size=PATCH, **settings)
    shown = images("Vilt", size={"shortest_edge": SIDE}, size_divisor=PATCH)
    model = getattr(transformers, head)(transformers.ViltConfig(**sizes))
    return model, transformers.ViltProcessor(shown, tokenizer)


@architecture("fused", "vqa")
def vilt_vqa() -> tuple[Any, Any]:
    answers = dict(enumerate(parts.WORDS[2:12]))
    return _vilt("ViltForQuestionAnswering", id2label=answers, label2id={word: i for i, word in answers.items()})


@architecture("fused", "retrieval")
def vilt_itm() -> tuple[Any, Any]:
    return _vilt("ViltForImageAndTextRetrieval")


@architecture("fused", "reasoning")
def vilt_nlvr2() -> tuple[Any, Any]:
    labels = {"id2label": {0: "False", 1: "True"}, "label2id": {"False": 0, "True": 1}}
    return _vilt("ViltForImagesAndTextClassification", num_images=2, modality_type_vocab_size=3, **labels)


@architecture("fused", "retrieval", alone=r"(^|\.)text_model\.")
def bridgetower() -> tuple[Any, Any]:
    tokenizer = parts.gpt2("RobertaTokenizer", model_max_length=64)
    wide = {"hidden_size": 64, "num_hidden_layers": 2}  # a head of its picture tower has 64 dimensions
    config = transformers.BridgeTowerConfig(
        **wide, num_attention_heads=2, text_config=parts.encoder(tokenizer, max_position_embeddings=68, **wide),
        vision_config={**wide, "patch_size": PATCH, "image_size": SIDE},
    )  # fmt: skip
    shown = images("BridgeTower", size={"shortest_edge": SIDE}, size_divisor=PATCH, crop_size={"shortest_edge": SIDE})
    processor = transformers.BridgeTowerProcessor(shown, tokenizer)
    return transformers.BridgeTowerForImageAndTextRetrieval(config), processor


def _flava(head: str, **images_: Any) -> tuple[Any, Any]:
    tokenizer = parts.bert()
    codes = {"num_groups": 2, "num_blocks_per_group": 1, "hidden_size": 16, "vocab_size": 32}
    config = transformers.FlavaConfig(
        image_config={**VISION, "vocab_size": 32}, text_config=parts.encoder(tokenizer), multimodal_config=WIDTH,
        hidden_size=32, projection_dim=16, image_codebook_config=codes,
    )  # fmt: skip
    shown = images("Flava", crop_size=SQUARE, codebook_size=SQUARE, codebook_crop_size=SQUARE, **images_)
    return getattr(transformers, head)(config), transformers.FlavaProcessor(shown, tokenizer)


@architecture("fused", "retrieval", alone=r"(^|\.)text_model\.")
def flava() -> tuple[Any, Any]:
    return _flava("FlavaModel")


@architecture("fused", alone=r"(^|\.)text_model\.")
def flava_pretraining() -> tuple[Any, Any]:
    masked = {"input_size_patches": SIDE // PATCH, "total_mask_patches": 4, "mask_group_max_patches": 4}
    return _flava("FlavaForPreTraining", **masked)


@architecture("fused", "vqa")
def lxmert() -> tuple[Any, Any]:
    tokenizer = parts.bert()
    config = transformers.LxmertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_attention_heads=2, intermediate_size=64, num_qa_labels=10,
        l_layers=2, x_layers=2, r_layers=2, visual_feat_dim=16,
    )  # fmt: skip
    return transformers.LxmertForQuestionAnswering(config), tokenizer


@architecture("fused", "vqa")
def visualbert() -> tuple[Any, Any]:
    tokenizer = parts.bert()
    config = transformers.VisualBertConfig(**parts.encoder(tokenizer), visual_embedding_dim=16, num_labels=10)
    return transformers.VisualBertForQuestionAnswering(config), tokenizer
