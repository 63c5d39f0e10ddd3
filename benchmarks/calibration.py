"""Are the standard errors honest? The spread over seeds against the error that each estimate reports.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/calibration.py           about two minutes

For every kind of points and dimension, SEEDS samples of N points: the standard deviation of the estimates over the mean
reported standard error should be near 1. The spread itself is known to 1 / sqrt(2 SEEDS), 5 %.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from idvl.geometry.estimators import estimate, requirements
from idvl.geometry.neighbors import Matrix, nearest

RESULTS = Path(__file__).parent / "results" / "calibration.json"
N, SEEDS, WIDTH = 1000, 200, 100
DIMENSIONS = (1, 2, 3, 5, 10, 20, 50)
ESTIMATORS = ("twonn", "twonn-mle", "gride")


def torus(d: int, generator: torch.Generator) -> Tensor:
    """Uniform on a flat torus, without a boundary."""
    angles = 2 * torch.pi * torch.rand(N, d, generator=generator, dtype=torch.float64)
    return torch.cat([angles.cos(), angles.sin()], 1)


def cube(d: int, generator: torch.Generator) -> Tensor:
    return torch.rand(N, d, generator=generator, dtype=torch.float64)


def gaussian(d: int, generator: torch.Generator) -> Tensor:
    return torch.randn(N, d, generator=generator, dtype=torch.float64)


def curved(d: int, generator: torch.Generator) -> Tensor:
    """A Gaussian through a fixed random nonlinearity, as a layer makes one of its input."""
    weights = torch.randn(d, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.tanh(gaussian(d, generator) @ weights / d**0.5)


KINDS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "torus": torus,
    "cube": cube,
    "gaussian": gaussian,
    "curved": curved,
}


def one(kind: str, d: int, seed: int) -> dict[str, tuple[float, float]]:
    """(dimension, reported error) of each estimator for one sample."""
    torch.set_num_threads(1)
    neighbors = nearest(Matrix(KINDS[kind](d, torch.Generator().manual_seed(1000 + seed))), **requirements("gride"))
    found = {name: estimate(neighbors, name) for name in ESTIMATORS}
    return {name: (result.dimension, result.stderr) for name, result in found.items()}


def main() -> None:
    print(f"spread over {SEEDS} seeds / mean reported error (mean estimate), N = {N}\n")
    print(f"{'points':10} {'d':>3} " + " ".join(f"{name:>16}" for name in ESTIMATORS))
    records = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for kind in KINDS:
            for d in DIMENSIONS:
                runs = list(pool.map(one, [kind] * SEEDS, [d] * SEEDS, range(SEEDS), chunksize=10))
                cells = []
                for name in ESTIMATORS:
                    values, errors = torch.tensor([run[name] for run in runs], dtype=torch.float64).unbind(1)
                    record = {
                        "points": kind,
                        "d": d,
                        "estimator": name,
                        "mean": float(values.mean()),
                        "spread": float(values.std()),
                        "reported": float(errors.mean()),
                        "ratio": float(values.std() / errors.mean()),
                    }
                    records.append(record)
                    cells.append(f"{record['ratio']:5.2f} ({record['mean']:8.2f})")
                print(f"{kind:10} {d:3} " + " ".join(cells), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"n": N, "seeds": SEEDS, "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
