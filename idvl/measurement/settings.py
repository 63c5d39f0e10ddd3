"""What is measured of a model, and with what, apart from the samples."""

from __future__ import annotations

from dataclasses import dataclass

from idvl.profile import Capture, EstimatorName, Knn, Tokens
from idvl.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured: which tensor of a layer, which of its tokens, with which estimator."""

    tokens: Tokens = "flatten"
    capture: Capture = "output"
    estimator: EstimatorName = "twonn"
    knn: Knn = "auto"
    batch_size: int = 16
    seed: int = 0


def settings_of(recipe: Recipe) -> Settings:
    """The settings of a recipe."""
    section = recipe.estimate
    return Settings(
        tokens=section.tokens,
        capture=section.capture,
        estimator=section.estimator,
        knn=section.knn,
        batch_size=recipe.data.batch_size,
        seed=recipe.data.seed,
    )
