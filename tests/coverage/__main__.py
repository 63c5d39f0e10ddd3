"""Every architecture through idvl's command line, one after the other: `make coverage`.

Results go to results.json as they come; what was tried with the same code is not tried again. In the end they become
docs/models.md. Runs that try different architectures at the same time share both files.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.coverage import data, table
from tests.coverage.architectures import architectures
from tests.coverage.checks import CHECKS, Failed, Nothing, Trial, read, without_dimension
from tests.coverage.probes import PROBES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.json"
PAGE = ROOT / "docs" / "models.md"
LONGEST = 240  # characters of a failure that are kept
ALL = {**CHECKS, **PROBES}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="ARCHITECTURE", help="those to try [default: all]")
    parser.add_argument("--redo", action="store_true", help="try again what has a result")
    parser.add_argument("--keep", type=Path, help="folder in which checkpoints and runs stay")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(architectures())
    if unknown:
        parser.error(f"no architecture {', '.join(sorted(unknown))}; there is {', '.join(architectures())}")
    results, code = saved(), fingerprint()
    todo = arguments.names or list(architectures())
    if not arguments.redo:
        todo = [name for name in todo if results.get(name, {}).get("code") != code]
    with tempfile.TemporaryDirectory(prefix="idvl-coverage-") as scratch:
        work = arguments.keep or Path(scratch)
        if not (work / "data").exists():
            data.write(work / "data")
        start = time.monotonic()
        for number, name in enumerate(todo):
            record = {**trial(name, work), "code": code}
            save(name, record)
            if not arguments.keep:
                shutil.rmtree(work / name)
            left = (time.monotonic() - start) / (number + 1) * (len(todo) - number - 1)
            print(f"{number + 1}/{len(todo)} {line(name, record)}  {left / 60:.0f} min left", flush=True)
    with alone():
        results = saved()
        PAGE.write_text(table.page(results), encoding="utf-8")
    print(f"{table.counts(results)}\nThe table is {PAGE}")


def trial(name: str, work: Path) -> dict[str, Any]:
    """All checks and probes of one architecture: its record in results.json."""
    about = architectures()[name]
    tried = Trial(about=about, folder=work / name, data=work / "data")
    tried.folder.mkdir(parents=True, exist_ok=True)
    start, why = time.monotonic(), {}
    for check, function in ALL.items():
        try:
            function(tried)
            tried.results[check] = "+"
        except Nothing:
            tried.results[check] = "."
        except Failed as failure:
            tried.results[check] = "-"
            why[check] = str(failure).replace(str(work), "...")[:LONGEST]
    seconds = round(time.monotonic() - start, 1)
    return {"kind": about.kind, **described(tried), "results": tried.results, "why": why, "seconds": seconds}


def described(tried: Trial) -> dict[str, Any]:
    """The class of the model, and what idvl says of its layers."""
    config = tried.model / "config.json"
    record: dict[str, Any] = {
        "class": read(config)["architectures"][0] if config.exists() else None,
        "transformers": importlib.metadata.version("transformers"),
        "layers": None,
        "way": None,
    }
    profile = tried.folder / "estimate" / "profile.json"
    if profile.exists():
        found = read(profile)
        layers = found["layers"].values()
        by_modality = {layer["modality"]: 0 for layer in layers}
        for layer in layers:
            by_modality[layer["modality"]] += 1
        whole = found["provenance"]["forward_passes"] > 1
        record |= {"layers": by_modality, "way": "whole" if whole else "walk", "family": found["model"]["family"]}
        record["without_dimension"] = len(without_dimension(found["layers"]))
    return record


def fingerprint() -> str:
    """Short for the code of idvl and of this package, and the version of transformers."""
    digest = hashlib.sha256(importlib.metadata.version("transformers").encode())
    folders = [ROOT / "idvl", ROOT / "commands", HERE]
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        if path.name != "table.py" and not path.name.startswith("test_"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def alone() -> Iterator[None]:
    """Other runs wait that want to write the results or the page."""
    folder = os.open(RESULTS.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def saved() -> dict[str, Any]:
    return read(RESULTS) if RESULTS.exists() else {}


def save(name: str, record: dict[str, Any]) -> None:
    """Put one record among those of results.json, of which other runs may have written some by now."""
    with alone():
        results = saved() | {name: record}
        fresh = RESULTS.with_suffix(".tmp")
        ordered = {name: results[name] for name in architectures() if name in results}
        fresh.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        os.replace(fresh, RESULTS)


def line(name: str, record: dict[str, Any]) -> str:
    marks = "".join(record["results"][check] for check in ALL)
    return f"{name:22} {marks}  {record['seconds']:4.0f} s  {next(iter(record['why'].values()), '')[:90]}"


if __name__ == "__main__":
    main()
