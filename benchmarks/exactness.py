"""Distances and dimensions against float64 brute force on points that are hard on rounded arithmetic.

    .venv/bin/python benchmarks/exactness.py        about a minute

Goal: the largest relative error of r2 / r1 and of the dimension at most 1e-9 on every set. For comparison, what faiss
and torch.cdist make of the same points.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from idvl.geometry import pareto
from idvl.geometry.estimators import requirements
from idvl.geometry.intrinsic_dimension import intrinsic_dimension
from idvl.geometry.neighbors import DenseRows, nearest

RESULTS = Path(__file__).parent / "results" / "exactness.json"
N, D = 2000, 768


def gaussian(d: int, width: int = D, seed: int = 0, n: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) @ torch.randn(d, width, generator=generator) / d**0.5


def outliers(scale: float) -> Tensor:
    points = gaussian(10)
    points[:, :3] = scale * (1 + 0.05 * gaussian(3, 3, seed=1))
    points[:, 3:5] *= scale
    return points


def copies() -> Tensor:
    points = gaussian(10)
    points[-N // 10 :] = points[: N // 10]
    return points


def near_copies() -> Tensor:
    points = gaussian(10)
    points[-N // 10 :] = points[: N // 10] + 1e-4 * gaussian(D, seed=1)[: N // 10] / D**0.5
    return points


def clusters(separation: float) -> Tensor:
    return gaussian(10) + separation * gaussian(4, seed=1, n=4)[torch.arange(N) % 4]


def helix() -> Tensor:
    t = 60 * torch.rand(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (torch.stack([100 * t.cos(), 100 * t.sin(), t], 1) @ gaussian(3, n=3).double()).float()


def swiss_roll() -> Tensor:
    u = torch.rand(N, 2, generator=torch.Generator().manual_seed(0))
    t = 5 + 9 * u[:, 0]
    return torch.stack([t * t.cos(), t * t.sin(), 20 * u[:, 1]], 1) @ gaussian(3, n=3)


def constant_features() -> Tensor:
    points = gaussian(10)
    points[:, D // 4 :] = 1234.5
    return points


def massive() -> Tensor:
    points = gaussian(10)
    points[:, :3] = torch.tensor([150.0, -400.0, 1200.0]) * (1 + 0.2 * gaussian(3, 3, seed=1))
    return points


SETS: dict[str, Callable[[], Tensor]] = {
    "gaussian d=10": lambda: gaussian(10),
    "isotropic": lambda: gaussian(D),
    "offset 100": lambda: gaussian(10) + 100,
    "outlier dimensions 300": lambda: outliers(300),
    "outlier dimensions 3000": lambda: outliers(3000),
    "exact duplicates 10 %": copies,
    "near duplicates 1e-4": near_copies,
    "clusters s=1000": lambda: clusters(1e3),
    "clusters s=10000": lambda: clusters(1e4),
    "float16 input": lambda: gaussian(10).half(),
    "bfloat16 input": lambda: gaussian(D).bfloat16(),
    "constant features": constant_features,
    "helix d=1": helix,
    "swiss roll d=2": swiss_roll,
    "sparse ReLU": lambda: (gaussian(30, 3072) - 1).relu(),
    "massive activations": massive,
    "float64 input": lambda: gaussian(10).double() + 1e-9 * gaussian(D, seed=2).double() + 7,
    "values of 1e-20": lambda: gaussian(10) * 1e-20,
}


def brute(points: Tensor) -> Tensor:
    """(n, 2) distances from differences in float64."""
    points, found = points.double(), []
    for i, point in enumerate(points):
        distances = torch.linalg.vector_norm(points - point, dim=1)
        distances[i] = torch.inf
        found.append(distances.topk(2, largest=False).values)
    return torch.stack(found)


def dimension(distances: Tensor) -> float:
    """Facco's fit of the rows whose first distance is not zero."""
    distances = distances[distances[:, 0] > 0].double()
    logs = (distances[:, 1] / distances[:, 0]).log()
    logs = logs[logs.isfinite()]
    return pareto.slope(*pareto.facco_line(logs)) if len(logs) > 20 else float("nan")


def by_faiss(points: Tensor) -> Tensor:
    import faiss

    squares, _ = faiss.knn(points.float().numpy(), points.float().numpy(), 3)
    return torch.from_numpy(squares[:, 1:]).clamp(min=0).sqrt()


def by_cdist(points: Tensor) -> Tensor:
    return torch.cdist(points.float(), points.float()).topk(3, largest=False).values[:, 1:]


def measure(points: Tensor) -> dict[str, object]:
    start = time.perf_counter()
    found = nearest(DenseRows(points), **requirements("twonn"))
    seconds = time.perf_counter() - start
    kept = torch.unique(points, dim=0, return_inverse=True)[1]
    first = torch.tensor(sorted({int(group): i for i, group in reversed(list(enumerate(kept)))}.values()))
    assert torch.equal(first, found.kept), "the distinct points differ"
    exact = brute(points[first])
    ratio, exact_ratio = (d[:, 1] / d[:, 0] for d in (found.distances, exact))
    true = dimension(exact)
    return {
        "ratio_error": float((ratio / exact_ratio - 1).abs().max()),
        "dimension_error": abs(intrinsic_dimension(points).dimension / true - 1),
        "dimension": true,
        "faiss_error": dimension(by_faiss(points)) / true - 1,
        "cdist_error": dimension(by_cdist(points)) / true - 1,
        "duplicates": found.n_duplicates,
        "precision": found.diagnostics["precision"],
        "measured_pairs": found.diagnostics["measured_pairs"],
        "seconds": seconds,
    }


def main() -> None:
    print(f"{N} points. Relative errors against float64 brute force; for faiss and cdist that of the dimension.\n")
    head = "points", "r2/r1", "dimension", "true d", "faiss", "cdist", "copies", "product", "pairs / n"
    print("{:24} {:>8} {:>9} {:>8} {:>8} {:>8} {:>7} {:>9} {:>9}".format(*head))
    results = {}
    for name, make in SETS.items():
        row = results[name] = measure(make())
        print(
            f"{name:24} {row['ratio_error']:8.0e} {row['dimension_error']:9.0e} {row['dimension']:8.3f} "
            f"{row['faiss_error']:8.0e} {row['cdist_error']:8.0e} {row['duplicates']:7} {row['precision']:>9} "
            f"{row['measured_pairs'] / N:9.2f}"
        )
    worst = {key: max(row[key] for row in results.values()) for key in ("ratio_error", "dimension_error")}
    print(f"\nworst: r2/r1 {worst['ratio_error']:.1e}, dimension {worst['dimension_error']:.1e}; goal 1e-9")
    RESULTS.parent.mkdir(exist_ok=True)
    clean = {name: {k: None if v != v else v for k, v in row.items()} for name, row in results.items()}
    RESULTS.write_text(json.dumps({"n": N, "worst": worst, "goal": 1e-9, "sets": clean}, indent=1) + "\n")


if __name__ == "__main__":
    main()
