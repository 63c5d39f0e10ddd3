"""How BLIP is called: texts start as in training, and its decoder does not see the padding of questions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from idvl.models.forward import call


def started(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs whose texts start with [DEC] or [ENC], where the tokenizer, which knows neither, puts [CLS].

    Both are the last rows of the embedding in checkpoints of BLIP; a model without [ENC] reads [CLS].
    """
    text = model.config.text_config
    reads = hasattr(model, "text_encoder")
    first = {"decoder_input_ids" if reads else "input_ids": text.bos_token_id}
    if reads and text.bos_token_id == text.vocab_size - 2:
        first["input_ids"] = text.bos_token_id + 1
    changed = {
        key: torch.cat([torch.full_like(inputs[key][:, :1], token), inputs[key][:, 1:]], dim=1)
        for key, token in first.items()
        if key in inputs and token < text.vocab_size
    }
    return {**inputs, **changed}


def started_call(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """A call whose texts start as in training."""
    # transformers makes the image's attention mask on the default device
    with inputs["input_ids"].device:
        return call(model, started(model, inputs))


@contextmanager
def padded_questions(model: nn.Module) -> Iterator[None]:
    """Inside, the decoder does not see the padding of the questions.

    transformers 5 hands the questions' mask to the decoder's cross-attention under a name that it does not read there.
    """

    def rename(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, {"encoder_attention_mask": kwargs.get("attention_mask"), **kwargs}

    with ExitStack() as stack:
        for name, module in model.text_decoder.named_modules():
            if name.endswith("crossattention.self"):
                stack.callback(module.register_forward_pre_hook(rename, with_kwargs=True).remove)
        yield


def answering_call(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """A call whose decoder does not see the padding of the questions."""
    with padded_questions(model):
        return started_call(model, inputs)
