"""BLIP and BLIP-2: text meets the picture in cross-attention, or in a Q-Former before a language model."""

from __future__ import annotations

from typing import Any

import transformers

from tests.coverage import parts
from tests.coverage.architectures import architecture
from tests.coverage.parts import VISION, images
from tests.coverage.text import t5_config

QUERIES = 4


def _blip(head: str) -> tuple[Any, Any]:
    tokenizer = parts.bert()
    ends = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {**parts.encoder(tokenizer, encoder_hidden_size=32, is_decoder=True), **ends}
    config = transformers.BlipConfig(
        vision_config=VISION, text_config=text, projection_dim=16, image_text_hidden_size=16
    )
    return getattr(transformers, head)(config), transformers.BlipProcessor(images("Blip"), tokenizer)


@architecture("fused", "caption", prompt="a picture of")
def blip_caption() -> tuple[Any, Any]:
    return _blip("BlipForConditionalGeneration")


@architecture("fused", "vqa")
def blip_vqa() -> tuple[Any, Any]:
    return _blip("BlipForQuestionAnswering")


@architecture("fused", "retrieval")
def blip_itm() -> tuple[Any, Any]:
    return _blip("BlipForImageTextRetrieval")


def _blip2(head: str, tokenizer: Any, language: Any, **queries: Any) -> tuple[Any, Any]:
    former = {**parts.encoder(parts.bert()), "encoder_hidden_size": 32, **queries}
    processor = transformers.Blip2Processor(images("Blip"), tokenizer, num_query_tokens=QUERIES)
    config = transformers.Blip2Config(
        vision_config=VISION, qformer_config=former, text_config=language, num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_text_hidden_size=16,
    )  # fmt: skip
    model = getattr(transformers, head)(config)
    parts.noisy(model.query_tokens)
    return model, processor


def _opt(tokenizer: Any) -> Any:
    sizes = parts.encoder(tokenizer, max_position_embeddings=128, ffn_dim=64, word_embed_proj_dim=32)
    return transformers.OPTConfig(**{name: value for name, value in sizes.items() if name != "intermediate_size"})


def _with_image(tokenizer: Any) -> Any:
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})
    return tokenizer


@architecture("fused", "caption", prompt="a photo of")
def blip2_opt() -> tuple[Any, Any]:
    tokenizer = _with_image(parts.gpt2(bos_token="<|endoftext|>", pad_token="<|endoftext|>"))
    return _blip2("Blip2ForConditionalGeneration", tokenizer, _opt(tokenizer))


@architecture("fused", "caption", prompt="a photo of")
def blip2_t5() -> tuple[Any, Any]:
    tokenizer = parts.t5("<image>")
    return _blip2("Blip2ForConditionalGeneration", tokenizer, t5_config(tokenizer))


@architecture("fused", "retrieval")
def blip2_itm() -> tuple[Any, Any]:
    tokenizer = parts.bert(extra_special_tokens=["<image>"])
    queries = {"use_qformer_text_input": True, "vocab_size": len(tokenizer)}
    return _blip2("Blip2ForImageTextRetrieval", tokenizer, _opt(tokenizer), **queries)


def _instructblip(tokenizer: Any, language: Any) -> tuple[Any, Any]:
    reader = parts.bert()
    former = {**parts.encoder(reader), "encoder_hidden_size": 32}
    processor = transformers.InstructBlipProcessor(images("Blip"), tokenizer, reader, num_query_tokens=QUERIES)
    config = transformers.InstructBlipConfig(
        vision_config=VISION, qformer_config=former, text_config=language, num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = transformers.InstructBlipForConditionalGeneration(config)
    parts.noisy(model.query_tokens)
    return model, processor


@architecture("fused", "vqa", prompt="Question: {} Short answer:")
def instructblip_vicuna() -> tuple[Any, Any]:
    tokenizer = parts.llama("<image>")
    return _instructblip(tokenizer, transformers.LlamaConfig(**parts.language(tokenizer)))


@architecture("fused", "vqa", prompt="Question: {} Short answer:")
def instructblip_t5() -> tuple[Any, Any]:
    tokenizer = parts.t5("<image>")
    return _instructblip(tokenizer, t5_config(tokenizer))
