"""What speaks for an estimate, and against it. It does not know estimators."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from idvl.geometry import pareto

if TYPE_CHECKING:
    from idvl.geometry.neighbors import Neighbors

# logarithms of ratios below this are ties, given how well distances are known (idvl.geometry.candidates.SHARP)
TIE = 1e-10


def log_ratios_of(first: Tensor, second: Tensor) -> Tensor:
    """ln(second / first), 0 where the two may be equally far: distances are certain to a relative 2.5e-11."""
    ratios = (second / first).log()
    return ratios.masked_fill(ratios <= TIE, 0.0)


def diagnose(neighbors: Neighbors, log_ratios: Tensor) -> dict[str, Any]:
    """What all estimators report: agreement of two fits, goodness of fit, ties, and the dimension at each scale."""
    ties = int((log_ratios == 0).sum())
    if ties == len(log_ratios):
        return {"ties": ties}
    mle = pareto.pareto_mle(log_ratios)
    fits: dict[str, Any] = {"ties": ties, "mle": mle, "ks_distance": pareto.pareto_distance(log_ratios, mle)}
    x, y = pareto.facco_line(log_ratios)
    if float(x.sum()) > 0:
        line = pareto.slope(x, y)
        fits |= {"linear": line, "linear_mle_gap": line / mle - 1, "r_squared": pareto.r_squared(x, y)}
    curve = _scale_curve(neighbors)
    return fits | {"scales": curve, "per_doubling": _per_doubling(curve)}


def _scale_curve(neighbors: Neighbors) -> list[dict[str, Any]]:
    """The dimension from the ratio of the distances to neighbours m and 2 m; `within` certainly bounds its error.

    Beyond the nearest neighbours the distances come from the product alone. Where rounding could have changed them
    altogether, `within` is None; where it has, so is the dimension.
    """
    if len(neighbors.ranks) < 2:
        return []
    low, high = neighbors.ranked.unbind(2)
    middle = ((low.square() + high.square()) / 2).sqrt()
    bounds = [low[:, 1:] / high[:, :-1], middle[:, 1:] / middle[:, :-1], high[:, 1:] / low[:, :-1]]
    scales = torch.tensor(neighbors.ranks[:-1], device=low.device)
    dimensions, _ = pareto.gride(torch.cat(bounds, 1).log().T, scales.repeat(3))
    rows = zip(neighbors.ranks, *dimensions.view(3, -1).tolist(), middle.mean(0).tolist(), strict=False)
    curve = []
    for m, most, d, least, distance in rows:
        is_valid = math.isfinite(d) and d > 0
        within = max(most - d, d - least) if is_valid and math.isfinite(most) and least > 0 else None
        dimension = d if is_valid else None
        curve.append({"neighbors": [m, 2 * m], "dimension": dimension, "within": within, "mean_distance": distance})
    return curve


def _per_doubling(curve: list[dict[str, Any]]) -> float | None:
    """By what share the estimate would rise with twice the points, going by how it falls from scale 1 to scale 4.

    Taking neighbour 2 m for neighbour m is like halving the number of points.
    """
    near = [scale["dimension"] for scale in curve[:3]]
    if len(near) < 3 or None in near:
        return None
    return (near[0] / near[2]) ** 0.5 - 1
