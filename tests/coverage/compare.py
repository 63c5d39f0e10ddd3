"""The plain side of checks and probes, run in a process of its own: transformers alone, no idvl.

A function takes strings and returns what JSON holds; SystemExit is a failure, in one line.
"""

from __future__ import annotations

import json
import random
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from tests.coverage import plain, plain_loss
from tests.coverage.architectures import Architecture, architectures
from tests.coverage.architectures import build as architecture_build

LENGTH = 6  # tokens that are written


def main(what: str, name: str, *arguments: str) -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(json.dumps(FUNCTIONS[what](architectures()[name], *arguments)))


def build(about: Architecture, folder: str) -> str:
    return str(architecture_build(about.name, folder))


def runs(about: Architecture, folder: str, data: str) -> dict[str, Any]:
    """The model's class, its size, and the maps of its blocks."""
    model, info = plain.model(folder)
    _whole(info)
    output = _outputs(model, about, folder, data)
    if not output.isfinite().all() and about.name != "flava_pretraining":
        raise SystemExit("the model's output is not finite")
    return {"class": type(model).__name__, "parameters": sum(parameter.numel() for parameter in model.parameters())}


def reopened(about: Architecture, dense: str, data: str, one_shot: str, *trained: str) -> None:
    """Zeros of each layer as reported; after one shot, every other weight and the logits are those of `dense`."""
    for run in trained:
        _as_reported(run)
    model, pruned = _as_reported(one_shot)
    original, _ = plain.model(dense)
    saved = model.state_dict()
    with torch.no_grad():
        for name, tensor in original.state_dict().items():
            if name in pruned:
                tensor.mul_(saved[name] != 0)
            if not torch.equal(tensor, saved[name]):
                raise SystemExit(f"{name} has changed beside its zeros")
    if not torch.equal(_outputs(original, about, dense, data), _outputs(model, about, dense, data)):
        raise SystemExit("the reopened model's output is not that of the dense one with the masks")


def _as_reported(run: str) -> tuple[nn.Module, set[str]]:
    """A run's saved model and the names of its pruned weights, whose zeros are counted."""
    model, info = plain.model(Path(run) / "model")
    _whole(info)
    report = json.loads((Path(run) / "report.json").read_text(encoding="utf-8"))
    modules = dict(model.named_modules())
    for name, layer in report["layers"].items():
        zeros = int((modules[name].weight == 0).sum())
        if zeros != layer["zeros"]:
            raise SystemExit(f"{name} has {zeros} zeros, the report says {layer['zeros']}")
    return model, {f"{name}.weight" for name in report["layers"]}


def listed(about: Architecture, folder: str, profile: str) -> list[str]:
    """Maps in a numbered block that the profile neither measures nor names: linear, Conv1D, attention's, experts."""
    from transformers.pytorch_utils import Conv1D

    model, _ = plain.model(folder)
    known = json.loads(Path(profile).read_text(encoding="utf-8"))
    layers, names = known["layers"], {name for part in known["model"]["not_covered"].values() for name in part["names"]}
    stacks = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    inside = re.compile("|".join(rf"{re.escape(name)}\.\d+\." for name in stacks) or "$.")
    missing = []
    for name, module in model.named_modules():
        if not inside.match(f"{name}.") or name in layers:
            continue
        fused = [key for key, value in module.named_parameters(recurse=False) if value.ndim == 3 and len(value) > 1]
        if isinstance(module, nn.Linear | Conv1D) or fused:
            own = [f"{name}.{key}" for key in fused or ["weight"]]
            missing += [each for each in own if not any(fnmatchcase(each, pattern) for pattern in names)]
    return missing


def equal_weights(about: Architecture, *folders: str) -> bool:
    one, other = (plain.model(folder)[0].state_dict() for folder in folders)
    return all(torch.equal(one[name], other[name]) for name in one)


@torch.no_grad()
def tokens(about: Architecture, folder: str, predictions: str, table: str) -> str | None:
    """The first prediction that is not what generate writes of the documented prompt, with both."""
    model, _ = plain.model(folder)
    processor = plain.Processor(folder, about)
    rows = {row["id"]: row for row in _rows(table)}
    lines = Path(predictions).read_text(encoding="utf-8").splitlines()
    for line in map(json.loads, lines):
        row = rows[line["id"]]
        prompt = about.prompt.replace("{}", row.get("question", ""))
        written = plain.write(model, about, processor, _pictures(table, row), prompt, LENGTH)
        if written != line["prediction"]:
            return f"{line['prediction']!r}, documented usage writes {written!r}"
    return None


def loss(about: Architecture, folder: str, table: str) -> float | None:
    model, _ = plain.model(folder)
    processor = plain.Processor(folder, about)
    rows = [(_pictures(table, row), row) for row in _rows(table)]
    return plain_loss.loss(model, about, processor, rows)


def _whole(info: dict[str, Any]) -> None:
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if info.get(kind):
            raise SystemExit(f"{kind.replace('_', ' ')}: {info[kind][0]}")


def _outputs(model: nn.Module, about: Architecture, folder: str, data: str) -> torch.Tensor:
    table = str(Path(data) / ("pairs" if about.task == "reasoning" else "captions"))
    row = _rows(table)[0]
    processor = plain.Processor(folder, about)
    random.seed(0)  # which patches FLAVA's processor masks
    pictures = [] if about.kind == "text" else _pictures(table, row)
    return plain.output(model, about, processor.inputs(pictures, row.get("caption", "a red star")))


def _rows(table: str) -> list[dict[str, Any]]:
    lines = (Path(table) / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _pictures(table: str, row: dict[str, Any]) -> list[Image.Image]:
    names = [row[key] for key in ("file_name", "left_image", "right_image") if key in row]
    return [Image.open(Path(table) / name).convert("RGB") for name in names]


FUNCTIONS = {
    "build": build,
    "runs": runs,
    "reopened": reopened,
    "listed": listed,
    "equal_weights": equal_weights,
    "tokens": tokens,
    "loss": loss,
}
