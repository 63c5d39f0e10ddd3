"""Metrics that idvl does not bring: a local folder, or one of the Hub, through the `evaluate` library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from idvl.errors import UsageError, first_line, quoted
from idvl.json_file import DEEPEST, sound

# levels of the document that holds what a metric gives
WITHIN = 10


def load(name: str, *, trust_remote_code: bool = False) -> Any:
    """The metric `name`: a folder with a script of its own name in it, such a script, or a metric of the Hub.

    UsageError for one that is not there, or, without `trust_remote_code`, of the Hub.
    """
    script = _script(name)
    if script is None and not trust_remote_code:
        raise UsageError(
            f"{quoted(name)} is not a local folder, and a metric of the Hub is code that would run on this machine: "
            "allow it with trust_remote_code (--trust-remote-code)"
        )
    try:
        import evaluate

        return evaluate.load(str(script or name), keep_in_memory=True)
    except (Exception, SystemExit) as error:
        raise UsageError(f"the metric {quoted(name)} cannot be loaded: {first_line(error)}") from error


def compute(metric: Any, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, Any]:
    """What a metric gives for predictions and references, JSON-ready. UsageError where it does not take these."""
    try:
        values = metric.compute(predictions=list(predictions), references=list(references))
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"the metric {quoted(metric.name)} does not take these predictions: {first_line(error)}"
        ) from error
    if not isinstance(values, dict):
        raise UsageError(f"the metric {quoted(metric.name)} gives a {type(values).__name__}, not names with values")
    try:
        return sound(_plain(values), deepest=DEEPEST - WITHIN)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"the metric {quoted(metric.name)} gives what no file can hold: {first_line(error)}"
        ) from error


def _script(name: str) -> Path | None:
    """The script of a local metric; None for what can only be a name of the Hub."""
    path = Path(name).expanduser()
    script = path / f"{path.resolve().name}.py" if path.is_dir() else path
    if script.is_file():
        return script.resolve()
    if path.is_dir():
        raise UsageError(f"the metric folder {quoted(name)} has no {script.name} in it")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UsageError(f"there is no metric folder {quoted(name)}")
    return None


def _plain(value: Any) -> Any:
    """A value of numpy or Python as JSON knows it; None for a number that is none."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, str | bool | int | None):
        return value
    return (value if math.isfinite(value) else None) if isinstance(value, float) else str(value)
