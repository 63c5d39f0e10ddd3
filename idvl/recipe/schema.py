"""A recipe: all sections of a run's settings together, and the keys that they have."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from idvl import yaml_file
from idvl.files import write_text
from idvl.recipe.section import Section
from idvl.recipe.sections import (
    DataSection,
    EstimateSection,
    EvalSection,
    ModelSection,
    PruneSection,
)
from idvl.recipe.training import RecoverSection, TrainSection


class Recipe(Section):
    """A run. prune reads all sections, estimate-id, eval and recover those of ESTIMATING, EVALUATING and RECOVERING."""

    model: ModelSection
    data: DataSection = DataSection()
    estimate: EstimateSection = EstimateSection()
    prune: PruneSection = PruneSection()
    train: TrainSection = TrainSection()
    recover: RecoverSection = RecoverSection()
    eval: EvalSection = EvalSection()

    def to_dict(self, *sections: str) -> dict[str, Any]:
        """The resolved recipe, or these sections of it, YAML- and JSON-ready; `load` reads it back."""
        return self.model_dump(mode="json", include=set(sections or SECTIONS))

    def same_everywhere(self) -> dict[str, Any]:
        """What all processes of a run must have been given alike: all but what may differ between machines."""
        return self.model_dump(mode="json", exclude={"model": {"device", "cache_dir"}, "estimate": {"spill"}})

    def save(self, path: Path | str) -> None:
        """Write the resolved recipe as YAML, atomically."""
        write_text(path, yaml_file.dump(self.to_dict()))


SECTIONS = tuple(Recipe.model_fields)
ESTIMATING = ("model", "data", "estimate")
EVALUATING = ("model", "data", "eval")
RECOVERING = ("model", "data", "prune", "train", "recover", "eval")
MEASURING_LOSSES = ("model", "data", "estimate", "prune", "eval")


def keys() -> list[str]:
    """Every dotted key of a recipe."""
    return [f"{section}.{name}" for section in SECTIONS for name in names(section)]


@functools.cache
def described() -> dict[str, dict[str, Any]]:
    """Every dotted key with the JSON schema of its setting, `shown`, `flag` and `value` included."""
    return {f"{section}.{name}": schema for section in SECTIONS for name, schema in _schemas(section)}


def _schemas(section: str) -> Iterable[tuple[str, dict[str, Any]]]:
    model: type[Section] = Recipe.model_fields[section].annotation  # type: ignore[assignment]
    for name, schema in model.model_json_schema()["properties"].items():
        # null is no value of its own
        (kind,) = [kind for kind in schema.pop("anyOf", [{}]) if kind.get("type") != "null"]
        yield name, kind | schema


def names(section: str) -> Iterable[str]:
    return Recipe.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


# the sections that a command reads where these are not all
READ = {"estimate-id": ESTIMATING, "eval": EVALUATING, "recover": RECOVERING, "analyze": MEASURING_LOSSES}
# what `analyze --sensitivity` reads of two of them
OF_LOSSES = {"prune": {"scope", "profile", "compat"}, "eval": {"split", "limit", "batch_size"}}
# settings of these sections without an effect on a command -> the one that has it, or None
UNREAD = {
    "eval": {
        "data.samples": "eval.limit",
        "data.batch_size": "eval.batch_size",
        "eval.every": None,
        "eval.after": None,
    },
    "recover": {
        "data.samples": "train.samples",
        "data.batch_size": "train.batch_size",
        # those of the run that pruned hold
        **{f"prune.{name}": None for name in names("prune") if name != "structure"},
    },
    "analyze": {f"{section}.{name}": None for section, read in OF_LOSSES.items() for name in {*names(section)} - read},
}
