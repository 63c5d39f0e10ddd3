"""Two processes, launched together, train tiny models and say what each saw.

`torchrun --nproc_per_node 2 -m tests.support.pair FOLDER FAULT`.
The folder holds a checkpoint of each kind; each process writes `said-RANK.json`, and the gradients and weights of the
first steps.
"""

import dataclasses
import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from accelerate import PartialState

from idvl.distributed import Team, wait
from idvl.errors import RunError, UsageError
from idvl.models.loading import load, wrap
from idvl.training import Training, agree, checkpoint, ranks, train
from tests.support import tiny

SETTINGS = {
    "max_steps": 4,
    "learning_rate": 1e-3,
    "lr_schedule": "linear",
    "clip": None,
    "checkpoint_every": 2,
    "augmentation": "blip",
}


def first_steps(folder: Path, kind: str, name: str, **settings) -> dict:
    """Train; the first step's gradients and the last weights go to the folder. Rates and losses, on rank 0."""
    loaded, seen, rates = load(str(folder / kind), device="cpu"), {}, []
    samples = [dataclasses.replace(sample, answers=("two red",)) for sample in tiny.samples(16)]

    def note(step):
        if step == 1:
            seen.update({n: w.grad.clone() for n, w in loaded.model.named_parameters() if w.grad is not None})

    train(
        loaded,
        samples if kind == "blip-vqa" else tiny.samples(16),
        Training(**SETTINGS, **settings),
        folder=folder / f"{name}-checkpoints",
        on_step=note,
        progress=lambda step, total, numbers: rates.append([numbers["lr"], numbers["loss"]]),
    )
    weights = {n: w.detach().clone() for n, w in loaded.model.named_parameters()}
    torch.save({"gradients": seen, "weights": weights}, folder / f"{name}-{PartialState().process_index}.pt")
    return rates


def refused(call) -> str:
    try:
        call()
    except (RunError, UsageError) as error:
        return str(error)
    return "nothing"


def statistics() -> list[list[float]]:
    """The batch statistics that each process has after an epoch, summed."""
    loaded, seen = wrap(*tiny.mobilevit()), []
    labelled = [dataclasses.replace(sample, label=i % 10) for i, sample in enumerate(tiny.samples(16))]

    def note(epoch, step):
        seen.append(ranks.objects(sum(buffer.double().sum().item() for buffer in loaded.model.buffers())))

    train(loaded, labelled, Training(epochs=1, batch_size=4, checkpoint_every=None), on_epoch=note)
    return seen


def late(rank: int) -> dict[str, str]:
    """What is told where process 1 comes late: to work that each does alone, and to an exchange, which breaks it."""
    team, seconds = Team(rank, 2), 2 * rank
    os.environ["IDVL_TIMEOUT"] = "0.5"
    wait(0.5)
    alone = refused(lambda: team.each(lambda: time.sleep(seconds)))

    def exchange():
        time.sleep(seconds)
        with ranks.failing_together():
            ranks.sums([1.0], torch.device("cpu"))

    return {"late alone": alone, "late": refused(exchange)}


def full(tensors, path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def main() -> None:
    torch.set_num_threads(1)
    folder, fault = Path(sys.argv[1]), sys.argv[2]
    rank = int(os.environ["RANK"])
    if fault == "none":
        said = {
            "blip": first_steps(folder, "blip", "blip", batch_size=4),
            "blip accumulated": first_steps(folder, "blip", "accumulated", batch_size=2, accumulate=2),
            "clip": first_steps(folder, "clip", "clip", batch_size=4),
            "blip-itm": first_steps(folder, "blip-itm", "blip-itm", batch_size=4),
            "blip-vqa": first_steps(folder, "blip-vqa", "blip-vqa", batch_size=4),
            "agreed": refused(lambda: agree("same", "the masks")),
            "differing": refused(lambda: agree(str(rank), "the masks at step 3")),
            "differing in": refused(lambda: agree(str(rank), "the masks", lambda: {"a": "x", "b": str(rank)})),
            "settings": refused(lambda: Team(rank, 2).agree({"resume": True, "data": {"seed": 5 * rank}})),
        }
        said["statistics"] = statistics()
        said |= late(rank)
        (folder / f"said-{rank}.json").write_text(json.dumps(said))
        return

    def on_step(step):
        if rank == 1 and step == 2:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            if fault == "raise":
                raise RunError("layer fc1 has NaN scores")

    if fault == "save" and rank == 0:
        checkpoint.save_file = full
    loaded = load(str(folder / "blip"), device="cpu")
    settings = Training(**SETTINGS | {"max_steps": 2000}, batch_size=4)
    try:
        train(loaded, tiny.samples(16), settings, folder=folder / "checkpoints", on_step=on_step)
    except (Exception, SystemExit) as error:
        (folder / f"said-{rank}.json").write_text(json.dumps([type(error).__name__, str(error)]))
        raise


if __name__ == "__main__":
    try:
        main()
    finally:
        # gloo's threads abort a process that ends without
        PartialState().destroy_process_group()
        # the first process holds the store in which the others look for the reason, once they have lost it
        time.sleep(0.2)
