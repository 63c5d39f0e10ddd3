"""The JSON documents of run folders that reports read. One that is not what it says is refused, with what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from idvl.errors import quoted
from idvl.files import DEEPEST, open_regular, read_bytes
from idvl.files import LARGEST as HUGE

# bytes of a document, of the end of a log, and of a line; items of a list or object; characters of a text
LARGEST, TAIL, LINE = 32 * 2**20, 2**20, 2**22
MOST, LONGEST = 100_000, 100_000

NUMBER = (int, float, type(None))
LOSSES = [{"ratio": (int, float), "loss": NUMBER}]
TEXT = (str, type(None))
MADE = {"seconds?": NUMBER, "peak_memory?": NUMBER}
MODEL = {"name?": TEXT, "path?": TEXT, "fingerprint?": TEXT, "dtype?": TEXT}
# what reports rely on in a document of a schema. "*" stands for every key ("#": how many at most), a list for
# any number of its one item; what ends with "?" may be missing or null
SHAPES: dict[str, dict[str, Any]] = {
    "idvl/report/1": {
        "layers": {"*": {"modality": str, "weights": int, "sparsity": NUMBER, "dimension": NUMBER, "stderr?": NUMBER}},
        "modalities": {"*": {"sparsity?": NUMBER}},
        "total": {f"{key}?": NUMBER for key in ("sparsity", "prunable_sparsity", "model_sparsity", "model_weights")},
        "made": MADE,
        "evaluation?": {"skipped?": TEXT},
        "verified?": {"fingerprint?": TEXT},
    },
    "idvl/results/1": {
        "task": str,
        "headline?": TEXT,
        "metrics": {"*": {}, "#": 500},
        "settings?": {},
        "model": MODEL,
        "dataset": {"dataset?": TEXT, "split?": TEXT, "classes?": [(str, int)]},
        "samples?": NUMBER,
        "limit?": NUMBER,
        **MADE,
    },
    "idvl/sensitivity/1": {
        "dense": {"loss?": NUMBER},
        "layers": {"*": {"modality": str, "weights": int, "dimension": NUMBER, "stderr": NUMBER, "losses": LOSSES}},
        "modalities": {"*": {"layers": int, "weights?": NUMBER, "losses": LOSSES}},
        "provenance": MADE,
    },
}


PROFILE = {
    **{
        "model": MODEL,
        "dataset": {"dataset?": TEXT, "split?": TEXT},
        "provenance": MADE,
    },
    "layers": {
        "*": {
            **{"modality": str, "block": TEXT, "depth": int, "n_features": NUMBER, "reads_image": bool},
            "estimate": {
                **{"dimension": NUMBER, "stderr": NUMBER, "n_points": int, "n_duplicates": int, "reason": TEXT},
                "diagnostics": {
                    "scales?": [{"neighbors": [int], "dimension": NUMBER, "mean_distance?": NUMBER}],
                    "neighbors?": {"certified_rows?": NUMBER},
                },
            },
        }
    },
}
RECORD = {"versions?": {}, "started?": TEXT, "signature?": {"class?": TEXT}}
RECIPE = {
    "model?": {"name?": TEXT},
    "data?": {"dataset?": TEXT, "data_dir?": TEXT},
    "prune?": {},
}
# lines: how far a run came, the cells of a matrix, what a model said of a sample
PROGRESS = {"step?": int, "layer?": str}
MATRIX = {"state?": TEXT}
WORD = (str, int, type(None))
PREDICTION = {
    **{"id": (str, int), "prediction?": WORD, "label?": WORD, "top?": [WORD]},
    **{"references?": [str], "answers?": [str], "question?": TEXT},
}


def read(path: Path, schema: str, troubles: list[str]) -> dict[str, Any]:
    """The document at `path`; {} if it is missing; {} with the problem recorded if it is damaged or newer.

    NaN, which our files never hold, becomes None.
    """
    try:
        values = load(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        troubles.append(f"{path.name} cannot be read: {reason(error)}")
        return {}
    found = values.get("schema") if isinstance(values, dict) else None
    if found != schema:
        troubles.append(f"{path.name} has the schema {quoted(found)}; this idvl reads {schema!r}")
        return {}
    if wrong := misfit(values, SHAPES[schema]):
        troubles.append(f"{path.name} is damaged: {wrong}")
        return {}
    return values


def load(path: Path) -> Any:
    """The values in a JSON file. OSError for one that cannot be read, ValueError for what is not `sound`."""
    return parsed(read_bytes(path, LARGEST))


def parsed(text: bytes) -> Any:
    """`sound` values from JSON. ValueError for anything else."""
    try:
        return sound(json.loads(text.decode("utf-8")))
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None


def lines(path: Path, shape: Any) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file, one by one. OSError and ValueError as of `load`, the latter with the line's number."""
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE + 1), b""), 1):
            try:
                if len(line) > LINE:
                    raise ValueError(f"it has more than {LINE:,} bytes")
                if line.strip():
                    yield _line(line, shape)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error


