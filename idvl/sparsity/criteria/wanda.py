"""Wanda: |w| times the norm of what the weight is multiplied by. It keeps nothing."""

from __future__ import annotations

from torch import Tensor

from idvl.sparsity.statistics import Sums


class Wanda:
    """|w_ij| |x_j| (Sun et al., 2024, section 3), with the root mean square of x_j over tokens for its norm.

    A factor common to a layer, as the number of tokens, changes no order within it.
    """

    needs = frozenset({"moments"})
    compares = "row"

    def score(self, weight: Tensor, sums: Sums) -> Tensor:
        return weight.detach().abs().float() * sums.rms.float()


CRITERION = Wanda
