"""How fast idvl is on a GPU. Nothing here can be wrong but slow, except that both backends must find the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.checks import ieee
from benchmarks.gpu.runner import Check, Skip

# from one token of ViT-B to 197 of them
WIDTHS = (768, 3072, 16384, 49152, 151296)
# all layers of a BLIP-base at 384 px on 2,000 samples, in seconds on an H100 or H200
GOAL = 60.0


def products(
    device: torch.device, folder: Path, *, n: int = 2000, widths: Sequence[int] = WIDTHS, repeats: int = 3
) -> dict[str, Any]:
    """TwoNN of n points beside one float32 product of the whole matrix by torch.mm: seconds, and their ratio."""
    found = {}
    for width in widths:
        x = points(n, width, device)
        with ieee():
            product = best(lambda x=x: torch.mm(x, x.T), device, repeats)
        idvl = best(lambda x=x: search(x, "torch"), device, repeats)
        found[str(width)] = {"idvl": idvl, "product": product, "ratio": round(idvl / product, 2)}
    return found


def backends(
    device: torch.device, folder: Path, *, n: int = 2000, widths: Sequence[int] = WIDTHS, repeats: int = 3
) -> dict[str, Any]:
    """Seconds of a search by torch and by faiss, which find the same neighbours, and what `--knn auto` takes."""
    from idvl.geometry import backend

    if not backend.works_on(device):
        raise Skip("no faiss that supports this device is installed")
    found = {}
    for width in widths:
        x = points(n, width, device)
        seconds = {name: best(lambda x=x, name=name: search(x, name), device, repeats) for name in ("torch", "faiss")}
        here, there = search(x, "torch"), search(x, "faiss")
        assert torch.equal(here.indices, there.indices), f"{width} features: faiss finds other neighbours"
        gap = float(((there.distances - here.distances) / here.distances).abs().max())
        assert gap <= 1e-10, f"{width} features: distances differ by {gap:.1e} of their value"
        auto = "faiss" if backend.prefers("auto", n, width, device) else "torch"
        found[str(width)] = {**seconds, "auto": auto, "searched_by": there.diagnostics["backend"]}
    return found


def blip_base(
    device: torch.device, folder: Path, *, n: int = 2000, size: dict | None = None, side: int = 384, batch: int = 32
) -> dict[str, Any]:
    """IDs of all layers of a BLIP-base with random weights on n drawn pictures, with the default memory."""
    from benchmarks.setups.blip import build
    from idvl.data.shapes import samples
    from idvl.measurement.measurement import Measurement
    from idvl.measurement.settings import Settings
    from idvl.models.layers import find_layers
    from idvl.models.loading import load

    drawn = samples("train", n, 0)
    build(folder / "blip-base", drawn, size=size, side=side)
    loaded = load(str(folder / "blip-base"), device=str(device))
    layers = find_layers(loaded.model, loaded.family)
    start = time.perf_counter()
    work = Measurement(loaded, drawn, layers, Settings(batch_size=batch))
    prepared = time.perf_counter() - start
    found = dict(work.estimates())
    seconds = time.perf_counter() - start
    without = sorted(name for name, layer in found.items() if layer.estimate.dimension is None)
    assert not without, f"{len(without)} layers without a dimension, {without[0]} first"
    return {
        "layers": len(found),
        "samples": n,
        "pixels": side,
        "seconds": round(seconds, 2),
        "preparing": round(prepared, 2),
        "goal": GOAL,
        "planned": round(work.plan.seconds, 2),
        "forward_passes": round(work.plan.forwards, 2),
        "memory_budget": work.plan.budget,
    }


def points(n: int, width: int, device: torch.device) -> Tensor:
    """A curved 20-dimensional cloud with a little noise, as activations look; drawn on the device."""
    generator = torch.Generator(device).manual_seed(0)
    options = {"generator": generator, "device": device}
    cloud = torch.tanh(torch.randn(n, 20, **options) @ torch.randn(20, width, **options) / 4)
    return cloud.add_(torch.randn(n, width, **options), alpha=0.05)


def search(x: Tensor, backend: str) -> Any:
    """The neighbours that TwoNN needs, after its estimate."""
    from idvl.geometry.estimators import estimate, requirements
    from idvl.geometry.neighbors import DenseRows, nearest

    found = nearest(DenseRows(x), backend=backend, **requirements("twonn"))
    estimate(found, "twonn")
    return found


def best(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The least seconds of several runs, after one that warms up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return round(min(seconds[1:]), 6)


FIGURES: tuple[Check, ...] = (products, backends, blip_base)
