"""What the checks need beside torch, transformers and accelerate: found, or fetched into .gpu/site, 60 MiB at most.

Nothing is installed into the Python that runs. Wheels laid into .gpu/wheels by hand serve a machine without an index.
"""

from __future__ import annotations

import configparser
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WHEELS, SITE = ROOT / ".gpu" / "wheels", ROOT / ".gpu" / "site"
MOST_BYTES = 60 * 2**20
# what must be there, and what may be fetched: none of these depends on torch. No check reaches the other requirements
# of setup.cfg, such as scipy and datasets; tests/test_gpu.py runs the checks without them
GIVEN = ("torch", "transformers", "accelerate")
SMALL = ("psutil", "safetensors", "typer", "rich", "pydantic", "pyyaml", "pillow")
# faiss for CUDA 12 fits without its dependencies, which torch for CUDA 12 brings; for CUDA 13 there is no small one
FAISS = "faiss-gpu-cu12"


def required() -> dict[str, Any]:
    """The requirements of setup.cfg by name, as packaging reads them."""
    from packaging.requirements import Requirement

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n")
    return {one.name: one for one in map(Requirement, filter(None, lines))}


def lacking(names: tuple[str, ...]) -> list[str]:
    """Those of these packages that are missing or too old, with what is wanted of them."""
    wanted, found = required(), []
    for name in names:
        try:
            there = metadata.version(name)
        except metadata.PackageNotFoundError:
            there = None
        if there is None or not wanted[name].specifier.contains(there, prereleases=True):
            found.append(str(wanted[name]))
    return found


def provide(cuda: str | None) -> dict[str, str]:
    """Put what is needed on sys.path, fetched if it must be. What could not be had, and why."""
    sys.path.insert(0, str(SITE))
    failed = {}
    for names, options in ((lacking(SMALL), []), (_faiss(cuda), ["--no-deps"])):
        if names and (reason := _fetch(names, options)):
            # one that cannot be had must not keep the others away
            failed |= {name: said for name in names if (said := _fetch([name], options) if len(names) > 1 else reason)}
    return failed


def fetched_bytes() -> int:
    """The size of all wheels that were fetched."""
    return sum(path.stat().st_size for path in WHEELS.glob("*.whl"))


def _faiss(cuda: str | None) -> list[str]:
    there = {name for name in ("faiss-gpu", FAISS, "faiss-cpu") if not absent(name)}
    return [FAISS] if (cuda or "").startswith("12.") and not there else []


def absent(name: str) -> bool:
    """Whether a package of any version is missing."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return True
    return False


def _fetch(names: list[str], options: list[str]) -> str | None:
    """Download wheels, and unpack them if they are small enough; the reason if that failed."""
    print(f"fetching {', '.join(names)}", flush=True)
    WHEELS.mkdir(parents=True, exist_ok=True)
    before = set(WHEELS.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    found = ["--only-binary=:all:", "--find-links", str(WHEELS), *options, *names]
    try:
        _run([*pip, "download", "--dest", str(WHEELS), *found])
        if fetched_bytes() > MOST_BYTES:
            for path in set(WHEELS.glob("*.whl")) - before:
                path.unlink()
            return f"its wheels exceed the {MOST_BYTES >> 20} MiB that may be fetched"
        _run([*pip, "install", "--no-index", "--upgrade", "--target", str(SITE), *found])
    except subprocess.CalledProcessError as error:
        return (error.stderr.strip().splitlines() or ["pip failed"])[-1]
    return None


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
