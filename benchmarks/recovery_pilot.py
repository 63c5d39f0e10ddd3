"""A pilot of recoveries: one cell each, one seed, on the two built-in models.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recovery_pilot.py            # about five minutes on a quiet core

Each cell is a process of its own, whose CPU seconds and peak of memory these are: of the pruning, or of the recovery
that follows it, without the evaluation. All recoveries train for 100 steps of 20 samples at the same learning rate.
Captioning is evaluated on 500 samples of shapes, classification on all of digits. Cells that
benchmarks/results/recovery_pilot.json holds are not run again.
"""

import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import idvl
import idvl.workflows.api  # so that the cells, which are forked, need not import it

RESULTS = Path(__file__).parent / "results" / "recovery_pilot.json"
LIMITS = {"builtin/blip": 500, "builtin/vit": None}
TRAINING = {"max_steps": 100, "batch_size": 20, "learning_rate": 1e-3}
RECOVERIES = {
    "biases": {"method": "biases"},
    "lora": {"method": "lora"},
    "lora + KL": {"method": "lora", "distill": 1.0, "temperature": 4.0},
    "full": {"method": "full"},
}
PRUNINGS = {"70 %": {"sparsity": 0.7}, "2:4": {"structure": "2:4"}}
ALL = ("none", *RECOVERIES, "reconstruct")
# (model, criterion, pruning) -> what follows it
CELLS = {
    ("builtin/blip", "wanda", "70 %"): ALL,
    ("builtin/vit", "wanda", "70 %"): ALL,
    ("builtin/blip", "wanda", "2:4"): ("none", "lora", "reconstruct"),
    ("builtin/vit", "sparsegpt", "70 %"): ("none", "lora", "full"),
    ("builtin/blip", "sparsegpt", "70 %"): ("none", "lora"),
}


def cell(folder: Path, model: str, criterion: str, pruning: str, recovery: str) -> dict[str, Any]:
    """Prune or recover, then evaluate. What is recovered is the model in none/."""
    start = time.process_time()
    path = folder / recovery.replace(" ", "")
    if recovery in RECOVERIES:
        report = idvl.recover(folder / "none", output=path, eval=False, **RECOVERIES[recovery], **TRAINING)
    else:
        repair = {"repair": "reconstruct"} if recovery == "reconstruct" else {}
        report = idvl.prune(model, criterion=criterion, output=path, eval=False, **PRUNINGS[pruning], **repair)
    seconds = time.process_time() - start
    results = idvl.evaluate(path / "model", limit=LIMITS[model], output=folder / f"{path.name}-eval")
    return {
        "model": model,
        "criterion": criterion,
        "pruning": pruning,
        "recovery": recovery,
        "metric": results["headline"],
        **{key: results["metrics"][results["headline"]][key] for key in ("value", "low", "high")},
        "trained": report.get("recovered", {}).get("parameters"),
        "seconds": round(seconds, 1),
        "peak_memory": report["made"]["peak_memory"],
        "zeros": report["total"]["zeros"],
    }


def main() -> None:
    torch.set_num_threads(1)
    # without Java, which would take ten seconds: no METEOR, and captions are cut into words by idvl
    os.environ["PATH"] = ""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    done = {tuple(row[key] for key in ("model", "criterion", "pruning", "recovery")) for row in rows}
    fork = multiprocessing.get_context("fork")
    for setting, recoveries in CELLS.items():
        if all((*setting, recovery) in done for recovery in recoveries):
            continue
        with tempfile.TemporaryDirectory() as folder:
            for recovery in recoveries:
                # a model that is recovered is pruned again
                if (*setting, recovery) in done and recovery != "none":
                    continue
                with fork.Pool(1) as pool:
                    row = pool.apply(cell, (Path(folder), *setting, recovery))
                if (*setting, recovery) not in done:
                    rows.append(row)
                    print(json.dumps(row), flush=True)
                    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
