"""What encoders of text like BERT learn: words that are hidden from them (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from idvl.data.samples import Sample
from idvl.errors import UsageError
from idvl.models.inputs import process
from idvl.models.labels import IGNORED
from idvl.models.processors import tokenizer_of

# of a text's tokens, how many are to be guessed; of these, how many are hidden, and how many are another token
GUESSED, HIDDEN, OTHER = 0.15, 0.8, 0.1


def masked_inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, config: Any, **how: Any
) -> dict[str, Tensor]:
    """Inputs with hidden words, and as labels (n, length) what they were; `how` as in `process`.

    Which words these are follows from the text alone, so that it is the same in every process and epoch. UsageError for
    a tokenizer without a mask token.
    """
    tokenizer = tokenizer_of(processor)
    if tokenizer.mask_token_id is None:
        raise UsageError(
            "the tokenizer has no mask token to hide words behind: add the original model's tokenizer.json"
        )
    inputs = process(processor, samples, text_length, **how)
    special = torch.tensor(tokenizer.all_special_ids)
    words = ~torch.isin(inputs["input_ids"], special)
    rows = [_masked(row[own], tokenizer) for row, own in zip(inputs["input_ids"], words, strict=True)]
    tokens, labels = inputs["input_ids"].clone(), torch.full_like(inputs["input_ids"], IGNORED)
    for row, own, (shown, hidden) in zip(range(len(tokens)), words, rows, strict=True):
        tokens[row, own], labels[row, own] = shown, hidden
    return {**inputs, "input_ids": tokens, "labels": labels}


def _masked(words: Tensor, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """The tokens (k,) of a text's words as they are shown, and their labels: at least one is to be guessed."""
    if len(words) == 0:
        return words, words
    digest = hashlib.blake2b(words.numpy().tobytes(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    guessed = torch.randperm(len(words), generator=generator)[: max(1, round(GUESSED * len(words)))]
    labels = torch.full_like(words, IGNORED)
    labels[guessed] = words[guessed]
    fate = torch.rand(len(guessed), generator=generator)
    others = torch.randint(len(tokenizer), (len(guessed),), generator=generator)
    shown = words.clone()
    hidden = torch.where(fate < HIDDEN, torch.full_like(others, tokenizer.mask_token_id), words[guessed])
    shown[guessed] = torch.where((fate >= HIDDEN) & (fate < HIDDEN + OTHER), others, hidden)
    return shown, labels
