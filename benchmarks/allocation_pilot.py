"""A pilot of allocations: one cell each, one seed, on the two built-in models, without training.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/allocation_pilot.py            # about 25 minutes on a quiet core

Each cell prunes from 128 samples and evaluates: captioning on 500 samples of shapes, classification on all of digits.
Cells that benchmarks/results/allocation_pilot.json holds are not run again.
"""

import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import idvl
from idvl.models.layers import find_layers
from idvl.models.loading import load

RESULTS = Path(__file__).parent / "results" / "allocation_pilot.json"
MODELS = {"builtin/blip": {"dataset": "shapes", "eval_limit": 500}, "builtin/vit": {"dataset": "digits"}}
CELLS = (("wanda", 0.6), ("wanda", 0.8), ("sparsegpt", 0.9))
ALLOCATIONS = ("uniform", "depth", "id", "id permuted", "owl", "alpha", "ecoflap", "magnitude")


def permuted(profile: idvl.Profile, modalities: dict[str, str]) -> idvl.Profile:
    """The same IDs, dealt out anew among the layers of each modality."""
    draw, layers = random.Random(0), dict(profile.layers)
    for modality in sorted(set(modalities.values())):
        names = [name for name in layers if modalities.get(name) == modality]
        estimates = [layers[name].estimate for name in names]
        draw.shuffle(estimates)
        for name, estimate in zip(names, estimates, strict=True):
            layers[name] = replace(layers[name], estimate=estimate)
    return replace(profile, layers=layers)


def cell(model: str, folder: Path, profiles: dict[str, Path], criterion: str, sparsity: float, allocation: str) -> Any:
    options = {"profile": profiles[allocation]} if allocation in profiles else {}
    report = idvl.prune(
        model,
        criterion=criterion,
        sparsity=sparsity,
        allocation=allocation.split()[0],
        output=folder,
        overwrite=True,
        **options,
        **MODELS[model],
    )
    evaluation = report["evaluation"]
    shares = [layer["sparsity"] for layer in report["layers"].values()]
    return {
        "model": model,
        "criterion": criterion,
        "sparsity": sparsity,
        "allocation": allocation,
        "metric": evaluation["headline"],
        **{key: evaluation["metrics"][evaluation["headline"]][key] for key in ("value", "low", "high")},
        "zeros": report["total"]["zeros"],
        "least": min(shares),
        "most": max(shares),
        "modalities": {name: part["sparsity"] for name, part in report["modalities"].items()},
    }


def main() -> None:
    cells = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    done = {tuple(row[key] for key in ("model", "criterion", "sparsity", "allocation")) for row in cells}
    with tempfile.TemporaryDirectory() as folder:
        for model, data in MODELS.items():
            loaded, root = load(model, device="cpu"), Path(folder)
            profile = idvl.estimate_id(model, data["dataset"], n=2000, split="train")
            layers = find_layers(loaded.model, loaded.family)
            profiles = {"id": root / "id.json", "id permuted": root / "permuted.json"}
            profile.save(profiles["id"])
            permuted(profile, {name: layer.modality for name, layer in layers.items()}).save(profiles["id permuted"])
            for criterion, sparsity in CELLS:
                for allocation in ALLOCATIONS:
                    if (model, criterion, sparsity, allocation) in done:
                        continue
                    cells.append(cell(model, root / "run", profiles, criterion, sparsity, allocation))
                    print(json.dumps(cells[-1]), flush=True)
                    RESULTS.write_text(json.dumps(cells, indent=1) + "\n")


if __name__ == "__main__":
    main()
