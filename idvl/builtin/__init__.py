"""Where the models that ship with idvl lie, and what each was trained on; `make.py` trains them. Loads no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from idvl.errors import UsageError, did_you_mean, quoted

_HERE = Path(__file__).parent
NAMES = tuple(sorted(f"builtin/{config.parent.name}" for config in _HERE.glob("*/config.json")))


def path(name: str) -> Path:
    """The folder of a built-in model, 'builtin/blip' or 'blip' for short. Raises UsageError for an unknown one."""
    full = name if name.startswith("builtin/") else f"builtin/{name}"
    if full not in NAMES:
        hint = did_you_mean(full, NAMES, cutoff=0.85)
        raise UsageError(f"no built-in model {quoted(name)}: there are {', '.join(NAMES)}{hint}")
    return _HERE / full.removeprefix("builtin/")


def dataset_of(name: str) -> str:
    """The dataset that a built-in model was trained on. Raises UsageError for any other model: it has no default."""
    if not name.startswith("builtin/"):
        raise UsageError(f"no dataset for {quoted(name)}: set dataset (--dataset) to a name, a folder or a Hub id")
    return _card(name)["dataset"]


def learning_rate_of(name: str) -> float:
    """The peak learning rate that a built-in model was trained with."""
    return _card(name)["recipe"]["learning_rate"]


def _card(name: str) -> dict[str, Any]:
    return json.loads((path(name) / "card.json").read_text(encoding="utf-8"))
