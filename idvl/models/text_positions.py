"""Where a text sits among the tokens of each layer, found by one experiment, and so which of its tokens are padding.

The same sample runs twice with different tokens at its padded positions: what changes is padding.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from idvl.errors import UsageError, first_line
from idvl.models.families.base import Family
from idvl.models.inputs import NO_LIMIT
from idvl.models.layers import find_layers
from idvl.models.probes import trial_sample
from idvl.models.processors import tokenizer_of

# padded positions added to the text of the trial
PADDING = 3


def mask_at(offsets: dict[str, int], layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of a layer in which the text starts at `offsets[layer_name]`; None for layers that hold no text."""
    start = offsets.get(layer_name)
    if start is None or "attention_mask" not in inputs:
        return None
    text = inputs["attention_mask"].bool()
    mask = text.new_ones(len(text), n_tokens)
    mask[:, start : start + text.shape[1]] = text
    return mask


def mask_by_length(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Before a model is loaded: as many tokens as the text has are taken for the text."""
    mask = inputs.get("attention_mask")
    return mask.bool() if mask is not None and mask.shape[1] == n_tokens else None


def text_offsets(family: Family, model: nn.Module, processor: Any) -> tuple[dict[str, int], list[str]]:
    """For each layer that holds text tokens the position of the first, and what is wrong, a sentence each."""
    tokenizer = tokenizer_of(processor)
    trial = [trial_sample()]
    longest = family.text_length(processor, trial) + PADDING
    limit = tokenizer.model_max_length
    batch = family.inputs(processor, trial, min(longest, limit) if limit < NO_LIMIT else longest)
    mask = batch.get("attention_mask")
    if mask is None:
        return {}, ["the tokenizer gives no attention mask: the model reads its padding, and padded positions count"]
    if mask.all():
        return {}, ["the texts of this model are not padded: all positions count"]
    tokens = torch.where(mask.bool(), batch["input_ids"], _other_token(tokenizer, batch["input_ids"]))
    first = _outputs(family, model, batch)
    second = _outputs(family, model, {**batch, "input_ids": tokens})
    padded = (mask[0] == 0).nonzero().flatten()
    offsets: dict[str, int] = {}
    leaks = []
    for name in first:
        start, leak = _start(first[name], second[name], padded, mask.shape[1])
        if start is not None:
            offsets[name] = start
        if leak:
            leaks.append(name)
    if not leaks:
        return offsets, []
    return offsets, [
        f"padding reaches the real tokens of {len(leaks)} layers ({leaks[0]} ...): the model does not mask it there, "
        "and these representations depend on the length that texts are padded to"
    ]


def _start(first: Tensor, second: Tensor, padded: Tensor, length: int) -> tuple[int | None, bool]:
    """(where the text starts, whether padding leaks) for one layer's outputs (tokens, width) of the two trials."""
    difference = (first - second).abs().amax(-1)
    changed = (difference > 1e-5 * first.abs().max()).nonzero().flatten()
    if len(changed) == 0 or len(first) < length:
        return None, len(changed) > 0
    if torch.equal(changed - changed[0], padded - padded[0]) and 0 <= changed[0] - padded[0] <= len(first) - length:
        return int(changed[0] - padded[0]), False
    return (0 if len(first) == length else None), True


def _outputs(family: Family, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What each layer gives for a batch of one: (tokens, width)."""
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            seen.setdefault(name, output.detach().float().reshape(-1, output.shape[-1]).cpu())

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, layer in find_layers(model, family).items():
            stack.callback(layer.module.register_forward_hook(note(name)).remove)
        try:
            family.call(model, {key: value.to(model.device) for key, value in batch.items()})
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            names = ", ".join(batch)
            raise UsageError(f"{type(model).__name__} does not run on {names} alone: {first_line(error)}") from error
    return seen


def _other_token(tokenizer: Any, tokens: Tensor) -> int:
    """A plain token that is not among `tokens`."""
    taken = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder, *tokens.flatten().tolist()}
    return next(i for i in range(len(tokenizer)) if i not in taken)
