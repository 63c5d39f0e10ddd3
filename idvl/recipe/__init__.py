"""The settings of a run: `Recipe`, its sections, and `load`, which reads them from YAML and overrides.

Unknown keys and values are refused with the nearest valid one. Rooms from session upwards read it; no other knows it.
"""

from idvl.recipe.reading import load, parse_assignments, refuse_unread, sections
from idvl.recipe.schema import ESTIMATING, EVALUATING, READ, RECOVERING, SECTIONS, Recipe, described, keys
from idvl.recipe.sections import (
    DataSection,
    EstimateSection,
    EvalSection,
    ModelSection,
    PruneSection,
)
from idvl.recipe.training import RecoverSection, TrainSection
from idvl.recipe.values import parse_bytes

__all__ = [
    "ESTIMATING",
    "EVALUATING",
    "READ",
    "RECOVERING",
    "SECTIONS",
    "DataSection",
    "EstimateSection",
    "EvalSection",
    "ModelSection",
    "PruneSection",
    "Recipe",
    "RecoverSection",
    "TrainSection",
    "described",
    "keys",
    "load",
    "parse_assignments",
    "parse_bytes",
    "refuse_unread",
    "sections",
]
