"""Compares the catalogue with the Hub, runs the paper's dense captioner from there, and writes one JSON file.

    make hub                      needs a network; HF_TOKEN for what is gated
    python -m benchmarks.hub      the same, from the checkout

The exit code is 1 if something is not as expected. `--pin` writes the commits that were found into pins.json, with
which later calls compare; without it nothing is pinned, which is said.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.hub.catalogue import Report, check
from benchmarks.hub.commands import ROOT, captioner, readme
from idvl import json_file
from idvl.data.catalog import CATALOG
from idvl.errors import UsageError, first_line
from idvl.files import reading, write_json

PINS = Path(__file__).with_name("pins.json")
PACKAGES = ("datasets", "huggingface_hub", "transformers", "torch")

CHECKS: dict[str, Callable[[Report], None]] = {
    "readme": readme,
    **{name: partial(check, entry=entry) for name, entry in CATALOG.items() if entry.ids},
    "captioner": captioner,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make hub", description="Compare the catalogue with the Hub.")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "hub.json", help="the JSON file")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=CHECKS, help="these entries and commands alone")
    parser.add_argument("--pins", type=Path, default=PINS, help="the commits to compare with")
    parser.add_argument("--pin", action="store_true", help="write the commits that are found into that file")
    options = parser.parse_args()
    output = options.output.resolve()
    try:
        pins = _pins(options.pins)
    except UsageError as error:
        parser.error(str(error))
    from huggingface_hub import constants

    versions = {name: metadata.version(name) for name in PACKAGES}
    record: dict[str, Any] = {"endpoint": constants.ENDPOINT, "versions": versions, "findings": [], "checks": {}}
    commits: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or CHECKS:
            start = time.perf_counter()
            with contextlib.chdir(folder):
                report = _report(name, pins)
            seconds = round(time.perf_counter() - start, 1)
            seen = {"result": report.result, "reason": report.reason, "seconds": seconds, **report.facts}
            record["checks"][name] = seen
            commits |= report.commits
            record["findings"] += [asdict(finding) for finding in report.findings]
            print(f"{report.result:8}{name:16}{seconds:7.1f} s", flush=True)
            for finding in report.findings:
                print(f"        {finding.line()}", flush=True)
            output.parent.mkdir(parents=True, exist_ok=True)
            write_json(output, record)
    if options.pin:
        write_json(options.pins, pins | commits)
    print(f"{output} holds the results")
    return int(any(finding["differs"] for finding in record["findings"]))


def _pins(path: Path) -> dict[str, str]:
    """Repository -> commit, none where there is no such file. UsageError for a file that holds anything else."""
    if not path.exists():
        return {}
    with reading(path, "file of pins", invalid="is of no use", hint="; remove it, and --pin writes one"):
        pins = json_file.load(path)
        if not isinstance(pins, dict) or not all(isinstance(commit, str) for commit in pins.values()):
            raise ValueError("it holds no object of commits by repository")
    return pins


def _report(name: str, pins: Mapping[str, str]) -> Report:
    """The report of one check; whatever breaks it off is a finding."""
    report = Report(name, pins)
    try:
        CHECKS[name](report)
    except Exception as error:
        report.reason = f"{type(error).__name__}: {first_line(error)}"
        report.note("check", "to be done", report.reason)
    return report


if __name__ == "__main__":
    sys.exit(main())
