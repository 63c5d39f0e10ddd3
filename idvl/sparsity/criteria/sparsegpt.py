"""SparseGPT: the error that remains once other weights have made up for a weight. It keeps nothing."""

from __future__ import annotations

from torch import Tensor

from idvl.sparsity import obs
from idvl.sparsity.structure import Structure


class SparseGPT:
    """w_ij^2 / [H_j^-1]_jj (Frantar & Alistarh, 2023, section 3.2), with the weights as they are updated so far."""

    needs = frozenset({"second moments"})
    compares = "layer"

    def select(self, weight: Tensor, factor: obs.Factor, zeros: int, structure: Structure) -> tuple[Tensor, Tensor]:
        return obs.select(weight.detach(), factor, zeros, structure)


CRITERION = SparseGPT
