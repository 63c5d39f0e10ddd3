"""Gradient: |w g|, to first order the change of the loss when the weight goes. It keeps nothing."""

from __future__ import annotations

from torch import Tensor


class Gradient:
    """|w g| of the gradient at hand (Molchanov et al., 2019), not smoothed."""

    needs = frozenset({"gradient"})
    compares = "scope"
    bytes_per_weight = 0

    def observe(self, name: str, weight: Tensor, grad: Tensor | None) -> None:
        pass

    def score(self, name: str, weight: Tensor, grad: Tensor | None) -> Tensor:
        return (weight.detach().float() * grad.float()).abs_()

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


CRITERION = Gradient
