"""A pruned linear map with a low-rank update that its mask holds back: SparseLoRA (Li, He, Chen 2024).

    y = x [(W + c BA) * M]^T + b        W (out, in) frozen, B (out, r), A (r, in), c = alpha / r, M the mask

Merging leaves a plain layer with the same zeros. It does not know models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from idvl.arguments import positive_number, whole_number
from idvl.errors import UsageError, quoted
from idvl.sparsity.masks import pack, zero_

# forward passes that MaskedLoRA stands in for
LINEAR = (nn.Linear.forward, Conv1D.forward)

# rows of the weight whose gradient is held at a time, on a CPU and on a GPU, where many small products take longer;
# multiples of 8, so that each tile's mask begins at a byte
TILE, TILE_ON_GPU = 256, 4096


class MaskedLoRA(nn.Module):
    """A linear layer (or transformers' Conv1D) with masked LoRA on its weight. Only `lora_a` and `lora_b` are trained.

    `kept` (as the weight, bool): False where a weight is pruned; None where all are kept. B starts at zero, so that the
    layer begins as the pruned one, bit by bit. Pruned weights stay zero whatever the product holds, infinities and NaN
    included. There is no dropout: the product BA is part of the weight, and its input is that of the whole layer.

    The layer's parameters are shared with the module, not copied, and frozen. While `is_dense` is set, the layer
    computes with the bare weight: the dense one's output, where pruned weights were left in it.
    """

    def __init__(
        self,
        layer: nn.Module,
        kept: Tensor | None = None,
        *,
        rank: int,
        alpha: float = 16.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if getattr(type(layer), "forward", None) not in LINEAR:
            raise UsageError(f"layer is a plain torch.nn.Linear or a Conv1D of transformers, not {quoted(layer)}")
        self.is_transposed = not isinstance(layer, nn.Linear)
        self.weight, self.bias = layer.weight, layer.bias
        shape = self.weight.T.shape if self.is_transposed else self.weight.shape
        self.out_features, self.in_features = shape
        rank, alpha = whole_number("rank", rank, least=1), positive_number("alpha", alpha)
        _check(self.weight, kept, rank)
        for parameter in filter(lambda parameter: parameter is not None, (self.weight, self.bias)):
            parameter.requires_grad_(False)
        self.rank, self.alpha, self.scale, self.is_dense = rank, alpha, alpha / rank, False
        # in a tuple it is no submodule
        self._layer = (layer,)
        # half precision is too coarse for small steps
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        a = torch.empty(rank, self.in_features, dtype=dtype)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        self.lora_a = nn.Parameter(a.to(self.weight.device))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank, dtype=dtype, device=self.weight.device))
        packed = None if kept is None else pack(kept.reshape(-1).to(self.weight.device))
        self.register_buffer("packed", packed, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        is_autocast = torch.is_autocast_enabled(kind)
        if is_autocast:
            x = x.to(torch.get_autocast_dtype(kind))
        # autocast would keep the whole weight in half precision for the backward pass
        with torch.autocast(kind, enabled=False) if is_autocast else nullcontext():
            if self.is_dense:
                return _product(x, self.weight.to(x.dtype), self.bias, self.is_transposed)
            how = self.packed, self.scale, self.is_transposed
            return _MaskedProduct.apply(x, self.bias, self.weight, *self._factors(), *how)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """(left, right), whose product is BA laid out as the weight is stored."""
        return (self.lora_a.T, self.lora_b.T) if self.is_transposed else (self.lora_b, self.lora_a)

    @property
    def layer(self) -> nn.Module:
        """The plain layer whose place this one takes."""
        return self._layer[0]

    def sharing(self, layer: nn.Module) -> MaskedLoRA:
        """Masked LoRA for another layer that holds the same weight: it trains the same A and B."""
        other = MaskedLoRA(layer, rank=self.rank, alpha=self.alpha)
        other.lora_a, other.lora_b, other.packed = self.lora_a, self.lora_b, self.packed
        return other

    @torch.no_grad()
    def merged(self) -> Tensor:
        """(W + c BA) * M in the weight's shape and dtype."""
        merged = _merged(self.weight, *self._factors(), self.packed, self.scale, slice(None))
        return merged.to(self.weight.dtype)

    @torch.no_grad()
    def merge(self) -> None:
        """Write `merged` into the weight. The update stays: a second call would add it again."""
        self.weight.copy_(self.merged())

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, rank={self.rank}, alpha={self.alpha:g}"


def _check(weight: Tensor, kept: Tensor | None, rank: int) -> None:
    """UsageError for what does not fit the weight."""
    if kept is not None and (kept.shape != weight.shape or kept.dtype != torch.bool):
        raise UsageError(
            f"a mask is a bool tensor {tuple(weight.shape)} as the weight, not {kept.dtype} {tuple(kept.shape)}"
        )
    if rank > min(weight.shape):
        raise UsageError(f"rank {rank} and a weight of {tuple(weight.shape)}: use a rank from 1 to {min(weight.shape)}")


def _merged(weight: Tensor, left: Tensor, right: Tensor, packed: Tensor | None, scale: float, rows: slice) -> Tensor:
    """These rows of the stored weight with the update on them and the mask over both, in the factors' dtype."""
    tile = torch.addmm(weight[rows].to(left.dtype), left[rows], right, alpha=scale)
    _mask(tile, packed, rows)
    return tile


def _mask(tile: Tensor, packed: Tensor | None, rows: slice) -> None:
    if packed is not None:
        start = (rows.start or 0) * tile.shape[1] // 8
        zero_(tile, packed[start : start + -(-tile.numel() // 8)])


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, is_transposed: bool) -> Tensor:
    """The layer's own product, as torch's Linear and transformers' Conv1D compute it."""
    bias = None if bias is None else bias.to(x.dtype)
    if not is_transposed:
        return F.linear(x, weight, bias)
    return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[1])


class _MaskedProduct(torch.autograd.Function):
    """Keeps x, W, A, B and the packed mask for the backward pass; the merged weight is computed again there, in tiles.

    A full gradient R = (dL/dy)^T x of the weight is never held: of each tile of its rows, what A and B need is taken.
    With L and G the left and right factor of the update, dL/dL = c (R * M) G^T and dL/dG = c L^T (R * M).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor | None,
        weight: Tensor,
        left: Tensor,
        right: Tensor,
        packed: Tensor | None,
        scale: float,
        is_transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, left, right, packed)
        ctx.scale, ctx.is_transposed = scale, is_transposed
        # one product, not one a tile, so that a zero update gives the pruned layer's bits
        merged = _merged(weight, left, right, packed, scale, slice(None)).to(x.dtype)
        return _product(x, merged, bias, is_transposed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, left, right, packed = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            outer = gradient.reshape(-1, gradient.shape[-1])
            inputs = x.reshape(-1, x.shape[-1])
            # tiles add up, which half precision is too coarse for
            gx = torch.zeros_like(inputs, dtype=left.dtype) if ctx.needs_input_grad[0] else None
            g_left, g_right = torch.empty_like(left), torch.zeros_like(right)
            for rows in _tiles(weight):
                if gx is not None:
                    tile = _merged(weight, left, right, packed, ctx.scale, rows).to(x.dtype)
                    if ctx.is_transposed:
                        gx[:, rows] = outer @ tile.T
                    else:
                        _add_product(gx, outer[:, rows], tile)
                first, second = (inputs, outer) if ctx.is_transposed else (outer, inputs)
                full = (first[:, rows].T @ second).to(left.dtype)
                _mask(full, packed, rows)
                g_left[rows] = full @ right.T
                g_right.addmm_(left[rows].T, full)
            gx = None if gx is None else gx.to(x.dtype).view_as(x)
            bias = outer.sum(0, dtype=left.dtype) if ctx.needs_input_grad[1] else None
            return gx, bias, None, g_left.mul_(ctx.scale), g_right.mul_(ctx.scale), None, None, None


def _add_product(total: Tensor, one: Tensor, other: Tensor) -> None:
    if total.dtype == one.dtype:
        total.addmm_(one, other)
    else:
        total += one @ other


def _tiles(weight: Tensor) -> Iterator[slice]:
    size = TILE if weight.device.type == "cpu" else TILE_ON_GPU
    for start in range(0, len(weight), size):
        yield slice(start, min(start + size, len(weight)))
