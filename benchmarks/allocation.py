"""What ECoFLaP's scores take: one backward pass a batch against two forward passes for every matrix and batch.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/allocation.py            # about a quarter of an hour

The model is a BLIP of 224 M parameters with random weights, its images `--side` pixels wide, in batches of 8. CPU
seconds of one thread, in one process. The zeroth order is timed for TIMED matrices, evenly spaced, and extrapolated to
all: each takes the same number of forward passes. Memory is the peak of a fresh process above what it held with the
model and the inputs. Last, the time to allocate a budget to 600 layers of up to ten million weights.
"""

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from setups.blip import build

from idvl.data.shapes import samples
from idvl.models.layers import find_layers
from idvl.models.loading import load
from idvl.pruning.gradients import BATCH, SCORES, differentiated, repeatable, shifted
from idvl.pruning.held_out import Probe
from idvl.sparsity import allocation as allocations
from idvl.sparsity.budget import Budget

RESULTS = Path(__file__).parent / "results" / "allocation.json"
TIMED = 8


class Model:
    """A checkpoint with its loss, the weights in scope and its blocks."""

    def __init__(self, folder: Path, n: int):
        loaded = load(str(folder), device="cpu")
        self.model = loaded.model.eval()
        self.probe = Probe(loaded, samples("train", n, 0), batch_size=BATCH, budget=10**12)
        self.weights = {name: layer.module.weight for name, layer in find_layers(self.model, loaded.family).items()}
        self.blocks = repeatable(loaded)
        self.bytes = sum(weight.nbytes for weight in self.model.parameters())

    def score(self) -> torch.Tensor:
        """The norms of all gradients."""
        return differentiated(self.probe, self.weights, SCORES["gradient-norm"], self.blocks, ignored)

    @torch.no_grad()
    def forward(self) -> None:
        """A bare forward pass over all batches."""
        for number in range(len(self.probe.batches)):
            self.probe.mean_loss(number)


def ignored(*_: int) -> None:
    """No progress is shown."""


def seconds(work: Callable[[], Any]) -> float:
    """The least CPU seconds of two runs."""
    taken = []
    for _ in range(2):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def measure(folder: Path, n: int) -> dict[str, float]:
    """Seconds of both orders, as forward passes and beside each other."""
    model = Model(folder, n)
    few = dict(list(model.weights.items())[:: -(-len(model.weights) // TIMED)])
    forward, backward = seconds(model.forward), seconds(model.score)
    start = time.process_time()
    shifted(model.probe, few, 0, ignored)
    zeroth = (time.process_time() - start) / len(few) * len(model.weights)
    return {
        "forward_seconds": forward,
        "gradient_norm_seconds": backward,
        "forwards": backward / forward,
        "matrices": len(model.weights),
        "timed_matrices": len(few),
        "zeroth_seconds": zeroth,
        "times_slower": zeroth / backward,
    }


def _peak(folder: Path, n: int, answer: multiprocessing.SimpleQueue) -> None:
    torch.set_num_threads(1)
    model = Model(folder, n)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    model.score()
    answer.put((_status("VmHWM") - before, model.bytes))


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def memory(folder: Path, n: int) -> dict[str, float]:
    """Bytes of one backward pass above the loaded model, and in sizes of its weights (Linux)."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=_peak, args=(folder, n, answer))
    process.start()
    above, weights = answer.get()
    process.join()
    return {"bytes_above": above, "weight_bytes": weights, "weights_above": above / weights}


def allocating() -> dict[str, float]:
    """Seconds to allocate a budget to 600 layers, exactly."""
    draw = random.Random(0)
    sizes = {f"layer{number}": draw.randint(1, 10**7) for number in range(600)}
    values = {name: draw.random() for name in sizes}
    found = {}
    for name in sorted(set(allocations.names()) - {"global"}):
        start = time.process_time()
        budget = Budget(sizes, sparsity=0.6, allocation=name, values=values)
        zeros = budget.bounds(budget.quota(0.6), dict.fromkeys(sizes, 0))
        found[name] = time.process_time() - start
        assert sum(count for count, _ in zeros.values()) == round(0.6 * sum(sizes.values()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--side", type=int, default=224)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), samples("train", given.samples, 0), size=None, side=given.side)
        results = {**vars(given), **memory(Path(folder), BATCH), **measure(Path(folder), given.samples)}
    print(
        f"gradient norms: {results['forwards']:.2f} forward passes, {results['weights_above']:.2f} weights' sizes above"
    )
    print(f"zeroth order: {results['times_slower']:.0f} times slower (of {results['timed_matrices']} matrices)")
    results["allocating_600_layers"] = allocating()
    print(f"600 layers: at most {max(results['allocating_600_layers'].values()):.2f} s")
    RESULTS.write_text(json.dumps({"torch": torch.__version__, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
