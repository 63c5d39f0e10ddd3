"""Runs one check after the other within a time, and tells passed, failed and skipped apart."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

# figures of a check; it raises AssertionError where the GPU is wrong, Skip where it cannot run
Check = Callable[[torch.device, Path], dict[str, Any]]


class Skip(Exception):
    """A check cannot run here; the message says why."""


class _Late(BaseException):
    """The time is over."""


def execute(check: Check, device: torch.device, folder: Path, seconds: float, **options: Any) -> dict[str, Any]:
    """{"result": passed, failed or skipped, "seconds", and "figures" or "reason"} of a check, within `seconds`."""
    if seconds < 1:
        return {"result": "skipped", "reason": "no time was left", "seconds": 0.0}
    start = time.perf_counter()
    before = signal.signal(signal.SIGALRM, _end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        found = {"result": "passed", "figures": check(device, folder, **options)}
    except _Late:
        found = {"result": "skipped", "reason": f"did not end within the {seconds:.0f} s that were left"}
    except Skip as reason:
        found = {"result": "skipped", "reason": str(reason)}
    except ModuleNotFoundError as error:
        found = {"result": "skipped", "reason": f"needs the package {error.name}"}
    except Exception as error:
        found = {"result": "failed", "reason": " ".join(f"{type(error).__name__}: {error}".split())[:400]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return {**found, "seconds": round(time.perf_counter() - start, 2)}


def _end(number: int, frame: FrameType | None) -> None:
    raise _Late
