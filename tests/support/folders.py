"""Run folders as idvl leaves them, small: written by hand, so that no test here needs a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

LAYERS = {
    "vision.0.qkv": ("vision", "vision.0", 100, 12.0),
    "vision.0.fc1": ("vision", "vision.0", 300, 14.0),
    "text.0.query": ("language", "text.0", 100, 5.0),
    "text.0.cross.key": ("cross", "text.0", 100, 11.0),
    "text.0.output": ("language", "text.0", 200, 2.0),
}
VERSIONS = {"python": "3.11.7", "idvl": "0.1.0", "torch": "2.13.0"}

EVIL = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\"> & 'q' \u2028"


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def record(folder: Path, signature: dict[str, Any], recipe: dict[str, Any]) -> None:
    write(
        folder / "run.json",
        {
            **{"schema": "idvl/run/1", "versions": VERSIONS, "started": "2026-01-02T03:04:05+00:00", "files": []},
            **{"seed": signature.get("seed", 0), "signature": signature, "resumed": [], "command": "idvl"},
        },
    )
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


def profile(model: str = "m", fingerprint: str = "dense", scale: float = 1.0, **changes: Any) -> dict[str, Any]:
    layers = {}
    for depth, (name, (modality, block, _, dimension)) in enumerate(LAYERS.items()):
        scales = [{"neighbors": [k, 2 * k], "dimension": dimension, "mean_distance": 1.5} for k in (1, 2, 4)]
        layers[name] = {
            **{"modality": modality, "block": block, "depth": depth, "width": 8, "n_features": 1024},
            "reads_image": name.endswith("key"),
            "estimate": {
                **{"dimension": scale * dimension, "stderr": 0.5, "n_points": 200, "n_duplicates": 1},
                **{"estimator": "twonn", "reason": None},
                "diagnostics": {"scales": scales, "r_squared": 0.99, "neighbors": {"certified_rows": 200}},
            },
        }
    return {
        **{"schema": "idvl/profile/1", "model": {"name": model, "fingerprint": fingerprint}, "layers": layers},
        **{"dataset": {"dataset": "shapes"}, "protocol": {"estimator": "twonn", "tokens": "flatten"}},
        **{"provenance": {"seconds": 61.0, "peak_memory": 2**30}, **changes},
    }


def few_points(made: dict[str, Any], *names: str) -> dict[str, Any]:
    """The profile with layers whose dimension rests on too few points to be reliable."""
    for name in names:
        made["layers"][name]["estimate"]["n_points"] = 36
    return made


def results(metrics: dict[str, Any], fingerprint: str, task: str = "caption", **changes: Any) -> dict[str, Any]:
    return {
        **{"schema": "idvl/results/1", "task": task, "headline": next(iter(metrics)), "samples": 3, "limit": None},
        "metrics": {
            name: {"value": value, "low": value - 1, "high": value + 1, "interval": "image means"}
            for name, value in metrics.items()
        },
        **{"model": {"name": "m", "fingerprint": fingerprint}, "scoring": {"tokenizer": "ptb"}, "seconds": 5.0},
        **{"dataset": {"dataset": "shapes", "split": "test", "fingerprint": "t"}, **changes},
    }


def predictions(folder: Path, *said: str) -> None:
    lines = [
        {"number": n, "id": f"shapes/test/{n:06d}", "prediction": text, "references": [f"reference {n}"]}
        for n, text in enumerate(said)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "predictions.jsonl").write_text(text, encoding="utf-8")


def pruned(
    folder: Path, value: float = 50.0, *, criterion: str = "platon", id_weight: str = "none", sparsity: float = 0.8,
    scope: str = "all", seed: int = 0, dense: str = "dense", model: str = "m", **settings: Any,
) -> Path:  # fmt: skip
    """A finished run of prune with its evaluation."""
    asked = {"criterion": criterion, "id_weight": id_weight, "sparsity": sparsity, "scope": scope}
    signature = {f"prune.{key}": word for key, word in asked.items()} | {"seed": seed, "fingerprint": dense}
    more = {key.replace("__", "."): word for key, word in settings.items()}
    recipe = {"model": {"name": model}, "data": {"dataset": "shapes", "seed": seed}, "prune": asked}
    record(folder, {"class": "Blip", "layers": scope, **signature, **more}, recipe)
    layers = {
        name: {
            **{"modality": modality, "block": block, "weights": weights, "asked": None, "substituted": None},
            **{"zeros": round(sparsity * weights), "sparsity": sparsity, "factor": None},
            **{"dimension": None if id_weight == "none" else dimension, "stderr": 0.5},
        }
        for name, (modality, block, weights, dimension) in LAYERS.items()
        if scope in ("all", modality)
    }
    part = {"layers": len(layers), "weights": 800, "asked": sparsity, "zeros": 640, "sparsity": sparsity}
    total = part | {"prunable_weights": 800, "prunable_sparsity": sparsity}
    total |= {"model_weights": 1000, "model_sparsity": sparsity / 2}
    modalities = {word: part for word in ("vision", "language", "cross") if scope in ("all", word)}
    made = {"command": "idvl prune m", "seconds": 120.0, "peak_memory": 3 * 2**29, "versions": VERSIONS}
    report = {"layers": layers, "modalities": modalities, "total": total, "made": made}
    write(folder / "report.json", {"schema": "idvl/report/1", **report})
    write(folder / "eval" / "results.json", results({"CIDEr": value, "BLEU@4": value / 2}, f"pruned {folder.name}"))
    predictions(folder / "eval", "a cat", "a dog", f"at {value}")
    if id_weight != "none":
        write(folder / "profile.json", profile(model, dense))
    return folder


def evaluated(folder: Path, value: float = 90.0, fingerprint: str = "dense", **changes: Any) -> Path:
    record(folder, {"task": "caption"}, {"model": {"name": "m"}, "data": {"dataset": "shapes"}})
    write(folder / "results.json", results({"CIDEr": value, "BLEU@4": value / 2}, fingerprint, **changes))
    predictions(folder, "a cat", "a dog", "a bird")
    return folder


def measured(folder: Path, **values: Any) -> Path:
    made = profile(**values)
    record(folder, {"tokens": "flatten"}, {"model": {"name": made["model"]["name"]}, "data": {"dataset": "shapes"}})
    write(folder / "profile.json", made)
    return folder


def sensitivity(folder: Path) -> Path:
    """A run whose loss grows with the dimension, without exception."""
    record(folder, {"profile": "auto"}, {"model": {"name": "m"}, "data": {"dataset": "shapes"}})

    def losses(slope: float) -> list[dict[str, Any]]:
        return [{"ratio": ratio, "zeros": 1, "loss": 1 + slope * ratio} for ratio in (0.4, 0.8)]

    layers = {
        name: {
            **{"modality": modality, "block": block, "depth": depth, "dimension": dimension, "stderr": 0.5},
            **{"unsound": None, "weights": weights, "losses": losses(dimension)},
        }
        for depth, (name, (modality, block, weights, dimension)) in enumerate(LAYERS.items())
    }
    modalities = {word: {"layers": 2, "weights": 400, "losses": losses(3)} for word in ("vision", "language", "cross")}
    found = {"dense": {"loss": 1.0}, "layers": layers, "modalities": modalities, "provenance": {"seconds": 3.0}}
    write(folder / "sensitivity.json", {"schema": "idvl/sensitivity/1", **found})
    return folder


def allocations(folder: Path) -> Path:
    """A comparison of two allocations."""
    signature, about = {"allocations": ["uniform", "depth"]}, {"model": {"name": "m"}, "data": {"dataset": "shapes"}}
    record(folder, signature, about)
    layers = {
        name: {"modality": modality, "block": block, "weights": weights}
        for name, (modality, block, weights, _) in LAYERS.items()
    }
    values = {"uniform": dict.fromkeys(LAYERS, 0.5), "depth": {name: 0.2 + 0.1 * n for n, name in enumerate(LAYERS)}}
    found = {name: {"seconds": 1.0, "sparsity": sparsity} for name, sparsity in values.items()}
    document = {"schema": "idvl/allocations/1", "sparsity": 0.5, "layers": layers, "allocations": found}
    write(folder / "allocations.json", document)
    return folder
