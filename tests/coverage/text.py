"""Language models without a picture."""

from __future__ import annotations

from typing import Any

import transformers

from tests.coverage import parts
from tests.coverage.architectures import architecture


@architecture("text")
def bert() -> tuple[Any, Any]:
    tokenizer = parts.bert()
    return transformers.BertForMaskedLM(transformers.BertConfig(**parts.encoder(tokenizer))), tokenizer


@architecture("text")
def gpt2() -> tuple[Any, Any]:
    tokenizer = parts.gpt2()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config), tokenizer


@architecture("text")
def llama() -> tuple[Any, Any]:
    tokenizer = parts.llama()
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**parts.language(tokenizer))), tokenizer


@architecture("text")
def qwen3() -> tuple[Any, Any]:
    tokenizer = parts.qwen()
    config = transformers.Qwen3Config(**parts.language(tokenizer), head_dim=16)
    return transformers.Qwen3ForCausalLM(config), tokenizer


@architecture("text")
def mixtral() -> tuple[Any, Any]:
    tokenizer = parts.llama()
    config = transformers.MixtralConfig(**parts.language(tokenizer), num_local_experts=4)
    return transformers.MixtralForCausalLM(config), tokenizer


@architecture("text")
def t5() -> tuple[Any, Any]:
    tokenizer = parts.t5()
    return transformers.T5ForConditionalGeneration(t5_config(tokenizer)), tokenizer


@architecture("text")
def bart() -> tuple[Any, Any]:
    tokenizer = parts.gpt2("BartTokenizer")
    return transformers.BartForConditionalGeneration(bart_config(tokenizer)), tokenizer


def t5_config(tokenizer: Any) -> Any:
    return transformers.T5Config(
        vocab_size=len(tokenizer), d_model=32, d_ff=64, d_kv=16, num_layers=2, num_heads=2,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip


def bart_config(tokenizer: Any) -> Any:
    return transformers.BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=128,
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
