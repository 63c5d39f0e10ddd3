"""What must hold of a result beside that there is one: each probe tries to catch a number that is silently wrong.

PROBES holds them by name in the order of the table; like checks, they raise Failed or Nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.coverage.checks import WRITING, Failed, Nothing, Trial, read

# rounding moves a dimension by less than a thousandth; one that moves by less than STILL sees the same points
ROUNDING, STILL = 1e-3, 1e-5


def batch_size(trial: Trial) -> None:
    """Measured in batches of 7, the dimensions are those of batches of 16."""
    trial.needs("estimate")
    other = trial.idvl("estimate-id", "other_batches", "--samples", 100, "--batch-size", 7)
    moved = _moved(_dimensions(trial.folder / "estimate"), _dimensions(other), ROUNDING)
    if moved:
        raise Failed(f"{len(moved)} layers differ, first {moved[0]}")


def dealt(trial: Trial) -> None:
    """Other images under the same captions: no vision layer moves, and every layer that sees both does."""
    if trial.about.kind != "fused":
        raise Nothing("no layer sees picture and text")
    trial.needs("estimate")
    other = trial.idvl("estimate-id", "dealt", "--samples", 100, table=f"dealt_{trial.table}")
    before, after = _dimensions(trial.folder / "estimate"), _dimensions(other)
    layers = read(trial.folder / "estimate" / "profile.json")["layers"]
    wrong = [name for name in _moved(before, after, ROUNDING) if layers[name]["modality"] == "vision"]
    if wrong:
        raise Failed(f"{len(wrong)} vision layers move, first {wrong[0]}")
    moved = set(_moved(before, after, STILL))
    still = [name for name, layer in layers.items() if name not in moved and _sees_both(name, layer, trial.about.alone)]
    if still:
        raise Failed(f"{len(still)} layers do not move, first {still[0]}")


def _sees_both(name: str, layer: dict, alone: str | None) -> bool:
    """A text layer behind the first block, where the picture has certainly come in."""
    if layer["modality"] in ("vision", "connector") or layer["reads_image"] or (alone and re.search(alone, name)):
        return False
    number = re.search(r"\.(\d+)$", layer["block"] or "")
    return number is not None and int(number[1]) > 0


def listed(trial: Trial) -> None:
    """Every map inside the blocks is measured, or named as not covered."""
    trial.needs("estimate")
    missing = trial.compare("listed", trial.model, trial.folder / "estimate" / "profile.json")
    if missing:
        raise Failed(f"{len(missing)} maps are neither measured nor named, first {missing[0]}")


def answers(trial: Trial) -> None:
    """Other answers to the same questions leave other weights."""
    if trial.about.task != "vqa":
        raise Nothing("no answers")
    trial.needs("magnitude")
    folders = []
    for table in ("questions", "other_answers"):
        options = ("--criterion", "magnitude", "--id-weight", "none", "--sparsity", 0.1, "--no-eval", "--max-steps", 2)
        folders.append(trial.idvl("prune", f"learns_{table}", *options, "--learning-rate", 0.01, table=table))
    if trial.compare("equal_weights", *(folder / "model" for folder in folders)):
        raise Failed("other answers give the same weights")


def tokens(trial: Trial) -> None:
    """What idvl eval writes is what the authors' documented usage writes."""
    if trial.about.task not in ("caption", "vqa") or trial.about.name == "vilt_vqa":
        raise Nothing("writes nothing")
    trial.needs("eval")
    folder = trial.folder / "eval"
    if trial.about.task == "caption":
        options = ("--task", "caption", "--limit", 8, "--batch-size", 4, *WRITING, "--prompt", trial.about.prompt)
        folder = trial.idvl("eval", "prompted", *options)
    wrong = trial.compare("tokens", trial.model, folder / "predictions.jsonl", trial.data / trial.table)
    if wrong:
        raise Failed(wrong)


def loss(trial: Trial) -> None:
    """The loss that idvl trains with is that of a plain script, whose labels are the answer and its end."""
    trial.needs("magnitude")
    options = ("--criterion", "magnitude", "--id-weight", "none", "--sparsity", 0.1, "--no-eval", "--batch-size", 8)
    table = f"few_{trial.table}"
    folder = trial.idvl("prune", "loss", *options, "--max-steps", 1, table=table)
    found = read(folder / "report.json")["made"]["loss"]
    expected = trial.compare("loss", trial.model, trial.data / table)
    if expected is None:
        raise Nothing("no script yet")
    if abs(found - expected) > 1e-4 * abs(expected):
        raise Failed(f"{found:.5f}, a plain script's is {expected:.5f}")


def _dimensions(folder: Path) -> dict[str, float | None]:
    layers = read(folder / "profile.json")["layers"]
    return {name: layer["estimate"]["dimension"] for name, layer in layers.items()}


def _moved(before: dict[str, float | None], after: dict[str, float | None], by: float) -> list[str]:
    def differ(a: float | None, b: float | None) -> bool:
        return (a is None) != (b is None) or (a is not None and abs(a - b) > by * a)

    return [name for name in {**before, **after} if differ(before.get(name), after.get(name))]


PROBES: dict[str, Callable[[Trial], None]] = {
    "batch_size": batch_size,
    "dealt": dealt,
    "listed": listed,
    "answers": answers,
    "tokens": tokens,
    "loss": loss,
}
