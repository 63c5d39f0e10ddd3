"""Prune the same tiny model with each criterion for 15 steps, alone or as two processes, and save the masks.

`python -m tests.support.twins FOLDER`, alone or launched by torchrun. FOLDER/blip is the checkpoint; the masks of the
first update and of the end go to FOLDER/CRITERION-PROCESSES-first.safetensors and -last.safetensors.
"""

import sys
from pathlib import Path

import torch
from accelerate import PartialState

from idvl.models.layers import find_layers
from idvl.models.loading import load
from idvl.sparsity import criteria
from idvl.sparsity.pruner import WeightPruner
from idvl.sparsity.schedule import Schedule
from idvl.training import Training, agree, train
from tests.support import tiny

STEPS, BATCH = 15, 8
CRITERIA = ("magnitude", "gradient", "platon")


def pruned(folder: Path, criterion: str) -> None:
    loaded = load(str(folder / "blip"), device="cpu")
    state = PartialState()
    weights = {name: layer.module.weight for name, layer in find_layers(loaded.model, loaded.family).items()}
    factors = {name: 1.0 + i for i, name in enumerate(weights)}
    schedule = Schedule(target=0.8, total_steps=STEPS, initial=0.1, final=0.1)
    pruner = WeightPruner(weights, criterion=criteria.load(criterion), schedule=schedule, factors=factors)
    updates = []

    def on_step(step):
        update = pruner.step(step)
        if update is None:
            return
        agree(update.digest, f"the masks at step {step}", pruner.digests)
        updates.append(step)
        if state.is_main_process and len(updates) == 1:
            pruner.masks.save(folder / f"{criterion}-{state.num_processes}-first.safetensors")

    size = BATCH // state.num_processes
    settings = Training(max_steps=STEPS, batch_size=size, learning_rate=1e-3, checkpoint_every=None)
    train(loaded, tiny.samples(64), settings, on_step=on_step)
    if state.is_main_process:
        pruner.masks.save(folder / f"{criterion}-{state.num_processes}-last.safetensors")


def main() -> None:
    torch.set_num_threads(1)
    PartialState(cpu=True)
    for criterion in CRITERIA:
        pruned(Path(sys.argv[1]), criterion)


if __name__ == "__main__":
    main()
    # gloo's threads abort a process that ends without
    PartialState().destroy_process_group()
