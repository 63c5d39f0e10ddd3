"""The spectra of weights: what AlphaPruning reads of each layer. It needs no data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from idvl.errors import RunError
from idvl.reporter import Progress
from idvl.sparsity.allocation.alpha import exponent

if TYPE_CHECKING:
    from idvl.pruning.calibration import Calibration


def exponents(job: Calibration, progress: Progress) -> dict[str, float]:
    """The power law's exponent of each layer in scope. Processes share the layers."""
    part = job.team.part(len(job.layers))

    def own() -> Tensor:
        values = torch.zeros(len(job.layers), dtype=torch.float64)
        for index, name in enumerate(job.layers):
            if index in part:
                values[index] = _exponent(name, job.weight(name))
                progress(index - part.start + 1, len(part))
        return values

    values = job.team.reduce(job.team.each(own).to(job.device)).tolist()
    return dict(zip(job.layers, values, strict=True))


def _exponent(name: str, weight: Tensor) -> float:
    if not bool(weight.isfinite().all()):
        raise RunError(f"{name} holds NaN or infinite weights")
    try:
        return exponent(eigenvalues(weight))
    except ValueError as error:
        raise RunError(f"{name}: {error}: leave it out of the scope, or choose another allocation") from error


def eigenvalues(weight: Tensor) -> Tensor:
    """The squared singular values of a weight above rounding, ascending, float64 on the CPU.

    Those of the smaller Gram matrix, which takes a third of the time of singular values.
    """
    matrix = weight.double()
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    values = torch.linalg.eigvalsh(gram).cpu()
    return values[values > values[-1] * len(values) * torch.finfo(values.dtype).eps]
