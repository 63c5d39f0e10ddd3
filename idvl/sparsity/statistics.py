"""Sums over the tokens of an input tensor, by token class: what calibrated criteria read beside the weights.

They belong to the tensor, not to a layer: layers that read the same tensor share one object. They are additive over
batches, classes and processes. It knows neither layers nor padding.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# tokens whose squares are added in float32 before they are added in float64, which takes far longer; error below 1e-6
TOKENS = 32
# tokens whose squares are in memory at once
CHUNK = 128 * TOKENS


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over `count` tokens x of n values: of x^2, (n,) float64, and of x x^T, (n, n) float32, where it is kept."""

    count: int
    squares: Tensor
    products: Tensor | None = None

    @property
    def rms(self) -> Tensor:
        """The root mean square of each value, (n,) float64."""
        return (self.squares / max(self.count, 1)).sqrt_()


class InputStatistics:
    """The sums of each of `kinds`, the classes of tokens, over a tensor of `width` values a token.

    With `products` they hold x x^T too, 4 width^2 bytes a class.
    """

    def __init__(
        self,
        width: int,
        *,
        kinds: Collection[str] = ("token",),
        products: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        self._state: dict[str, Tensor] = {}
        for kind in kinds:
            self._state[f"{kind}.count"] = torch.zeros((), dtype=torch.int64, device=device)
            self._state[f"{kind}.squares"] = torch.zeros(width, dtype=torch.float64, device=device)
            if products:
                self._state[f"{kind}.products"] = torch.zeros(width, width, device=device)

    @classmethod
    def added(cls, states: Sequence[Mapping[str, Tensor]]) -> InputStatistics:
        """The sums over several tensors of one width, from their states."""
        statistics = cls(0, kinds=())
        for state in states:
            for key, value in state.items():
                known = statistics._state.get(key)
                statistics._state[key] = value.clone() if known is None else known + value
        return statistics

    @property
    def kinds(self) -> tuple[str, ...]:
        """The classes of tokens."""
        return tuple(key.removesuffix(".count") for key in self._state if key.endswith(".count"))

    @torch.no_grad()
    def add(self, tokens: Tensor, kind: str = "token") -> None:
        """Take in tokens (n, width) of a class, in any floating type."""
        self._state[f"{kind}.count"] += len(tokens)
        squares, products = self._state[f"{kind}.squares"], self._state.get(f"{kind}.products")
        for chunk in tokens.split(CHUNK):
            chunk = chunk.float()
            whole = len(chunk) // TOKENS * TOKENS
            grouped = chunk[:whole].square().view(-1, TOKENS, chunk.shape[1]).sum(1)
            squares += grouped.sum(0, dtype=torch.float64)
            squares += chunk[whole:].square().sum(0)
            if products is not None:
                products.addmm_(chunk.T, chunk)

    def total(self, kinds: Collection[str] | None = None) -> Sums:
        """The sums over the tokens of some classes, of all by default."""
        chosen = self.kinds if kinds is None else [kind for kind in self.kinds if kind in kinds]
        counts, squares, products = (
            [self._state[f"{kind}.{name}"] for kind in chosen if f"{kind}.{name}" in self._state]
            for name in ("count", "squares", "products")
        )
        zero = torch.zeros_like(self._state[f"{self.kinds[0]}.squares"])
        return Sums(
            count=int(sum(counts)),
            squares=sum(squares, zero),
            # of one class by reference: it is the largest tensor here
            products=products[0] if len(products) == 1 else sum(products) if products else None,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """All sums, by reference: those of several processes add up tensor by tensor."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the sums of a tensor of the same width and classes; ValueError where they are of another."""
        if {key: value.shape for key, value in state.items()} != {k: v.shape for k, v in self._state.items()}:
            raise ValueError("these statistics are of another tensor")
        for key, value in state.items():
            self._state[key].copy_(value)
