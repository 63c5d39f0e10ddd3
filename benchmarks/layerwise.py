"""Pruning from calibration samples: Wanda in bare forward passes, SparseGPT in products of X^T X, memory to the plan.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/layerwise.py             # about three minutes
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/layerwise.py --wanda --blocks 12 --samples 128 --side 384 --repeats 1

The second command, Wanda on a model of BLIP-base's size alone, takes ten minutes and keeps its result to itself.

CPU seconds of one thread, variants in turns in one process, the least of `--repeats`. The model is a BLIP of width 768
with random weights and `--blocks` in each tower. Wanda is timed from the first forward to the last mask; loading,
planning and saving are left out. A layer of SparseGPT reads TOKENS random tokens in batches of 8 images of 197. Memory
is the anonymous memory of a process of its own, sampled every 5 ms, above what the model and the imports take.
"""

import argparse
import ctypes
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from setups.blip import build

from idvl.data.samples import Selection
from idvl.data.shapes import samples
from idvl.distributed import Team
from idvl.geometry.gram import full_precision
from idvl.models.loading import load
from idvl.pruning.calibrate import calibrate
from idvl.pruning.calibration import Calibration
from idvl.pruning.calibration_plan import make
from idvl.pruning.settings import resolve
from idvl.recipe import load as load_recipe
from idvl.sparsity import obs
from idvl.sparsity.statistics import InputStatistics
from tests.support.reporter import Silent

RESULTS = Path(__file__).parent / "results" / "layerwise.json"
BATCH, TOKENS = 8, 64 * 197
LAYERS = ((768, 768), (3072, 768), (768, 3072))
CPU = torch.device("cpu")


def least(repeats: int, *works: Callable[[], Any]) -> list[tuple[float, Any]]:
    """The least CPU seconds of each, all in turns, and what its last run gave."""
    found: list[tuple[float, Any]] = [(float("inf"), None)] * len(works)
    for _ in range(repeats):
        for number, work in enumerate(works):
            start = time.process_time()
            result = work()
            found[number] = min(found[number][0], time.process_time() - start), result
    return found


def calibration(folder: Path, criterion: str, given: argparse.Namespace) -> Calibration:
    """The model in a folder, and its calibration samples."""
    size = {"hidden_size": 768, "num_hidden_layers": given.blocks, "num_attention_heads": 12, "intermediate_size": 3072}
    shapes = samples("train", given.samples, 0)
    if not (folder / "config.json").exists():
        build(folder, shapes, size=size, side=given.side)
    named = {"model.name": str(folder), "data.dataset": "shapes", "data.batch_size": BATCH}
    recipe = resolve(load_recipe(None, named | {"prune.criterion": criterion, "estimate.memory": "32GiB"}))
    loaded = load(str(folder), device=CPU)
    return Calibration(recipe, loaded, Selection(samples=shapes, description={}), Team(), Silent())


def wanda(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """The walk of a whole model, beside bare forward passes over the same batches."""
    job = calibration(folder, "wanda", given)
    model, plan = job.loaded.model, make(job)
    dense = {name: value.clone() for name, value in model.state_dict().items()}

    def forward() -> None:
        with full_precision(CPU):
            for batch in job.batches:
                job.loaded.family.call(model, batch)

    def walk() -> None:
        model.load_state_dict(dense)
        calibrate(job, plan, folder, None, Silent())

    job.loaded.family.call(model, job.batches[0])
    (bare, _), (pruned, _) = least(given.repeats, forward, walk)
    return {"forward_seconds": bare, "seconds": pruned, "forwards": pruned / bare, "planned_forwards": plan.forwards}


def anonymous() -> int:
    """Bytes of this process's memory that no file stands for."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024


def peak(folder: Path, criterion: str, given: argparse.Namespace) -> dict[str, int]:
    """The planned and the measured peak of a walk, in bytes beside the model."""
    torch.set_num_threads(1)
    job = calibration(folder, criterion, given)
    plan = make(job)
    # out of the file that is mapped, so that no page becomes anonymous when it is pruned
    for parameter in job.loaded.model.parameters():
        parameter.data = parameter.data.clone()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before, most, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    calibrate(job, plan, folder, None, Silent())
    done.set()
    thread.join()
    inputs = sum(value.nbytes for batch in job.batches for value in batch.values())
    return {"planned": plan.capture.held_bytes, "peak": most[0] - before + inputs}


def memory(folder: Path, criterion: str, given: argparse.Namespace) -> dict[str, float]:
    """`peak` in a process of its own."""
    # larger tensors go back to the system at once when they are freed
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(peak, folder, criterion, given).result()
    return {**found, "planned_to_peak": found["planned"] / found["peak"]}


def sparsegpt(outputs: int, inputs: int, repeats: int) -> dict[str, float]:
    """Statistics, factor and update of one layer, beside the product X^T X alone."""
    torch.manual_seed(0)
    tokens, weight = torch.randn(TOKENS, inputs), torch.randn(outputs, inputs)

    def summed() -> InputStatistics:
        statistics = InputStatistics(inputs, products=True)
        for batch in tokens.split(BATCH * 197):
            statistics.add(batch)
        return statistics

    (product, _), (sums, statistics) = least(repeats, lambda: tokens.T @ tokens, summed)
    products = statistics.total().products
    ((factored, factor),) = least(repeats, lambda: obs.factor(products))
    ((updated, _),) = least(repeats, lambda: obs.select(weight, factor, outputs * inputs // 2))
    parts = {"product": product, "statistics": sums, "factor": factored, "update": updated}
    return {**parts, "products": (sums + factored + updated) / product}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--wanda", action="store_true", help="time Wanda alone, and write no result")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = {name: value for name, value in vars(given).items() if name != "wanda"}
        result = {"wanda": {**asked, **(timed := wanda(folder, given))}}
        print(f"wanda: {timed['forwards']:.2f} forward passes ({timed['seconds']:.0f} s)", flush=True)
        if given.wanda:
            return
        result["memory"] = {criterion: memory(folder, criterion, given) for criterion in ("wanda", "sparsegpt")}
    for name, found in result["memory"].items():
        print(f"{name}: {found['peak'] / 2**20:.0f} MiB, planned {found['planned'] / 2**20:.0f} MiB")
    result["sparsegpt"] = {f"{rows} x {columns}": sparsegpt(rows, columns, given.repeats) for rows, columns in LAYERS}
    for name, layer in result["sparsegpt"].items():
        print(f"sparsegpt {name}: {layer['products']:.2f} products")
    RESULTS.write_text(json.dumps({"torch": torch.__version__, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
