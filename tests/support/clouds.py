"""Points that are hard on careless distances, and the distances by brute force."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def gaussian(n: int, d: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) @ torch.randn(d, width, generator=generator)


def _outliers(scale: float) -> Callable[[int], Tensor]:
    def points(n: int) -> Tensor:
        x = gaussian(n, 10, 300)
        x[:, :3] *= scale
        x[:, 3] += 2 * scale
        return x

    return points


def _clusters(separation: float) -> Callable[[int], Tensor]:
    def points(n: int) -> Tensor:
        return gaussian(n, 10, 200) + separation * gaussian(4, 4, 200, seed=1)[torch.arange(n) % 4]

    return points


def _near_duplicates(n: int) -> Tensor:
    x = gaussian(n, 10, 200)
    x[-n // 10 :] = x[: n // 10] + 1e-4 * gaussian(n // 10, 200, 200, seed=1) / 15
    return x


def _helix(n: int) -> Tensor:
    t = torch.linspace(0, 60, n, dtype=torch.float64)
    t = t + 0.02 * torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (torch.stack([100 * t.cos(), 100 * t.sin(), t], 1) @ gaussian(3, 3, 100).double()).float()


def _swiss_roll(n: int) -> Tensor:
    u = torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
    t = 5 + 9 * u[:, 0]
    return torch.stack([t * t.cos(), t * t.sin(), 20 * u[:, 1]], 1) @ gaussian(3, 3, 200)


def _massive(n: int) -> Tensor:
    x = gaussian(n, 10, 200)
    x[:, :3] = torch.tensor([150.0, -400.0, 1200.0]) * (1 + 0.2 * gaussian(n, 3, 3, seed=1) / 3)
    return x


def _constants(n: int) -> Tensor:
    x = gaussian(n, 10, 200)
    x[:, 50:] = 1234.5
    return x


# name -> n -> points
HARD: dict[str, Callable[[int], Tensor]] = {
    "gaussian": lambda n: gaussian(n, 10, 200),
    "isotropic": lambda n: gaussian(n, 1000, 700),
    "offset 100": lambda n: 0.01 * gaussian(n, 10, 200) + 100,
    "outliers 300": _outliers(300),
    "outliers 3000": _outliers(3000),
    "near duplicates 1e-4": _near_duplicates,
    "clusters 1000": _clusters(1e3),
    "clusters 10000": _clusters(1e4),
    "clusters 1e7": _clusters(1e7),
    "float16": lambda n: gaussian(n, 10, 200).half(),
    "bfloat16": lambda n: gaussian(n, 200, 200).bfloat16(),
    "constant features": _constants,
    "helix": _helix,
    "swiss roll": _swiss_roll,
    "sparse relu": lambda n: (gaussian(n, 30, 1100) - 5).relu(),
    "massive activations": _massive,
    "float64": lambda n: gaussian(n, 10, 200).double() + 1e-9 * gaussian(n, 200, 200, seed=2).double() + 7,
    "ties": lambda n: torch.eye(n),
    "tiny values": lambda n: 1e-25 * gaussian(n, 10, 200),
    "huge values": lambda n: 1e25 * gaussian(n, 10, 200),
}


def brute(points: Tensor, k: int = 2) -> Tensor:
    """(n, k) distances from differences in float64."""
    points = points.double()
    nearest = []
    for i, point in enumerate(points):
        distances = torch.linalg.vector_norm(points - point, dim=1)
        distances[i] = torch.inf
        nearest.append(distances.topk(k, largest=False).values)
    return torch.stack(nearest)


class Pieces:
    """Rows in odd chunks, in a buffer that is overwritten, with echoes; counts the passes."""

    def __init__(self, points: Tensor, chunk: int = 37, n: int | None = None):
        self.points, self.chunk = points, chunk
        self.n, self.width = n or len(points), points.shape[1]
        self.passes = 0

    def chunks(self) -> Iterator[Tensor]:
        self.passes += 1
        for part in self.points.split(self.chunk, 1):
            buffer = part.clone()
            yield buffer
            buffer.fill_(torch.nan)

    def reduce(self, tensor: Tensor) -> Tensor:
        return tensor