def last_line(path: Path, shape: Any) -> dict[str, Any]:
    """The last whole line of a log, {} where there is none. OSError and ValueError as of `load`."""
    with open_regular(path) as file:
        start = max(0, file.seek(0, 2) - TAIL)
        file.seek(start)
        whole = file.read(TAIL).rpartition(b"\n")[0]
    found = [line for line in whole.split(b"\n")[bool(start) :] if line.strip()]
    return _line(found[-1], shape) if found else {}


def _line(text: bytes, shape: Any) -> dict[str, Any]:
    values = parsed(text)
    if wrong := misfit(values, shape):
        raise ValueError(wrong)
    return values


def reason(error: Exception) -> str:
    """Why a file cannot be read, on one line of a sane length."""
    said = " ".join(str(getattr(error, "strerror", None) or error).split())
    return said if len(said) <= 300 else f"{said[:300]}..."


def sound(value: Any, place: str = "it", depth: int = 0) -> Any:
    """The value with None for NaN and infinities.

    ValueError, naming the place, for what no document of idvl's holds and no report can show: text that is not
    Unicode, numbers beyond `HUGE`, anything beyond the limits above, and what is no JSON value.
    """
    if isinstance(value, str):
        return _text(value, place)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if abs(value) > HUGE:
            raise ValueError(f"{place} is a number beyond {HUGE:g}")
        return value
    if not isinstance(value, dict | list):
        raise ValueError(f"{place} is a {type(value).__name__}")
    if len(value) > MOST or depth == DEEPEST:
        raise ValueError(
            f"{place} "
            + (f"has more than {MOST:,} items" if len(value) > MOST else f"is nested more than {DEEPEST} deep")
        )
    if isinstance(value, list):
        return [sound(item, place, depth + 1) for item in value]
    return {
        _text(key, f"a name in {place}"): sound(item, f"{key!r:.60} of {place:.200}", depth + 1)
        for key, item in value.items()
    }


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place} is {quoted(value)}, not text")
    if len(value) > LONGEST:
        raise ValueError(f"{place} has more than {LONGEST:,} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place} is {quoted(value)}, which is not Unicode") from None
    return value


def misfit(value: Any, shape: Any, place: str = "it") -> str | None:
    """The first part of a `sound` value that has not its shape, in words; None if all have."""
    if isinstance(shape, type | tuple):
        return None if isinstance(value, shape) else f"{place} is {value!r:.40}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{place} is no list"
        return next(filter(None, (misfit(item, shape[0], f"an item of {place}") for item in value)), None)
    if not isinstance(value, dict):
        return f"{place} is no object"
    if len(value) > shape.get("#", MOST):
        return f"{place} has {len(value):,} parts"
    lacking = []
    if "*" in shape:
        parts = [(key, item, shape["*"]) for key, item in value.items()]
    else:
        names = {key.removesuffix("?"): key for key in shape}
        known = (name for name, key in names.items() if (name in value if name == key else value.get(name) is not None))
        parts = [(name, value[name], shape[names[name]]) for name in known]
        lacking = [f"{place} lacks {name!r}" for name, key in names.items() if name == key and name not in value]
    wrong = (misfit(item, part, f"{name!r:.60} of {place}") for name, item, part in parts)
    return next(filter(None, chain(wrong, lacking)), None)
