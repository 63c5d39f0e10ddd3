"""MULTIFLOW: |w| times how much flows through the two neurons that it connects. It keeps nothing."""

from __future__ import annotations

from torch import Tensor

from idvl.sparsity.statistics import Sums


class Multiflow:
    """|w_ij| times the mean over row i and the mean over column j of |w_ij| |x_j| (Farina et al., 2024, section 3).

    |x_j| is the root mean square over tokens. As published, layers have the sparsities of allocation `magnitude`.
    """

    needs = frozenset({"moments"})
    compares = "layer"

    def score(self, weight: Tensor, sums: Sums) -> Tensor:
        size = weight.detach().abs().double()
        flow = size * sums.rms
        return (size * flow.mean(1, keepdim=True) * flow.mean(0, keepdim=True)).float()


CRITERION = Multiflow
