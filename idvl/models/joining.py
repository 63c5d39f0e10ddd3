"""Samples that a processor prepared one by one, joined into a batch, and a batch's tensors split by sample again.

What belongs to a text is padded to one length. Other tensors are padded to the largest and concatenated: one row a
sample where the processor gives one, packed patches or tiles as many as each sample has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# the label of a term that is not learnt; cross-entropy's own convention
IGNORED = -100
# key of a batch: for each sample, how many numbers its images have. A packed tensor is divided in these proportions
SHARES = "shares"
# keys of tokens; what has their shape belongs to their text
TEXTS = ("input_ids", "qformer_input_ids", "decoder_input_ids")
# the axis of a layer's tensor that holds the samples; whether they take it up in proportion to their shares
Axis = tuple[int, bool]


def size_of(inputs: Mapping[str, Tensor]) -> int:
    """How many samples a batch has."""
    return len(inputs[SHARES] if SHARES in inputs else next(iter(inputs.values())))


def joined(
    parts: Sequence[Mapping[str, Tensor]], *, pad: int, length: int | None = None, side: str = "right"
) -> dict[str, Tensor]:
    """A batch of samples, each prepared as a batch of one.

    Text is padded on `side` with `pad`, or cut, to `length` tokens (None: the longest); a Q-Former's always on the
    right, since its positions are counted from the first token. Masks and everything else are padded with zeros, labels
    with IGNORED.
    """
    fill = {"input_ids": pad, "decoder_input_ids": pad, "labels": IGNORED}
    batch = {}
    for key in parts[0]:
        values = [part[key] for part in parts]
        text = not values[0].is_floating_point() and any(_alike(parts, key, own) for own in TEXTS)
        edge = side if text and not key.startswith("qformer_") else "right"
        if text:
            values = [_to_length(value, length, edge, fill.get(key, 0)) for value in values]
        batch[key] = _stacked(values, edge, fill.get(key, 0))
    images = next((key for key, value in parts[0].items() if value.is_floating_point()), None)
    shares = [part[images].numel() if images else 1 for part in parts]
    return {**batch, SHARES: torch.tensor(shares)}


def _alike(parts: Sequence[Mapping[str, Tensor]], key: str, other: str) -> bool:
    """Whether two tensors have as many tokens in every sample."""
    return all(other in part and part[key].shape[:2] == part[other].shape for part in parts)


def _to_length(value: Tensor, length: int | None, side: str, fill: int) -> Tensor:
    """A tensor (1, tokens, ...) cut or padded to `length` tokens."""
    if length is None:
        return value
    missing = length - value.shape[1]
    edges = (missing, 0) if side == "left" else (0, missing)
    return F.pad(value, (0, 0) * (value.ndim - 2) + edges, value=fill)


def _stacked(values: Sequence[Tensor], side: str, fill: int) -> Tensor:
    """Tensors one after the other along their first axis, the other axes padded to the largest."""
    largest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        edges: list[int] = []
        for axis in reversed(range(1, value.ndim)):
            missing = largest[axis - 1] - value.shape[axis]
            edges += [missing, 0] if side == "left" and axis == 1 else [0, missing]
        padded.append(F.pad(value, edges, value=fill) if any(edges) else value)
    return torch.cat(padded)


def axis_of(
    one: torch.Size, many: torch.Size, first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> Axis | None:
    """Along which axis a layer's tensor holds the samples, whose shape is `one` for `first` and `many` for `second`.

    Such an axis grows with the number of samples, or with their shares. None where no axis does.
    """
    counts = size_of(first), size_of(second)
    shares = tuple(int(batch[SHARES].sum()) if SHARES in batch else size_of(batch) for batch in (first, second))
    for axis in range(len(one) - 1):
        packed = one[axis] * shares[1] == many[axis] * shares[0]
        # a row a sample, rather than packed where it might be both
        if one[axis] * counts[1] == many[axis] * counts[0] and (one[axis] == counts[0] or not packed):
            return axis, False
        if packed:
            return axis, True
    return None


def split(tensor: Tensor, axis: Axis, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None] | None:
    """A layer's tensor as (samples, tokens, width), and which tokens are a sample's own: None if all are.

    None where the axis cannot be divided between the samples.
    """
    number, packed = axis
    size = size_of(inputs)
    shares = inputs[SHARES].tolist() if packed and SHARES in inputs else [1] * size
    total, rows = sum(shares), tensor.movedim(number, 0)
    lengths = [share * len(rows) // total for share in shares]
    if any(share * len(rows) % total for share in shares):
        return None
    if len(set(lengths)) == 1:
        rows = rows.unflatten(0, (size, -1))
        return rows.movedim(1, number + 1).reshape(size, -1, tensor.shape[-1]), None
    own = [part.movedim(0, number).reshape(-1, tensor.shape[-1]) for part in rows.split(lengths)]
    real = torch.arange(max(map(len, own))) < torch.tensor([len(part) for part in own])[:, None]
    return pad_sequence(own, batch_first=True), real
