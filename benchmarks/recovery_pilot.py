"""A pilot of recoveries: one cell each, one seed, on the two built-in models.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recovery_pilot.py            # about ten minutes on a quiet core

Each cell is a command in a process of its own, whose peak of memory and CPU seconds these are: start and evaluation
included, the pruning that a recovery begins with not. All recoveries train for 100 steps of 20 samples at the same
learning rate. Captioning is evaluated on 500 samples of shapes, classification on all of digits. Cells that
benchmarks/results/recovery_pilot.json holds are not run again.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "recovery_pilot.json"
MODELS = {"builtin/blip": ["--eval-limit", "500"], "builtin/vit": []}
TRAINING = ["--max-steps", "100", "--batch-size", "20", "--learning-rate", "1e-3"]
RECOVERIES = {
    "biases": ["--method", "biases"],
    "lora": ["--method", "lora"],
    "lora + KL": ["--method", "lora", "--distill", "1", "--temperature", "4"],
    "full": ["--method", "full"],
}
ALL = ("none", *RECOVERIES, "reconstruct")
# (model, criterion, pruning) -> what follows it
CELLS = {
    ("builtin/blip", "wanda", "70 %"): ALL,
    ("builtin/vit", "wanda", "70 %"): ALL,
    ("builtin/blip", "wanda", "2:4"): ("none", "lora", "reconstruct"),
    ("builtin/vit", "sparsegpt", "70 %"): ("none", "lora", "full"),
    ("builtin/blip", "sparsegpt", "70 %"): ("none", "lora"),
}
PRUNINGS = {"70 %": ["--sparsity", "0.7"], "2:4": ["--structure", "2:4"]}


def run(folder: Path, *command: str) -> dict[str, Any]:
    """An idvl command that leaves a model in a folder: its report, and the CPU seconds of its process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # without Java, which METEOR would start for ten seconds
    environment = os.environ | {"PATH": ""}
    arguments = [sys.executable, "-m", "idvl", *command, "--output", folder, "--quiet"]
    subprocess.run(arguments, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads((folder / "report.json").read_text()) | {"seconds": round(seconds, 1)}


def cells(folder: Path, model: str, criterion: str, pruning: str, recoveries: tuple[str, ...]) -> Any:
    """The rows of one pruned model, as they come."""
    prune = ["prune", model, "--criterion", criterion, *PRUNINGS[pruning], *MODELS[model]]
    for recovery in recoveries:
        path = folder / recovery.replace(" ", "")
        if recovery in RECOVERIES:
            report = run(path, "recover", str(folder / "none"), *RECOVERIES[recovery], *TRAINING, *MODELS[model])
        else:
            report = run(path, *prune, *(["--repair", "reconstruct"] if recovery == "reconstruct" else []))
        evaluation = report["evaluation"]
        yield {
            "model": model,
            "criterion": criterion,
            "pruning": pruning,
            "recovery": recovery,
            "metric": evaluation["headline"],
            **{key: evaluation["metrics"][evaluation["headline"]][key] for key in ("value", "low", "high")},
            "trained": report.get("recovered", {}).get("parameters"),
            "seconds": report["seconds"],
            "peak_memory": report["made"]["peak_memory"],
            "zeros": report["total"]["zeros"],
        }


def main() -> None:
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    done = {tuple(row[key] for key in ("model", "criterion", "pruning", "recovery")) for row in rows}
    for cell, recoveries in CELLS.items():
        left = tuple(name for name in recoveries if (*cell, name) not in done)
        if not left:
            continue
        with tempfile.TemporaryDirectory() as folder:
            # what is recovered is pruned again
            for row in cells(Path(folder), *cell, tuple(dict.fromkeys(("none", *left)))):
                if (*cell, row["recovery"]) in done:
                    continue
                print(json.dumps(row), flush=True)
                rows.append(row)
                RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
