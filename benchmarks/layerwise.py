"""Pruning from calibration samples: Wanda in bare forward passes, SparseGPT in products of X^T X.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/layerwise.py             # about three minutes
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/layerwise.py --blocks 12 --samples 128 --side 384

CPU seconds of one thread, variants in turns in one process, the least of REPEATS. The model is a BLIP of width 768 with
random weights and `--blocks` in each tower. Wanda is timed from the first forward to the last mask; loading, planning
and saving are left out. A layer of SparseGPT reads TOKENS random tokens in batches of 8 images of 197.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
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
from idvl.pruning.settings import resolved
from idvl.recipe import load as load_recipe
from idvl.sparsity import obs
from idvl.sparsity.statistics import InputStatistics
from tests.support.reporter import Silent

RESULTS = Path(__file__).parent / "results" / "layerwise.json"
REPEATS, BATCH, TOKENS = 2, 8, 64 * 197
LAYERS = ((768, 768), (3072, 768), (768, 3072))
CPU = torch.device("cpu")


def least(work: Callable[[], Any]) -> tuple[float, Any]:
    """The least CPU seconds of REPEATS, and what the last one gave."""
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def wanda(folder: Path, blocks: int, n: int, side: int) -> dict[str, float]:
    """The walk of a whole model, beside bare forward passes over the same batches."""
    width = {"hidden_size": 768, "num_hidden_layers": blocks, "num_attention_heads": 12, "intermediate_size": 3072}
    shapes = samples("train", n, 0)
    build(folder, shapes, size=width, side=side)
    loaded = load(str(folder), device=CPU)
    named = {"model.name": str(folder), "data.dataset": "shapes", "data.batch_size": BATCH, "prune.criterion": "wanda"}
    selection = Selection(samples=shapes, description={})
    job = Calibration(resolved(load_recipe(None, named)), loaded, selection, Team(), Silent())
    plan = make(job)
    dense = {name: value.clone() for name, value in loaded.model.state_dict().items()}

    def forward() -> None:
        with full_precision(CPU):
            for batch in job.batches:
                loaded.family.call(loaded.model, batch)

    def walk() -> None:
        loaded.model.load_state_dict(dense)
        calibrate(job, plan, folder, None, Silent())

    forward()
    bare, _ = least(forward)
    pruned, _ = least(walk)
    return {"forward_seconds": bare, "seconds": pruned, "forwards": pruned / bare, "planned_forwards": plan.forwards}


def sparsegpt(outputs: int, inputs: int) -> dict[str, float]:
    """Statistics, factor and update of one layer, beside the product X^T X alone."""
    torch.manual_seed(0)
    tokens, weight = torch.randn(TOKENS, inputs), torch.randn(outputs, inputs)

    def summed() -> InputStatistics:
        statistics = InputStatistics(inputs, products=True)
        for batch in tokens.split(BATCH * 197):
            statistics.add(batch)
        return statistics

    product, _ = least(lambda: tokens.T @ tokens)
    sums, statistics = least(summed)
    factored, factor = least(lambda: obs.factor(statistics.total().products))
    updated, _ = least(lambda: obs.select(weight, factor, outputs * inputs // 2))
    parts = {"product": product, "statistics": sums, "factor": factored, "update": updated}
    return {**parts, "products": (sums + factored + updated) / product}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--side", type=int, default=224)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = {"wanda": {**vars(given), **wanda(Path(folder), given.blocks, given.samples, given.side)}}
    print(f"wanda: {result['wanda']['forwards']:.2f} forward passes")
    result["sparsegpt"] = {f"{outputs} x {inputs}": sparsegpt(outputs, inputs) for outputs, inputs in LAYERS}
    for name, layer in result["sparsegpt"].items():
        print(f"sparsegpt {name}: {layer['products']:.2f} products")
    RESULTS.write_text(json.dumps({"torch": torch.__version__, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
