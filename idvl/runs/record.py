"""What a run folder says of its run: run.json, metrics.jsonl, and whether a resumed run is the same one."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from idvl import json_file
from idvl.errors import RunError, UsageError, quoted
from idvl.files import read_bytes, write_bytes
from idvl.json_schema import Schema, check

# what the signatures of older versions do not hold
LATER = ("configuration", "chat_template", "prune.tokens_from", "history")
# what has changed where a hash differs
HASHES = {
    "fingerprint": " (the dense model's weights)",
    "pruned": " (the pruned model's weights)",
    "samples": " (data)",
}
# the lines of a matrix of runs: the runs are in folders beside it
MATRIX = "matrix.jsonl"
# errors that say that a name leads to no regular file
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.EINVAL)


class RunFile(Schema):
    """run.json. The signature is what a resumed run must share with the one before."""

    NAME: ClassVar[str] = "idvl/run/1"

    class Signature(Schema):
        model_class: str | None = Field(None, alias="class")
        history: list[dict[str, Any]] = Field(default_factory=list)

    signature: Signature
    files: list[str]
    resumed: list[Any]
    versions: dict[str, Any] | None = None
    started: str | None = None
    # where the run was started: relative paths of its recipe begin there; older versions do not say
    directory: str | None = None


class MetricLine(Schema):
    """A line of metrics.jsonl: how far a run is."""

    step: int = 0
    layer: str = ""


def read_record(folder: Path | str) -> dict[str, Any] | None:
    """The run.json of a run folder, None where there is none of idvl. UsageError for one that cannot be read."""
    path = Path(folder) / "run.json"
    try:
        return json_file.read(path, RunFile)
    except ValueError:
        return None
    except OSError as error:
        if error.errno in NO_FILE:
            return None
        raise UsageError(f"{quoted(path)} cannot be read ({error.strerror}): make it readable, or try again") from error


def damage(folder: Path | str) -> str | None:
    """Why the run.json of a folder cannot be read; None where it can, or is missing."""
    try:
        json_file.load(Path(folder) / "run.json")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return json_file.reason(error)
    return None


def read_metrics(path: Path | str, schema: type[Schema] = MetricLine) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl, [] when there is none. RunError for a broken line before the last."""
    path = Path(path)
    try:
        whole = read_bytes(path).rpartition(b"\n")[0] if path.exists() else b""
        return [check(json_file.parse(line), schema) for line in whole.split(b"\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise RunError(f"{quoted(path)} has a broken line ({error}); start again with --overwrite") from error


def total_cost(*parts: Mapping[str, Any]) -> dict[str, float | None]:
    """The `seconds` of all parts of a run, and the largest `peak_memory` in bytes; None where a part does not say."""

    def known(key: str) -> list[float] | None:
        values = [part.get(key) for part in parts]
        return values if all(isinstance(value, int | float) and math.isfinite(value) for value in values) else None

    seconds, peaks = known("seconds"), known("peak_memory")
    return {"seconds": seconds and round(sum(seconds), 3), "peak_memory": peaks and max(peaks)}


def refuse_difference(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UsageError, naming every difference, unless both signatures are the same."""
    all_keys = [*before, *(key for key in now if key not in before and key not in LATER)]
    keys = [key for key in all_keys if before.get(key) != now.get(key)]
    if keys:
        differences = "; ".join(
            f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}{HASHES.get(key, '')}" for key in keys
        )
        # a model that has changed on the Hub under the same settings
        moved_on = (
            "revision" in keys and {*keys} <= {"revision", "fingerprint", "configuration"} and before.get("revision")
        )
        remedy = f"set --revision {before['revision']}" if moved_on else "use the same settings, model and data"
        raise UsageError(f"cannot resume {quoted(folder)}: {differences}; {remedy}, --overwrite or another --output")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def cut_broken_line(path: Path) -> None:
    """Remove an unfinished last line, so that the next one starts on its own."""
    if path.exists():
        try:
            data = read_bytes(path)
        except OSError as error:
            raise RunError(f"{quoted(path)} cannot be read ({error.strerror}); start again with --overwrite") from error
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            write_bytes(path, whole)
