"""What pruning adds to a training step, on a BLIP of 100 M parameters, 224 px, batch 20.

    .venv/bin/python benchmarks/overhead.py     about ten minutes on 2 cores, on a machine that does nothing else

The loop of `idvl prune` runs with the default schedule (dense for a fifth of the steps, a mask every tenth, frozen and
enforced in the last fifth). Within one run the hook is timed against everything else of the same steps, so that noise
between runs is not taken for overhead; a run without a hook stands beside it. Memory is counted in bytes a weight.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from setups.blip import build

from idvl.data.shapes import samples
from idvl.models.layers import find_layers
from idvl.models.loading import load
from idvl.sparsity import criteria
from idvl.sparsity.pruner import WeightPruner
from idvl.sparsity.schedule import Schedule
from idvl.training import Training, train

RESULTS = Path(__file__).parent / "results" / "overhead.json"
GOALS = {"magnitude": 1.02, "platon": 1.05}
BATCH = 20


def timed(folder: Path, drawn: list, steps: int, criterion: str | None) -> dict[str, float]:
    """Seconds of a run's steps but the first, the hook's part of them, and the bytes a weight that the pruner keeps."""
    loaded = load(str(folder), device="cpu")
    layers = find_layers(loaded.model, loaded.family)
    pruner, hook, marks = None, [], []
    if criterion:
        schedule = Schedule(target=0.8, total_steps=steps, initial=0.2, final=0.2, mask_every=10)
        weights = {name: layer.module.weight for name, layer in layers.items()}
        pruner = WeightPruner(weights, criterion=criteria.load(criterion), schedule=schedule)

    def on_step(step: int) -> None:
        start = time.perf_counter()
        if pruner:
            pruner.step(step)
        hook.append(time.perf_counter() - start)
        marks.append(time.perf_counter())

    training = Training(batch_size=BATCH, max_steps=steps, checkpoint_every=None)
    train(loaded, drawn, training, on_step=on_step)
    kept = sum(tensor.nbytes for tensor in pruner.state_dict().values()) / pruner.total if pruner else 0.0
    # the first step warms up
    return {"seconds": marks[-1] - marks[0], "hook": sum(hook[1:]), "bytes_a_weight": kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    drawn = samples("train", 200, 0)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), drawn)
        parameters = load(folder, device="cpu").model.num_parameters()
        for name in (None, *GOALS):
            found = timed(Path(folder), drawn, steps, name)
            found["ratio"] = found["seconds"] / (found["seconds"] - found["hook"])
            results[name or "without"] = found
            print(f"{name or 'without':10}", *(f"{key} {value:.3f}" for key, value in found.items()), flush=True)
    result = {"parameters": parameters, "steps": steps, "batch": BATCH, "threads": torch.get_num_threads(), **results}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
