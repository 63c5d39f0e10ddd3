"""The exact threshold over many tensors, beside torch.kthvalue on their concatenation.

    .venv/bin/python benchmarks/threshold.py        about two minutes on 2 cores, on a machine that does nothing else

Goal over 200 million scores: at least 1.8 times as fast as concatenating them and asking kthvalue, with the same
threshold and no temporary larger than one tensor. Scores are |w g| of normal weights and gradients, in tensors of
BLIP's shapes; a second row has half of them equal to zero. Repeats are interleaved, the best of each counts.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from idvl.sparsity.threshold import find, keys_of, score_of

RESULTS = Path(__file__).parent / "results" / "threshold.json"
SHAPES = [(2304, 768), (768, 768), (3072, 768), (768, 3072)]
SPARSITY = 0.8


def scores(millions: float, zeros: float) -> list[Tensor]:
    """Tensors of BLIP's shapes, `millions` of scores in all, a share `zeros` of them zero."""
    generator = torch.Generator().manual_seed(0)
    left, tensors = int(millions * 1e6), []
    while left > 0:
        rows, columns = SHAPES[len(tensors) % len(SHAPES)]
        size = min(rows * columns, left)
        tensor = (torch.randn(size, generator=generator) * torch.randn(size, generator=generator)).abs_()
        if zeros:
            tensor.masked_fill_(torch.rand(size, generator=generator) < zeros, 0)
        tensors.append(tensor)
        left -= size
    return tensors


def ours(tensors: list[Tensor], k: int) -> float:
    bounds = {str(i): (0, tensor.numel()) for i, tensor in enumerate(tensors)}
    return score_of(find(lambda name: keys_of(tensors[int(name)]), k, bounds)[0])


def kthvalue(tensors: list[Tensor], k: int) -> float:
    return float(torch.cat(tensors).kthvalue(k).values)


def timed(run: Callable[[list[Tensor], int], float], tensors: list[Tensor], k: int) -> tuple[float, float]:
    start = time.perf_counter()
    found = run(tensors, k)
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=float, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    rows = []
    for zeros in (0.0, 0.5):
        tensors = scores(arguments.millions, zeros)
        k = round(SPARSITY * sum(tensor.numel() for tensor in tensors))
        best = {"idvl": float("inf"), "kthvalue": float("inf")}
        for _ in range(arguments.repeats):
            found = {}
            for name, run in (("idvl", ours), ("kthvalue", kthvalue)):
                seconds, found[name] = timed(run, tensors, k)
                best[name] = min(best[name], seconds)
            assert found["idvl"] == found["kthvalue"], found
        ratio = best["kthvalue"] / best["idvl"]
        rows.append({"zeros": zeros, "tensors": len(tensors), "k": k, "seconds": best, "ratio": ratio})
        print(
            f"{arguments.millions:g} M scores, {zeros:.0%} zeros: idvl {best['idvl']:.2f} s, "
            f"kthvalue {best['kthvalue']:.2f} s, {ratio:.2f} times as fast",
            flush=True,
        )
        del tensors
    machine = {"cpu": _cpu(), "cores": os.cpu_count(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    record = {"machine": machine, "millions": arguments.millions, "sparsity": SPARSITY, "rows": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
