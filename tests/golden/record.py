"""Golden results: what the built-in models give for fixed settings, recorded once and compared ever after.

The first values were made by the code of 7d6a713, before anything was changed.

    python -m tests.golden.record        # writes tests/golden/blip.json and vit.json again

A change that alters a value updates the file and names, in its commit, each changed value and the bug behind it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import idvl
from idvl.data.samples import select
from idvl.errors import UsageError
from idvl.models.layers import find_layers
from idvl.models.loading import load
from idvl.recipe import load as load_recipe
from idvl.sparsity import axes, criteria, icml24
from idvl.sparsity.masks import Masks
from idvl.sparsity.pruner import WeightPruner
from idvl.sparsity.schedule import Schedule
from idvl.workflows import evaluate, prune
from tests.support.reporter import Silent

HERE = Path(__file__).parent
DATASETS = {"blip": "shapes", "vit": "digits"}
# tokens, capture, estimator
PROTOCOLS = [
    ("flatten", "output", "twonn"),
    ("flatten", "output", "icml24"),
    ("mean", "input", "twonn-mle"),
    ("first", "output", "gride"),
]
STEPS = 4


def record(name: str) -> dict[str, Any]:
    """Everything that is golden of builtin/NAME."""
    torch.set_num_threads(1)
    return {
        "made": machine(),
        "dimensions": dimensions(name),
        "masks": masks(name),
        "pruned": pruned(name),
        "predictions": predictions(name),
    }


def machine() -> dict[str, str]:
    """What decides the last bits of a sum: results are bit-identical where this is equal."""
    wanted = ("vendor_id", "cpu family", "model", "model name")
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        lines = [line.partition(":") for line in file]
    facts = {key.strip(): value.strip() for key, _, value in lines if key.strip() in wanted}
    return {
        "torch": torch.__version__.partition("+")[0],
        "machine": platform.machine(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "cpu": " / ".join(facts.get(key, "?") for key in wanted),
    }


def dimensions(name: str) -> dict[str, dict[str, float | None]]:
    """Protocol -> layer -> intrinsic dimension on 100 samples; by icml24, which is slow, of the first blocks."""
    found, loaded = {}, load(f"builtin/{name}", device=torch.device("cpu"))
    samples = select(DATASETS[name], n=100).samples
    for tokens, capture, estimator in PROTOCOLS:
        profile = idvl.estimate_id(
            loaded.model,
            samples,
            processor=loaded.processor,
            tokens=tokens,
            capture=capture,
            estimator=estimator,
            layers="*.0.*" if estimator == "icml24" else None,
        )
        layers = {layer: result.estimate.dimension for layer, result in profile.layers.items()}
        found[f"{estimator} of {tokens} {capture}s"] = layers
    return found


def masks(name: str) -> dict[str, dict[str, Any]]:
    """Combination of settings -> hash of the masks and zeros after a few steps of drawn updates and gradients."""
    loaded = load(f"builtin/{name}", device=torch.device("cpu"))
    # the first block of every tower: enough to tell, and quick
    layers = find_layers(loaded.model, loaded.family, pattern="*.0.*")
    modules = {key: layer.module for key, layer in layers.items()}
    found = {}
    for combination in combinations():
        weights = {key: nn.Parameter(module.weight.detach().clone()) for key, module in modules.items()}
        biases = {key: nn.Parameter(module.bias.detach().clone()) for key, module in modules.items()}
        pruner = make_pruner(weights, biases, **combination)
        for step in range(1, STEPS + 1):
            draw(step, weights | {f"{key}.bias": bias for key, bias in biases.items()}, combination["schedule"])
            pruner.step(step)
        found[" ".join(combination.values())] = {
            "sha256": hash_of({key: pruner.masks.kept(key) for key in weights}),
            "zeros": sum(pruner.masks.zeros.values()),
        }
    return found


def combinations() -> Iterator[dict[str, str]]:
    """Every combination of criterion, weighting, structure, schedule and compat that is not refused."""
    for criterion, id_weight, structure, schedule, compat in product(
        sorted(criteria.observed()),
        ("multiply", "divide", "none"),
        ("unstructured", "2:4"),
        ("cubic", "linear", "one-shot"),
        axes.COMPATS,
    ):
        chosen = {"criterion": criterion, "id_weight": id_weight, "structure": structure, "schedule": schedule}
        allocation = "global" if structure == "unstructured" else "uniform"
        try:
            axes.refuse(**chosen, compat=compat, allocation=allocation)
        except UsageError:
            continue
        yield chosen | {"compat": compat}


def make_pruner(
    weights: dict[str, nn.Parameter],
    biases: dict[str, nn.Parameter],
    *,
    criterion: str,
    id_weight: str,
    structure: str,
    schedule: str,
    compat: str,
) -> WeightPruner:
    drawn = {name: 5.0 + number * 7 % 11 for number, name in enumerate(weights)}
    powers = {"multiply": 1, "divide": -1, "none": 0}
    common = {
        "factors": {name: factor ** powers[id_weight] for name, factor in drawn.items()},
        "schedule": Schedule(
            kind=schedule,
            target=0.5 if structure == "2:4" else 0.7,
            total_steps=STEPS,
            initial=0.0 if schedule == "one-shot" else 0.2,
            final=0.0 if schedule == "one-shot" else 0.2,
            mask_every=1,
        ),
    }
    window = {"window": 2} if "window" in criteria.settings(criterion) else {}
    if compat == "icml24":
        return icml24.Icml24(
            weights, criterion=icml24.load(criterion, **window), biases=biases, steps_per_epoch=4, **common
        )
    allocation = "global" if structure == "unstructured" else "uniform"
    return WeightPruner(
        weights, criterion=criteria.load(criterion, **window), allocation=allocation, structure=structure, **common
    )


def draw(step: int, tensors: dict[str, nn.Parameter], schedule: str) -> None:
    """The gradients of a step, and where weights are trained their update."""
    generator = torch.Generator().manual_seed(step)
    for tensor in tensors.values():
        tensor.grad = torch.randn(tensor.shape, generator=generator)
        if schedule != "one-shot":
            tensor.data.add_(torch.randn(tensor.shape, generator=generator), alpha=0.01)


def pruned(name: str) -> dict[str, dict[str, Any]]:
    """A whole run of idvl prune, PLATON x ID: hashes of masks and weights, and each layer's zeros."""
    changes = {
        "model.name": f"builtin/{name}",
        "data.dataset": DATASETS[name],
        "data.samples": 100,
        "prune.mask_every": 1,
        "prune.window": 3,
        "train.max_steps": 12,
        "train.batch_size": 8,
        "eval.after": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        result = prune.run(load_recipe(None, changes), folder=Path(folder) / "run", reporter=Silent())
        kept = Masks.load(Path(folder) / "run" / "masks.safetensors")
        model = load(str(Path(folder) / "run" / "model"), device=torch.device("cpu")).model
    layers = result.report["layers"]
    return {
        "platon x id": {
            "masks": hash_of({key: kept.kept(key) for key in layers}),
            "weights": hash_of({key: value for key, value in model.state_dict().items() if value.is_floating_point()}),
            "zeros": {key: layer["zeros"] for key, layer in layers.items()},
            "sizes": {key: layer["weights"] for key, layer in layers.items()},
        }
    }


def predictions(name: str) -> dict[str, dict[str, Any]]:
    """What the dense model predicts for 20 samples of its dataset's test split, in short."""
    changes = {"model.name": f"builtin/{name}", "data.dataset": DATASETS[name], "eval.limit": 20}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        evaluate.run(load_recipe(None, changes), folder=place, reporter=Silent())
        lines = [json.loads(line) for line in (place / "predictions.jsonl").read_text().splitlines()]
    lines.sort(key=lambda line: line["number"])
    text = json.dumps(lines, sort_keys=True)
    return {"dense": {"sha256": hashlib.sha256(text.encode()).hexdigest(), "first": lines[0]}}


def hash_of(tensors: dict[str, Tensor]) -> str:
    """The hash of named tensors, by the order of their names."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    for model in DATASETS:
        (HERE / f"{model}.json").write_text(json.dumps(record(model), indent=1) + "\n", encoding="utf-8")
