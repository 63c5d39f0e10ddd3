"""The four commands as a user types them, in processes of their own: `make smoke`.

A local stand-in for the Hub serves a tiny BLIP and 160 pictures under the names of BLIP-base and COCO. Each command
must end with exit code 0 and leave the documented files behind, with the exact number of zeros.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support import tiny
from tests.support.hub import Hub, write_dataset

MODEL = "Salesforce/blip-image-captioning-base"
PICTURES, SAMPLES, EVALUATED, SPARSITY = 160, 110, 20, 0.8
LAUNCH = "accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no -m"
COMMANDS = {
    "estimate": f"idvl estimate-id {MODEL} --dataset coco --samples {SAMPLES} --output estimate",
    "prune": f"{LAUNCH} idvl prune {MODEL} --dataset coco --profile estimate --sparsity {SPARSITY} --max-steps 20 "
    "--batch-size 4 --no-eval --output prune",
    "eval": "idvl eval prune/model --task caption --dataset coco --batch-size 10 --output eval",
    "analyze": "idvl analyze estimate prune eval --output report.html",
}


def main() -> None:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        coco = write_dataset("coco", place / "coco", PICTURES)
        split = write_dataset("coco-karpathy", place / "split", range(PICTURES - EVALUATED, PICTURES))
        datasets = {"lmms-lab-encoder/COCO-Caption": coco, "yerevann/coco-karpathy": split}
        with Hub(models={MODEL: tiny.save("blip", place / "blip")}, datasets=datasets) as hub:
            environment = hub.env(place / "cache", OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true")
            for what, command in COMMANDS.items():
                run(command, place, environment)
                CHECKS[what](place)
    print(f"smoke: all four commands work ({time.perf_counter() - start:.0f} s)")


def run(command: str, place: Path, environment: dict[str, str]) -> None:
    """Run one command in the folder `place`; end here, with what it said, if it fails."""
    print(f"$ {command}", flush=True)
    program, *arguments = command.split()
    start = time.perf_counter()
    done = subprocess.run(
        [Path(sys.executable).parent / program, *arguments],
        **{"cwd": place, "env": environment, "capture_output": True, "text": True, "timeout": 300},
    )
    if done.returncode != 0:
        raise SystemExit(f"smoke: exit code {done.returncode}, not 0\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    print(f"  {time.perf_counter() - start:.0f} s", flush=True)


def check(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise SystemExit(f"smoke: {what} is {found!r}, not {expected!r}")


def files(folder: Path, *names: str) -> None:
    for name in names:
        check(f"{folder.name}/{name}", "there" if (folder / name).exists() else "missing", "there")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def estimated(place: Path) -> None:
    files(place / "estimate", "profile.json", "profile.png", "recipe.yaml", "run.json", "metrics.jsonl")
    profile = read(place / "estimate" / "profile.json")
    check("model.name", profile["model"]["name"], MODEL)
    check("the number of samples", len(profile["dataset"]["ids"]), SAMPLES)
    modalities = {layer["modality"] for layer in profile["layers"].values()}
    check("the modalities", sorted(modalities), ["cross", "language", "vision"])
    known = [layer["estimate"]["dimension"] is not None for layer in profile["layers"].values()]
    # the tiny tokenizer knows few of the captions' words: the first layers that read them see too few distinct points
    check("whether more than 20 layers have a dimension", sum(known) > 20, True)


def pruned(place: Path) -> None:
    """The saved weights hold the zeros that report.json counts, layer by layer, and the number of them is exact."""
    from safetensors.torch import load_file
    from transformers import BlipForConditionalGeneration

    names = ("model/config.json", "model/model.safetensors", "masks.safetensors", "README.md", "recipe.yaml")
    files(place / "prune", *names, "metrics.jsonl", "profile.json")
    report = read(place / "prune" / "report.json")
    total = report["total"]
    check("the zeros in all", total["zeros"], round(SPARSITY * total["weights"]))
    model = BlipForConditionalGeneration.from_pretrained(place / "prune" / "model")
    masks = load_file(place / "prune" / "masks.safetensors")
    for name, layer in report["layers"].items():
        weight = model.get_submodule(name).weight
        check(f"the zeros of {name}", int((weight == 0).sum()), layer["zeros"])
        kept = sum(byte.bit_count() for byte in masks[name].tolist())
        check(f"the weights that the mask of {name} keeps", kept, weight.numel() - layer["zeros"])
    check("the training steps", report["made"]["steps"], 20)
    check("the number of processes", read(place / "prune" / "run.json")["signature"]["processes"], 2)


def evaluated(place: Path) -> None:
    files(place / "eval", "results.json", "predictions.jsonl", "recipe.yaml", "run.json")
    results = read(place / "eval" / "results.json")
    check("the samples", results["samples"], EVALUATED)
    check("the predictions", len((place / "eval" / "predictions.jsonl").read_text().splitlines()), EVALUATED)
    check("the headline", results["headline"], "CIDEr")
    check("whether CIDEr is a number", isinstance(results["metrics"]["CIDEr"]["value"], float), True)


def shown(place: Path) -> None:
    files(place, "report.html", "report-figures")
    page = (place / "report.html").read_text(encoding="utf-8")
    for run in ("estimate", "prune", "eval"):
        check(f"whether the page names {run}", run in page, True)
    check("whether there are figures", any((place / "report-figures").glob("*.png")), True)


CHECKS = {"estimate": estimated, "prune": pruned, "eval": evaluated, "analyze": shown}

if __name__ == "__main__":
    main()
