"""Checks idvl on this machine's GPU, measures it, and writes one JSON file.

    make gpu                      needs Python 3.11 with torch, transformers and accelerate; five minutes at most
    python -m benchmarks.gpu      the same, from the checkout

Small packages that are missing are fetched into .gpu/ (packages.py). Without a CUDA device the checks run on the CPU
and the figures are skipped. The exit code is 1 if a check failed, 2 if torch, transformers or accelerate is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu import packages

PACKAGES = ("transformers", "accelerate", "numpy", "faiss-cpu", "faiss-gpu", packages.FAISS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make gpu", description="Check and measure idvl on this machine's GPU.")
    parser.add_argument("--output", type=Path, default=packages.ROOT / "runs" / "gpu.json", help="the JSON file")
    parser.add_argument("--seconds", type=float, default=290, help="the time that all checks share")
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="these checks alone")
    options = parser.parse_args()
    start = time.perf_counter()
    if lacking := _lacking():
        print(f"make gpu: {', '.join(lacking)}: give a Python that has them, as in make gpu PYTHON=...")
        return 2
    # deterministic products, which the check of --resume compares; read when CUDA starts
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    os.environ |= {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **quiet}
    import torch

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    failed = packages.provide(torch.version.cuda if device.type == "cuda" else None)
    _find_commands()
    record = {
        "machine": machine(device),
        "fetched_bytes": packages.fetched_bytes(),
        "not_fetched": failed,
        "checks": {},
    }
    print(f"{record['machine']['device']}, torch {torch.__version__}")
    for name, reason in failed.items():
        print(f"{name} could not be had: {reason}")
    if device.type == "cpu":
        print("no CUDA device: the checks compare the CPU with itself, figures are skipped")
    with tempfile.TemporaryDirectory() as folder:
        _execute(record, device, Path(folder), start + options.seconds, options)
    print(f"{options.output} holds the results")
    return int(any(one["result"] == "failed" for one in record["checks"].values()))


def _execute(record: dict[str, Any], device: Any, folder: Path, end: float, options: argparse.Namespace) -> None:
    """Run all checks that are wanted, and write the record after each: what follows may end the process."""
    from benchmarks.gpu.checks import CHECKS
    from benchmarks.gpu.figures import FIGURES
    from benchmarks.gpu.runner import execute

    for check in (*CHECKS, *FIGURES):
        name = check.__name__
        if options.only and name not in options.only:
            continue
        if check in FIGURES and device.type == "cpu":
            found = {"result": "skipped", "reason": "needs a CUDA device", "seconds": 0.0}
        else:
            found = execute(check, device, folder, end - time.perf_counter())
        record["checks"][name] = found
        print(f"{found['result']:8}{name:16}{found['seconds']:7.1f} s  {_shown(found)}", flush=True)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _shown(found: dict[str, Any]) -> str:
    return found.get("reason") or json.dumps(found["figures"])


def _lacking() -> list[str]:
    """What this Python lacks, in words."""
    if not find_spec("packaging"):
        return ["transformers and accelerate are missing"]
    return [f"{one} is missing or older" for one in packages.lacking(packages.GIVEN)]


def _find_commands() -> None:
    """Have `idvl.commands` and `idvl.recipes` found beside the package, where idvl is not installed."""
    import idvl

    if not find_spec("idvl.commands"):
        idvl.__path__.append(str(packages.ROOT))


def machine(device: Any) -> dict[str, Any]:
    """The card, its driver, and the versions that a figure depends on."""
    import torch

    cuda = device.type == "cuda"
    facts = torch.cuda.get_device_properties(device) if cuda else None
    return {
        "device": facts.name if cuda else "cpu",
        "capability": f"{facts.major}.{facts.minor}" if cuda else None,
        "memory": facts.total_memory if cuda else None,
        "driver": _driver() if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: version for name in PACKAGES if (version := _version(name))},
    }


def _driver() -> str | None:
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, check=True, capture_output=True, text=True, timeout=20).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def _version(name: str) -> str | None:
    return None if packages.absent(name) else metadata.version(name)


if __name__ == "__main__":
    sys.exit(main())
