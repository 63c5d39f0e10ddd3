"""The environment of a run: versions, platform, commit and command, on which its numbers depend beside its recipe."""

from __future__ import annotations

import contextlib
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("idvl", "torch", "torchvision", "transformers", "accelerate", "datasets", "safetensors", "numpy", "pillow")
PACKAGES += ("faiss-cpu", "faiss-gpu")


def provenance() -> dict[str, Any]:
    """What a number depends on besides its recipe: versions, platform, git commit, command line, time. JSON-ready."""
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "command": shlex.join([*_program(), *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _program() -> list[str]:
    """What a user types for this program."""
    path = Path(sys.argv[0])
    return ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name]


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _git_commit() -> str | None:
    """The commit of the working folder's repository, with -dirty after it when files were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
