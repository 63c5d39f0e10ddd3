"""Recall@K of images and captions, beside one raw matrix product of the same shape.

    .venv/bin/python benchmarks/retrieval.py        under a minute on 2 cores, on a machine that does nothing else

Goal for 5,000 images and 25,000 captions of 512 dimensions: ranks and recalls of both directions in at most 2 times one
product of these embeddings, with a peak under 1 GB more than a process that has only loaded torch and the embeddings.
Repeats are interleaved, the best of each counts.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from idvl.metrics.retrieval import ranks, recalls

RESULTS = Path(__file__).parent / "results" / "retrieval.json"
CAPTIONS = 5


def embeddings(images: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random unit vectors; a caption's leans towards that of its image."""
    generator = torch.Generator().manual_seed(0)
    owner = torch.arange(images).repeat_interleave(CAPTIONS)
    looks = torch.randn(images, d, generator=generator)
    reads = looks[owner] / 8 + torch.randn(len(owner), d, generator=generator)
    return torch.nn.functional.normalize(looks), torch.nn.functional.normalize(reads), owner


def ours(images: Tensor, texts: Tensor, owner: Tensor) -> dict[str, float]:
    return {name: measured.value for name, measured in recalls(*ranks(images, texts, owner), owner).items()}


def product(images: Tensor, texts: Tensor, owner: Tensor) -> None:
    torch.mm(images, texts.T)


def timed(run: Callable[..., object], given: tuple[Tensor, Tensor, Tensor]) -> float:
    start = time.perf_counter()
    run(*given)
    return time.perf_counter() - start


def _peak(images: int, d: int, answer: multiprocessing.SimpleQueue) -> None:
    given = embeddings(images, d)
    ours(*embeddings(100, d))
    # the high-water mark must start at what is held now
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    ours(*given)
    answer.put(_status("VmHWM") - before)


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def extra_memory(images: int, d: int) -> int:
    """Bytes by which the peak of a fresh process lies above what it held with the embeddings in memory (Linux)."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=_peak, args=(images, d, answer))
    process.start()
    process.join()
    return answer.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    given = embeddings(arguments.images, arguments.dimensions)
    best = {"idvl": float("inf"), "product": float("inf")}
    for _ in range(arguments.repeats):
        for name, run in (("idvl", ours), ("product", product)):
            best[name] = min(best[name], timed(run, given))
    ratio = best["idvl"] / best["product"]
    extra = extra_memory(arguments.images, arguments.dimensions)
    print(
        f"{len(given[0])} images, {len(given[1])} captions, {arguments.dimensions} dimensions: "
        f"idvl {best['idvl']:.2f} s, product {best['product']:.2f} s, {ratio:.2f} times; {extra / 1e9:.2f} GB"
    )
    machine = {"cpu": _cpu(), "cores": os.cpu_count(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    record = {"machine": machine, "images": len(given[0]), "captions": len(given[1]), "d": arguments.dimensions}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**record, "seconds": best, "ratio": ratio, "extra_bytes": extra}, indent=1) + "\n")


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
