"""Every layer of a ViT-B-sized BLIP: idvl's time against one bare forward pass plus the raw float32 products.

    .venv/bin/python benchmarks/whole_model.py                 # about 15 minutes on 2 cores
    .venv/bin/python benchmarks/whole_model.py --samples 96    # a quick look

Random weights from the config (224 M parameters, 224 px), drawn samples. Each part runs in a process of its own, one
after the other: bare forward, raw products, idvl with 8 GiB, and, with fewer samples, idvl with a budget of what flows
between blocks (which any walk holds) plus a quarter of what the largest block's layers put out.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "whole_model.json"
BATCH = 8


def drawn(n: int):
    from idvl.data.shapes import samples

    return samples("train", n, 0)


def measurement(folder: str, n: int, memory: int):
    from idvl.measurement.measurement import Measurement
    from idvl.measurement.settings import Settings
    from idvl.models.layers import find_layers
    from idvl.models.loading import load

    loaded = load(folder)
    layers = find_layers(loaded.model, loaded.family)
    start = time.perf_counter()
    work = Measurement(loaded, drawn(n), layers, Settings(batch_size=BATCH), memory=memory)
    return work, time.perf_counter() - start


def bare(folder: str, n: int) -> dict:
    """One forward pass over all samples, as the family calls the model."""
    import torch

    work, _ = measurement(folder, n, 2**36)
    batches = work.batches[:-1]
    with torch.no_grad():
        work.loaded.family.call(work.loaded.model, batches[0])
        start = time.perf_counter()
        for batch in batches:
            work.loaded.family.call(work.loaded.model, batch)
    return {"seconds": time.perf_counter() - start, "features": list(work.features.values())}


def raw(features: list[int], n: int) -> dict:
    """One float32 product (n, d) x (d, n) per layer."""
    import torch

    seconds = {}
    for width in set(features):
        points = torch.randn(n, width)
        points @ points.T
        start = time.perf_counter()
        points @ points.T
        seconds[width] = time.perf_counter() - start
    return {"seconds": sum(seconds[width] for width in features)}


def idvl(folder: str, n: int, memory: int) -> dict:
    """All estimates, from the trace on; what is resident before is the model and the inputs."""
    work, prepared = measurement(folder, n, memory)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    profiles = dict(work.estimates())
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "prepare_seconds": prepared,
        "planned_seconds": work.plan.seconds,
        "forwards": work.plan.forwards,
        "walks": work.plan.walks,
        "budget": memory,
        "planned_bytes": work.plan.held_bytes,
        "input_bytes": sum(value.nbytes for batch in work.batches for value in batch.values()),
        "resident_before": before,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "layers": len(profiles),
        "without_estimate": [name for name, layer in profiles.items() if layer.estimate.dimension is None],
        "flow_bytes": work.plan.flow_bytes,
        "largest_block": 4
        * n
        * max(
            sum(work.features[name] for group in groups for name in group.layers)
            for groups in work.plan.groups.values()
        ),
    }


def part(function: str, *arguments) -> dict:
    """Run one part in a process of its own."""
    command = [sys.executable, __file__, "--part", function, json.dumps(arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=384)
    parser.add_argument("--few", type=int, default=96, help="samples of the run in a quarter of the largest block")
    parser.add_argument("--part", nargs=2)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(globals()[options.part[0]](*json.loads(options.part[1]))))
        return
    n, few = options.samples, options.few
    with tempfile.TemporaryDirectory() as folder:
        from setups.blip import build

        build(Path(folder), drawn(2000), size=None)
        first = part("bare", folder, n)
        products = part("raw", first["features"], n)
        full = part("idvl", folder, n, 8 * 2**30)
        second = part("bare", folder, n)
        ample = part("idvl", folder, few, 8 * 2**30)
        tight = part("idvl", folder, few, ample["largest_block"] // 4 + ample["flow_bytes"])
    base = (first["seconds"] + second["seconds"]) / 2 + products["seconds"]
    result = {
        "samples": n,
        "bare_seconds": [first["seconds"], second["seconds"]],
        "raw_seconds": products["seconds"],
        "ratio": full["seconds"] / base,
        "full": full,
        "few_samples": few,
        "tight_to_plan": tight["seconds"] / tight["planned_seconds"],
        "ample": ample,
        "tight": tight,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{n} samples: bare forward {first['seconds']:.1f} s and {second['seconds']:.1f} s,", end=" ")
    print(f"raw products {products['seconds']:.1f} s, idvl {full['seconds']:.1f} s: ratio {result['ratio']:.2f}")
    print(f"peak {full['peak'] / 2**30:.2f} GiB, {full['resident_before'] / 2**30:.2f} GiB of it before the work")
    print(f"{few} samples in a quarter of the largest block: {tight['seconds']:.1f} s,", end=" ")
    print(f"{result['tight_to_plan']:.2f} of its plan ({tight['forwards']:.1f} forward passes)")


if __name__ == "__main__":
    main()
