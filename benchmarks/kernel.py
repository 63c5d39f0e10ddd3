"""What one layer's exact estimate costs, beside scikit-dimension's TwoNN and one bare float32 matrix product.

    .venv/bin/python benchmarks/kernel.py           about six minutes on 2 cores, on a machine that does nothing else

Goals at N = 2000: never slower than scikit-dimension, half its time at D >= 3072; at D = 151296 (197 tokens of 768) at
most 1.3 times the product, and at most 0.3 GB of memory more than the points. Repeats are interleaved, the best of each
counts. scikit-dimension gets the same float32 points; it multiplies half of the matrix in float64. A second table shows
how the cost grows with N and D, a third where faiss takes over.
"""

import json
import multiprocessing
import os
import platform
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from idvl.geometry.estimators import estimate, requirements
from idvl.geometry.neighbors import DenseRows, nearest

RESULTS = Path(__file__).parent / "results" / "kernel.json"
WIDTHS = {768: 30, 3072: 20, 16384: 8, 151296: 3}
GROWTH = [(n, 3072) for n in (500, 1000, 2000, 4000, 8000)] + [(2000, d) for d in (768, 12288, 49152)]


def points(n: int, d: int) -> Tensor:
    """A curved 20-dimensional cloud with a little noise, as activations look."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(n, 20, generator=generator)
    cloud = torch.tanh(latent @ torch.randn(20, d, generator=generator) / 4)
    return cloud.add_(torch.randn(n, d, generator=generator), alpha=0.05)


def ours(x: Tensor) -> None:
    estimate(nearest(DenseRows(x), backend="torch", **requirements("twonn")), "twonn")


def search(x: Tensor, backend: str) -> None:
    nearest(DenseRows(x), backend=backend, **requirements("twonn"))


def scikit_dimension(x: Tensor) -> None:
    from skdim.id import TwoNN

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TwoNN().fit(x.numpy())


def product(x: Tensor) -> None:
    torch.mm(x, x.T)


def race(x: Tensor, runners: dict[str, Callable[[Tensor], None]], repeats: int) -> dict[str, float]:
    """Best wall-clock seconds of each, one after the other in turn."""
    best = dict.fromkeys(runners, float("inf"))
    for _ in range(repeats):
        for name, run in runners.items():
            start = time.perf_counter()
            run(x)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def _peak(n: int, d: int, answer: multiprocessing.SimpleQueue) -> None:
    x = points(n, d)
    ours(points(200, 64))
    # the high-water mark must start at what is held now
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    ours(x)
    answer.put(_status("VmHWM") - before)


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def extra_memory(n: int, d: int) -> int:
    """Bytes by which the peak of a fresh process lies above what it held with the points in memory (Linux)."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=_peak, args=(n, d, answer))
    process.start()
    process.join()
    return answer.get()


def main() -> None:
    runners = {"idvl": ours, "scikit-dimension": scikit_dimension, "product": product}
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print(f"N = 2000 {'idvl':>9} {'skdim':>9} {'product':>9}   / skdim  / product")
    widths = {}
    for d, repeats in WIDTHS.items():
        x = points(2000, d)
        best = race(x, runners, repeats)
        ratios = {f"to_{name}": best["idvl"] / best[name] for name in ("scikit-dimension", "product")}
        widths[d] = {"seconds": best, **ratios}
        times = " ".join(f"{best[name]:9.3f}" for name in runners)
        print(f"D={d:<7}{times} {ratios['to_scikit-dimension']:9.2f} {ratios['to_product']:10.2f}", flush=True)
        del x
    extra = extra_memory(2000, 151296)
    print(f"\nextra memory at D = 151296: {extra / 1e9:.2f} GB\n")
    growth = []
    for n, d in GROWTH:
        best = race(points(n, d), {"idvl": ours, "product": product}, 5 if n < 8000 else 2)
        growth.append({"n": n, "d": d, "seconds": best["idvl"], "product_seconds": best["product"]})
        print(f"N={n:<6} D={d:<7} {best['idvl']:8.3f} s  {best['idvl'] / best['product']:5.2f} products", flush=True)
    print("\nlarge N, D = 768")
    many = []
    for n in (4000, 8000, 16000):
        backends = {name: partial(search, backend=name) for name in ("torch", "faiss")}
        best = race(points(n, 768), backends, 2)
        many.append({"n": n, "d": 768, "seconds": best})
        print(f"N={n:<6} torch {best['torch']:7.3f} s   faiss {best['faiss']:7.3f} s", flush=True)
    machine = {"cpu": _cpu(), "cores": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version()}
    record = {"machine": machine, "n": 2000, "widths": widths, "extra_bytes": extra, "growth": growth, "many": many}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
