"""Where a text sits among the tokens of each layer, found by one experiment, and so which of its tokens are padding.

The same sample runs twice with different tokens at its padded positions: what changes is padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from idvl.errors import UsageError, first_line
from idvl.models.families.base import Family
from idvl.models.inputs import NO_LIMIT
from idvl.models.layers import Layer, find_layers
from idvl.models.probes import trial_sample
from idvl.models.processors import tokenizer_of

# padded positions added to the text of the trial
PADDING = 3
# keys of tokens and of their masks
MASKS = {
    "input_ids": "attention_mask",
    "qformer_input_ids": "qformer_attention_mask",
    "decoder_input_ids": "decoder_attention_mask",
}
# key of a mask by which Kosmos-2's processor says which tokens of a text stand for the image
PLACES = "image_embeds_position_mask"
# the key of a text's mask, and the position of the text's first token
Place = tuple[str, int]


def mask_at(offsets: dict[str, Place], layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of a layer in which a text sits at `offsets[layer_name]`; None for layers that hold no text."""
    key, start = offsets.get(layer_name, (None, 0))
    if key not in inputs:
        return None
    text = inputs[key].bool()
    mask = text.new_ones(len(text), n_tokens)
    mask[:, start : start + text.shape[1]] = text
    return mask


def images_at(
    offsets: dict[str, Place], marked: dict[str, int], layer_name: str, n_tokens: int, inputs: dict[str, Tensor]
) -> Tensor | None:
    """Tokens of a layer that are outside of its text, or have the id `marked[layer_name]` in it.

    `offsets`: as in `mask_at`. None for layers that hold no text, or nothing else.
    """
    key, start = offsets.get(layer_name, (None, 0))
    if key not in inputs:
        return None
    inside = None
    if layer_name in marked:
        inside = inputs["input_ids"] == marked[layer_name]
    elif key == MASKS["input_ids"] and PLACES in inputs:
        inside = inputs[PLACES].bool()
    if inside is None and n_tokens == inputs[key].shape[1]:
        return None
    mask = torch.ones(len(inputs[key]), n_tokens, dtype=torch.bool)
    mask[:, start : start + inputs[key].shape[1]] = False if inside is None else inside
    return mask


def marked_layers(layers: Mapping[str, Layer], offsets: Mapping[str, Place], image: int | None) -> dict[str, int]:
    """The layers in whose text tokens with the id `image` stand for the image, with the id.

    Where a stack reads the image by cross-attention, such a token is a word of it like any other.
    """
    if image is None:
        return {}
    crossed = {_stack(layer) for layer in layers.values() if layer.reads_image}
    return {
        name: image
        for name, (key, _) in offsets.items()
        if key == MASKS["input_ids"] and (layers[name].reads_image or _stack(layers[name]) not in crossed)
    }


def _stack(layer: Layer) -> str:
    return (layer.block or layer.name).rpartition(".")[0]


def mask_by_length(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Before a model is loaded: as many tokens as the text has are taken for the text."""
    mask = inputs.get("attention_mask")
    return mask.bool() if mask is not None and mask.shape[1] == n_tokens else None


def text_offsets(family: Family, model: nn.Module, processor: Any) -> tuple[dict[str, Place], list[str]]:
    """For each layer that holds text tokens their mask and where the first is, and what is wrong, a sentence each."""
    tokenizer = tokenizer_of(processor)
    trial = [trial_sample()]
    longest = family.text_length(processor, trial) + PADDING
    limit = tokenizer.model_max_length
    shape = {"shape": family.shape} if family.shape else {}
    batch = family.inputs(processor, trial, min(longest, limit) if limit < NO_LIMIT else longest, **shape)
    masks = {key: batch[mask] for key, mask in MASKS.items() if key in batch and mask in batch}
    if not masks:
        return {}, ["the tokenizer gives no attention mask: the model reads its padding, and padded positions count"]
    if all(mask.all() for mask in masks.values()):
        return {}, ["the texts of this model are not padded: all positions count"]
    first = _outputs(family, model, batch)
    offsets: dict[str, Place] = {}
    leaks: dict[str, None] = {}
    for key, mask in masks.items():
        tokens = torch.where(mask.bool(), batch[key], _other_token(tokenizer, batch[key]))
        second = _outputs(family, model, {**batch, key: tokens})
        padded = (mask[0] == 0).nonzero().flatten()
        for name in first:
            start, leak = _start(first[name], second[name], padded, mask.shape[1])
            if start is not None:
                offsets.setdefault(name, (MASKS[key], start))
            if leak:
                leaks[name] = None
    offsets |= _of_their_stacks(offsets, find_layers(model, family), {name: len(out) for name, out in first.items()})
    if not leaks:
        return offsets, []
    return offsets, [
        f"padding reaches the real tokens of {len(leaks)} layers ({next(iter(leaks))} ...): the model does not mask it "
        "there, and these representations depend on the length that texts are padded to"
    ]


def _of_their_stacks(
    offsets: Mapping[str, Place], layers: Mapping[str, Layer], lengths: Mapping[str, int]
) -> dict[str, Place]:
    """The text's place in layers where the trial's change was too small to see: that of their stack.

    A layer takes it from those of its stack that have as many tokens, which must agree.
    """

    def stack(name: str) -> tuple[str, int]:
        return _stack(layers[name]), lengths[name]

    places: dict[tuple[str, int], set[Place]] = {}
    for name, place in offsets.items():
        places.setdefault(stack(name), set()).add(place)
    return {
        name: next(iter(agreed))
        for name in lengths
        if name not in offsets and layers[name].block and not layers[name].reads_image
        if len(agreed := places.get(stack(name), ())) == 1
    }


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
    """What each layer gives for a batch of one: (tokens, width). For one that gives no tensor, what enters it."""
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            output = output if isinstance(output, Tensor) else args[0]
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
