"""The cells of the small study in a line each, docs/replication/*.jsonl: what its tables rest on, without its folders.

    .venv/bin/python benchmarks/summaries.py [STUDY]         a second

STUDY (runs/small) is where `make replicate` left its runs; a matrix may have been split over several folders, as in
core-1 and core-2. A line: the cell's name and settings, its metrics, the sparsity of each modality, the median
dimension of each modality of the pruned model where it was measured, seconds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
DIGITS = 6


def main() -> None:
    study = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/small")
    for recipe in sorted((ROOT / "recipes" / "small").glob("*.yaml")):
        folders = sorted(study.glob(f"{recipe.stem}*/matrix.jsonl"))
        write(recipe.stem, [line for path in folders for line in cells(path)])
    write("sensitivity", [alone(path) for path in sorted(study.glob("sensitivity/*/sensitivity.json"))])


def write(name: str, lines: list[dict[str, Any]]) -> None:
    if lines:
        path = ROOT / "docs" / "replication" / f"{name}.jsonl"
        path.write_text("".join(f"{json.dumps(short(line))}\n" for line in lines), encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {len(lines)} lines")


def cells(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if line["state"] != "done":
            continue
        kept = {key: line[key] for key in ("name", "settings", "headline", "metrics", "seconds")}
        report = path.parent / line["name"] / "report.json"
        if report.exists():
            modalities = json.loads(report.read_text(encoding="utf-8"))["modalities"]
            kept["sparsity"] = {word: found["sparsity"] for word, found in modalities.items()}
        after = path.parent / "profiles" / line["name"] / "profile.json"
        if after.exists():
            kept["dimension"] = medians(after)
        yield {key: value for key, value in kept.items() if value is not None}


def medians(path: Path) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for layer in json.loads(path.read_text(encoding="utf-8"))["layers"].values():
        if layer["estimate"]["dimension"] is not None:
            found.setdefault(layer["modality"], []).append(layer["estimate"]["dimension"])
    return {word: median(values) for word, values in found.items()}


def alone(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))

    def losses(part: dict[str, Any]) -> dict[str, float]:
        return {str(one["ratio"]): one["loss"] for one in part["losses"]}

    return {
        "model": found["model"]["name"],
        "dense": found["dense"]["loss"],
        "modalities": {word: losses(part) for word, part in found["modalities"].items()},
        "layers": {
            name: {"modality": part["modality"], "dimension": part["dimension"], "losses": losses(part)}
            for name, part in found["layers"].items()
        },
    }


def short(value: Any) -> Any:
    """Floats to six digits, at any depth."""
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
