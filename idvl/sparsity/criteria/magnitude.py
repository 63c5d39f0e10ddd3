"""Magnitude: |w|. It keeps nothing."""

from __future__ import annotations

from torch import Tensor


class Magnitude:
    """|w| (Zhu & Gupta, 2017)."""

    needs = frozenset()
    compares = "scope"
    bytes_per_weight = 0

    def observe(self, name: str, weight: Tensor, grad: Tensor | None) -> None:
        pass

    def score(self, name: str, weight: Tensor, grad: Tensor | None) -> Tensor:
        return weight.detach().abs().float()

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


CRITERION = Magnitude
