"""Commands as a user types them, with what they must end with: the README's first, and the paper's dense captioner."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.hub.catalogue import Report
from idvl.profile import load_profile

ROOT = Path(__file__).parents[2]
CAPTIONER = "Salesforce/blip-image-captioning-base"
SAMPLES, LIMIT = 100, 8


def readme(report: Report) -> None:
    """The first command of README.md."""
    command = re.search(r"(?m)^```\nidvl (.*?) *(?:#.*)?$", (ROOT / "README.md").read_text(encoding="utf-8"))[1]
    _run(report, *command.split(), "--overwrite")


def captioner(report: Report) -> None:
    """The paper's dense BLIP-base: the IDs of all of its layers, and captions, on a few samples of COCO."""
    about = (CAPTIONER, "--dataset", "coco", "--json", "--overwrite", "--output")
    if profile := _run(report, "estimate-id", *about, "ids", "--samples", str(SAMPLES)):
        revision = profile["model"]["revision"]
        report.facts["revision"] = revision
        report.compare_revision(CAPTIONER, revision)
        layers = {name: layer["estimate"]["dimension"] for name, layer in profile["layers"].items()}
        report.facts["dimensions"] = layers
        published = load_profile("published:blip-coco").layers
        if layers.keys() != published.keys():
            report.note("layers", f"the {len(published)} of the published profile", f"{len(layers)}, others among them")
        if without := [name for name, dimension in layers.items() if dimension is None]:
            report.note("dimensions", "one for each layer", f"none for {len(without)}, the first is {without[0]}")
    if results := _run(report, "eval", *about, "eval", "--limit", str(LIMIT)):
        lines = Path("eval/predictions.jsonl").read_text(encoding="utf-8").splitlines()
        captions = [json.loads(line)["prediction"] for line in lines]
        values = {name: metric.get("value") for name, metric in results["metrics"].items()}
        report.facts |= {"captions": captions, "metrics": values}
        if len(captions) != LIMIT or not all(captions):
            report.note("captions", f"{LIMIT}", f"{sum(map(bool, captions))}")


def _run(report: Report, *words: str) -> dict[str, Any] | None:
    """What a command prints as JSON, {} without --json; None, and a note, where it fails."""
    from idvl.commands import main

    out, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        code = main(list(words))
    report.facts.setdefault("commands", []).append({"command": f"idvl {' '.join(words)}", "exit_code": code})
    if code:
        said = [line for line in told.getvalue().splitlines() if line.strip()]
        report.note(f"idvl {words[0]}", "exit code 0", f"{code}: {said[-1] if said else 'nothing said'}")
        return None
    return json.loads(out.getvalue()) if "--json" in words else {}
