"""The architectures that idvl is tried on, each a function that makes a tiny random model and its real processor.

`build(name, folder)` writes the checkpoint as a user has it; ARCHITECTURES says what each reads and is evaluated on.
The functions are in the modules named in MODULES, one for each kind of input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

Kind = Literal["fused", "towers", "vision", "text"]
KINDS: dict[Kind, str] = {
    "fused": "vision-language, fused",
    "towers": "image and text towers",
    "vision": "vision",
    "text": "text",
}
MODULES = ("blips", "joint", "captioners", "prefixed", "tiled", "packed", "llamas", "towers", "vision", "text")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """`task` is what idvl eval does with it, None where there is no such task. Without a chat template, `marker` stands
    for the picture in a text. `prompt` is the text that its authors ask with, {}
    the question. `alone` finds, by name, text layers that
    never see the picture."""

    name: str
    kind: Kind
    make: Callable[[], tuple[Any, Any]]
    task: str | None
    marker: str
    prompt: str
    alone: str | None


_made: dict[str, Architecture] = {}


def architecture(
    kind: Kind, task: str | None = None, *, marker: str = "", prompt: str | None = None, alone: str | None = None
) -> Callable:
    """Registers a function that returns (model, processor) under its name."""

    def register(make: Callable[[], tuple[Any, Any]]) -> Callable[[], tuple[Any, Any]]:
        name = make.__name__
        if name in _made:
            raise ValueError(f"two architectures are called {name}")
        asked = prompt if prompt is not None else "{}" if task == "vqa" else ""
        _made[name] = Architecture(name=name, kind=kind, make=make, task=task, marker=marker, prompt=asked, alone=alone)
        return make

    return register


@functools.cache
def architectures() -> dict[str, Architecture]:
    """All of them by name, in the order of the table."""
    for module in MODULES:
        import_module(f"tests.coverage.{module}")
    return {name: _made[name] for kind in KINDS for name in _made if _made[name].kind == kind}


def build(name: str, folder: Path | str, seed: int = 0) -> Path:
    """Write the tiny checkpoint of an architecture, its weights random by `seed`, and return the folder."""
    import torch

    made = architectures()
    if name not in made:
        raise ValueError(f"no architecture {name}; there is {', '.join(made)}")
    torch.manual_seed(seed)
    model, processor = made[name].make()
    _without_dropout(model.config)
    audible(model)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def _without_dropout(config: Any) -> None:
    """Training is then the same in every script."""
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
        elif hasattr(value, "model_type"):
            _without_dropout(value)


def audible(model: Any) -> None:
    """Weights drawn with a deviation of 0.02 five times as large: a map of 32 then passes on as much as one of 768."""
    for parameter in {id(weight): weight for weight in model.parameters()}.values():
        if parameter.ndim > 1 and parameter.numel() > 1 and float(parameter.detach().std()) < 0.03:
            parameter.data.mul_(5)
