"""Are the standard errors honest? The spread over seeds against the error that each estimate reports.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/calibration.py           about three minutes

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
from idvl.geometry.neighbors import DenseRows, nearest

RESULTS = Path(__file__).parent / "results" / "calibration.json"
# icml24 takes 20 partitions a sample
N, SEEDS, FEW_SEEDS, WIDTH = 1000, 200, 24, 100
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
    neighbors = nearest(DenseRows(KINDS[kind](d, torch.Generator().manual_seed(1000 + seed))), **requirements("gride"))
    found = {name: estimate(neighbors, name) for name in ESTIMATORS}
    return {name: (result.dimension, result.stderr) for name, result in found.items()}


def icml24(d: int, seed: int) -> tuple[float, float]:
    """(dimension, reported error) of the slow estimator for one Gaussian sample."""
    torch.set_num_threads(1)
    matrix = DenseRows(gaussian(d, torch.Generator().manual_seed(1000 + seed)))
    result = estimate(nearest(matrix, **requirements("icml24", seed)), "icml24", seed)
    return result.dimension, result.stderr


def record_of(kind: str, d: int, name: str, pairs: list[tuple[float, float]]) -> dict:
    """Spread against reported error, from (dimension, error) pairs."""
    values, errors = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    spread, reported = float(values.std()), float(errors.mean())
    ratio = spread / reported
    about = {"points": kind, "d": d, "estimator": name, "mean": float(values.mean()), "seeds": len(pairs)}
    return {**about, "spread": spread, "reported": reported, "ratio": ratio}


def main() -> None:
    print(f"spread over {SEEDS} seeds / mean reported error (mean estimate), N = {N}\n")
    print(f"{'points':10} {'d':>3} " + " ".join(f"{name:>16}" for name in ESTIMATORS))
    records = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for kind in KINDS:
            for d in DIMENSIONS:
                runs = list(pool.map(one, [kind] * SEEDS, [d] * SEEDS, range(SEEDS), chunksize=10))
                found = [record_of(kind, d, name, [run[name] for run in runs]) for name in ESTIMATORS]
                records += found
                cells = (f"{record['ratio']:5.2f} ({record['mean']:8.2f})" for record in found)
                print(f"{kind:10} {d:3} " + " ".join(cells), flush=True)
        for d in DIMENSIONS:
            pairs = list(pool.map(icml24, [d] * FEW_SEEDS, range(FEW_SEEDS)))
            records.append(record_of("gaussian", d, "icml24", pairs))
            print(f"gaussian   {d:3} icml24 {records[-1]['ratio']:5.2f} ({records[-1]['mean']:8.2f})", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"n": N, "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
