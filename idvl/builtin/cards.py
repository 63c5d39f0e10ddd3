"""The card beside a built-in model's weights: what it is, how it was made, how well it does. It measures nothing."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from idvl.files import write_text

_PAGE = """\
---
library_name: transformers
license: apache-2.0
tags: [idvl, {dataset}]
---

# {model}

{summary}

A `{class}` with {parameters:,} parameters, stored in bfloat16, trained from scratch on `{dataset}`/train.
It is made to be measured, pruned and tested without a network. It knows nothing outside `{dataset}`.

## How well it does

{metric}, measured from the stored weights, computed in float32:

| split | samples | correct |
|---|---:|---:|
{rows}

## How it was made

`python -m idvl.builtin.make {command}`: {minutes} minutes with {threads} threads, in {computed}, with
{versions}.

| setting | value |
|---|---:|
{recipe}

The same numbers are in `card.json`.
"""


def write(folder: Path, card: dict[str, Any], command: str) -> None:
    """Write card.json, and README.md which says the same; `command` is what follows `python -m idvl.builtin.make`.

    `card` has model, summary, class, parameters, dataset, metric, results {split: {"samples", "correct"}}, recipe,
    minutes and threads; the versions of what made it are added here.
    """
    versions = {"python": platform.python_version()}
    versions |= {package: version(package) for package in ("torch", "transformers", "numpy", "pillow")}
    card = {**card, "versions": versions}
    write_text(folder / "card.json", json.dumps(card, indent=2) + "\n")
    results = [(split, r["samples"], r["correct"]) for split, r in card["results"].items()]
    page = {
        **card,
        "command": command,
        "computed": "float32" if card["recipe"]["precision"] == "float32" else "bfloat16 autocast",
        "rows": "\n".join(f"| {split} | {n:,} | {correct:,} ({correct / n:.2%}) |" for split, n, correct in results),
        "versions": ", ".join(f"{package} {number}" for package, number in versions.items()),
        "recipe": "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in card["recipe"].items()),
    }
    write_text(folder / "README.md", _PAGE.format(**page))
