"""Trains the same tiny model uninterrupted, and killed at the worst moments and resumed; prints how the ends differ.

Each attempt is a process of its own, forked before torch has threads. `python interrupted.py MODEL FOLDER`
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

from idvl.models.loading import load
from idvl.training import Training, checkpoint, train
from tests.support import tiny

SETTINGS = Training(
    batch_size=4,
    accumulate=2,
    epochs=3,
    learning_rate=1e-3,
    lr_schedule="cosine_by_epoch",
    weight_decay=0.01,
    augmentation="blip",
    label_smoothing=0.1,
    text_dropout=0.1,
    checkpoint_every=3,
)


class Memory:
    """What a pruner is to the loop: state that grows with every gradient, and changes the weights."""

    def __init__(self, weight):
        self.weight, self.mean = weight, torch.zeros_like(weight)

    def step(self, step):
        self.mean = 0.9 * self.mean + 0.1 * self.weight.grad.abs()
        self.weight.data[self.mean < self.mean.median()] = 0

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


def attempt(model: str, place: Path, fault: str | None) -> int:
    """Train, or go on, in a forked process; what `fault` names happens to it. The wait status."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    loaded = load(model, device="cpu")
    memory = Memory(loaded.model.text_decoder.bert.encoder.layer[0].output.dense.weight)
    kind, _, when = (fault or "").partition(" ")

    def on_step(step):
        memory.step(step)
        if kind in ("kill", "term", "int") and step == int(when):
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}[kind])

    if kind == "call":
        name, count = when.split()
        _die_in(name, int(count))
    code = 0
    try:
        train(
            loaded,
            tiny.samples(40),
            SETTINGS,
            folder=place / "checkpoints",
            resume=True,
            state={"memory": memory},
            on_step=on_step,
        )
        tensors = {**loaded.model.state_dict(), "memory": memory.mean}
        torch.save({name: value.clone() for name, value in tensors.items()}, place / "end.pt")
    except KeyboardInterrupt:
        code = 130
    except SystemExit as error:
        code = error.code
    os._exit(code)


def _die_in(name: str, count: int) -> None:
    """Be killed at the count-th call of a function that writes checkpoints, before it does anything."""
    module = {"replace": os, "rmtree": shutil}.get(name, checkpoint)
    real, calls = getattr(module, name), iter(range(1, 10**6))

    def deadly(*args, **kwargs):
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(module, name, deadly)


# (faults of one attempt after the other, the last one undisturbed; their exit codes)
STORIES = {
    "killed before the first checkpoint, then twice between two": (
        ["kill 2", "kill 5", "kill 11", None],
        [-9, -9, -9, 0],
    ),
    "killed while tensors are written, before the rename, before the old one is removed, before the disk has it": (
        ["call _write 5", "call replace 1", "call rmtree 1", "call _sync 3", None],
        [-9, -9, -9, -9, 0],
    ),
    "SIGTERM": (["term 7", None], [143, 0]),
    "Ctrl-C, then killed": (["int 4", "kill 8", None], [130, -9, 0]),
}


def main() -> None:
    torch.set_num_threads(1)
    model, folder = sys.argv[1], Path(sys.argv[2])
    load(model, device="cpu")  # whatever it imports is there for all
    whole = folder / "whole"
    whole.mkdir()
    assert attempt(model, whole, None) == 0
    expected = torch.load(whole / "end.pt")
    results = {}
    for story, (faults, codes) in STORIES.items():
        place = folder / str(len(results))
        place.mkdir()
        got = [attempt(model, place, fault) for fault in faults]
        end = torch.load(place / "end.pt") if (place / "end.pt").exists() else {}
        differing = [name for name, value in expected.items() if name not in end or not torch.equal(end[name], value)]
        kept = sorted(path.name for path in (place / "checkpoints").iterdir())
        results[story] = {"codes": got, "expected": codes, "differing": differing[:3], "kept": kept}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
