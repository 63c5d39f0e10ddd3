"""Sums over the tokens of an input tensor: what calibrated criteria read beside the weights.

They belong to the tensor, not to a layer: layers that read the same tensor share one object. They are additive over
batches, tokens and processes. It knows neither layers nor padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# tokens whose squares are added in float32 before they are added in float64, which takes far longer; error below 1e-6
TOKENS = 32
# tokens whose squares are in memory at once
CHUNK = 32 * TOKENS
# the widest tensor whose sums of x x^T are float64: an inverse magnifies rounding, which moves the choice of weights
DOUBLE_WIDTH = 2048
# the widest of them whose x x^T are so too, not only the sums over chunks of them: their rounding is magnified as well,
# but far less
DOUBLE_PRODUCTS = 512


def products_type(width: int) -> torch.dtype:
    """The type of the sums of x x^T of a tensor so wide, and of what is computed from them."""
    return torch.float64 if width <= DOUBLE_WIDTH else torch.float32


def adding_bytes(width: int, tokens: int) -> int:
    """What adding tokens to these sums takes: a copy of them, and their own x x^T where it is float32."""
    copied = 8 if width <= DOUBLE_PRODUCTS else 4
    return copied * tokens * width + 4 * width**2 * (DOUBLE_PRODUCTS < width <= DOUBLE_WIDTH)


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over `count` tokens x of n values: of x^2, (n,) float64, and of x x^T, (n, n), where it is kept."""

    count: int
    squares: Tensor
    products: Tensor | None = None

    @property
    def rms(self) -> Tensor:
        """The root mean square of each value, (n,) float64."""
        return (self.squares / max(self.count, 1)).sqrt_()


class InputStatistics:
    """The sums over a tensor of `width` values a token; with `products` they hold x x^T too, of `products_type`."""

    def __init__(self, width: int, *, products: bool = False, device: torch.device | str | None = None) -> None:
        self._state = {
            "count": torch.zeros((), dtype=torch.int64, device=device),
            "squares": torch.zeros(width, dtype=torch.float64, device=device),
        }
        if products:
            self._state["products"] = torch.zeros(width, width, dtype=products_type(width), device=device)

    @classmethod
    def added(cls, states: Sequence[Mapping[str, Tensor]]) -> InputStatistics:
        """The sums over several tensors of one width, from their states."""
        statistics = cls(0)
        statistics._state = {key: sum(state[key] for state in states) for key in states[0]}
        return statistics

    @torch.no_grad()
    def add(self, tokens: Tensor) -> None:
        """Take in tokens (n, width), in any floating type."""
        self._state["count"] += len(tokens)
        squares, products = self._state["squares"], self._state.get("products")
        for chunk in tokens.split(CHUNK):
            chunk = chunk.float()
            whole = len(chunk) // TOKENS * TOKENS
            grouped = chunk[:whole].square().view(-1, TOKENS, chunk.shape[1]).sum(1)
            squares += grouped.sum(0, dtype=torch.float64)
            squares += chunk[whole:].square().sum(0)
            if products is None:
                continue
            if chunk.shape[1] <= DOUBLE_PRODUCTS:
                chunk = chunk.double()
            if chunk.dtype == products.dtype:
                products.addmm_(chunk.T, chunk)
            else:
                products += chunk.T @ chunk

    def total(self) -> Sums:
        """The sums over all tokens; squares are copied, products, the largest tensor here, are by reference."""
        return Sums(int(self._state["count"]), self._state["squares"].clone(), self._state.get("products"))

    def state_dict(self) -> dict[str, Tensor]:
        """All sums, by reference: those of several processes add up tensor by tensor."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the sums of a tensor of the same width; ValueError where they are of another."""
        if {key: value.shape for key, value in state.items()} != {k: v.shape for k, v in self._state.items()}:
            raise ValueError("these statistics are of another tensor")
        for key, value in state.items():
            self._state[key].copy_(value)
