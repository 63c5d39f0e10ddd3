"""What a pruning recipe leaves open, and what it sets that cannot be. It reads neither models nor samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from idvl.builtin import learning_rate_of
from idvl.errors import UsageError
from idvl.pruning.calibration_settings import (
    CALIBRATES,
    calibrates,
    needs_all_weights,
    refuse_few,
    refuse_training,
    resolve_calibration,
)
from idvl.recipe import PruneSection, Recipe
from idvl.recipe.sections import AUTO, SPARSITY
from idvl.recipe.training import EPOCHS, LEARNING_RATE, ONE_SHOT_STEPS
from idvl.session import with_dataset
from idvl.sparsity.axes import refuse as refuse_axes
from idvl.sparsity.schedule import MASK_EVERY, Schedule
from idvl.sparsity.structure import parse
from idvl.training import Training

# settings of the schedule whose default is a value
SCHEDULE = ("schedule", "initial", "final")
# what one-shot has in place of a schedule's settings
ONE_SHOT = {"initial": 0.0, "final": 0.0, "mask_every": 1}


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with every value that it leaves open. UsageError for one that makes no sense."""
    if calibrates(recipe.prune):
        refuse_training(recipe)
        recipe = with_dataset(recipe).model_copy(update={"prune": resolve_pruning(recipe.prune)})
        if recipe.estimate.offload and (what := needs_all_weights(recipe.prune)):
            raise UsageError(f"{what} needs all weights in memory at once: leave offload out")
        return recipe
    _refuse(recipe)
    prune, train = recipe.prune, recipe.train
    built_in = recipe.model.name.startswith("builtin/")
    rate = learning_rate_of(recipe.model.name) if built_in else LEARNING_RATE
    training = {
        "learning_rate": train.learning_rate or rate,
        # they were trained on the first caption
        "texts": train.texts or ("first" if built_in else "any"),
        "epochs": EPOCHS if train.epochs is None else train.epochs,
    }
    if prune.schedule == "one-shot":
        training |= {"epochs": 0, "max_steps": train.max_steps or ONE_SHOT_STEPS}
    recipe = with_dataset(recipe).model_copy(
        update={
            "prune": resolve_pruning(prune),
            "train": train.model_copy(update=training),
        }
    )
    _refuse_together(recipe)
    return recipe


def resolve_pruning(prune: PruneSection) -> PruneSection:
    """The section with every value that it leaves open. UsageError for values that do not go together."""
    if calibrates(prune):
        return resolve_calibration(prune)
    for name in CALIBRATES:
        if getattr(prune, name) is not None:
            named = f"sparsity {prune.modality_sparsity}" if name == "modality_sparsity" else name
            raise UsageError(f"{named} is for pruning from calibration samples: set calibration, or leave it out")
    structure = parse(prune.structure)
    update = {
        "sparsity": prune.sparsity or (structure.sparsity if structure.grouped else SPARSITY),
        "allocation": prune.allocation or ("uniform" if structure.grouped else "global"),
    }
    if prune.schedule == "one-shot":
        update |= ONE_SHOT
    prune = prune.model_copy(update=update)
    limits = {key: getattr(prune, key) for key in ("floor", "ceiling", "min_keep", "monotone", "compat", "sparsity")}
    axes = {key: getattr(prune, key) for key in ("criterion", "id_weight", "allocation", "structure", "schedule")}
    refuse_axes(**axes, **limits)
    return prune


def refuse_idle(prune: PruneSection, settings: Mapping[str, Any]) -> None:
    """UsageError for a profile, samples of dimensions or a schedule that a user sets where the run reads none.

    In a recipe file it may stay. `settings`: dotted key -> value.
    """
    if calibrates(prune):
        # `resolve` refuses other values than the default
        named = [key for key in SCHEDULE if f"prune.{key}" in settings]
        if idle := [key for key in named if getattr(prune, key) == PruneSection.model_fields[key].default]:
            raise UsageError(
                f"{idle[0]} and criterion {prune.criterion}, which prunes once, from calibration samples: it has no "
                f"schedule; leave {idle[0]} out"
            )
        return
    for key, value in ONE_SHOT.items() if prune.schedule == "one-shot" else ():
        named = settings.get(f"prune.{key}")
        if named is not None and float(named) != value:
            raise UsageError(f"{key} and schedule one-shot, which sets masks at each of its steps: leave {key} out")
    profile, samples = settings.get("prune.profile"), settings.get("data.samples")
    if profile is not None and prune.id_weight == "none":
        raise UsageError(f"profile {profile} and id_weight none: no dimension is used; leave profile out")
    estimates = prune.id_weight != "none" and (prune.profile == AUTO or prune.refresh_profile)
    if samples is not None and not estimates:
        beside = "id_weight none" if prune.id_weight == "none" else f"profile {prune.profile}"
        raise UsageError(
            f"samples {samples} and {beside}: no dimension is estimated; leave samples out, or set train.samples, the "
            "number of training samples"
        )


def schedule_of(prune: PruneSection, steps: int) -> Schedule:
    """The schedule of a resolved recipe over so many steps."""
    schedule = Schedule(
        kind=prune.schedule,
        target=prune.sparsity,
        total_steps=steps,
        initial=prune.initial,
        final=prune.final,
        mask_every=prune.mask_every or MASK_EVERY,
    )
    # the paper's code sets masks every so many steps in a short run too
    return schedule if prune.mask_every or prune.compat == "icml24" else schedule.adapted()


def training_of(recipe: Recipe) -> Training:
    """The settings of the loop."""
    settings = recipe.train.model_dump(exclude={"samples", "texts", "new_head", "report_to"})
    return Training(
        **settings,
        report_to=tuple(recipe.train.report_to),
        evaluate_every=recipe.eval.every,
        seed=recipe.data.seed,
        update_weights=recipe.prune.schedule != "one-shot",
        skip_last=recipe.prune.compat == "icml24",
    )


def head_training(training: Training) -> Training:
    """The settings with which a new head is learnt before: as many steps, or what one-shot pruning leaves out."""
    steps = {} if training.update_weights else {"epochs": EPOCHS, "max_steps": None}
    return replace(training, update_weights=True, skip_last=False, distill=0.0, evaluate_every=None, **steps)


def _refuse(recipe: Recipe) -> None:
    prune = recipe.prune
    if recipe.estimate.offload:
        raise UsageError(f"criterion {prune.criterion} trains all weights, in memory: leave offload out")
    if recipe.model.dtype != "float32":
        raise UsageError(f"weights are trained in float32, not {recipe.model.dtype}: see train.mixed_precision")
    if prune.id_weight != "none" and prune.profile == AUTO:
        refuse_few(recipe)
    if prune.schedule == "one-shot" and recipe.train.epochs:
        raise UsageError("schedule one-shot trains nothing: leave epochs out, or give max_steps")


def _refuse_together(recipe: Recipe) -> None:
    prune = recipe.prune
    if prune.compat == "icml24" and recipe.train.mixed_precision == "fp16":
        raise UsageError(
            "compat icml24 and mixed_precision fp16: steps that fp16 skips would move its masks away from the ends of "
            "epochs; use bf16 or no"
        )
    if prune.refresh_profile and prune.schedule == "one-shot":
        raise UsageError("refresh_profile and schedule one-shot: no epoch passes; leave refresh_profile out")
    if (every := prune.refresh_profile) and not recipe.train.max_steps and every > recipe.train.epochs:
        raise UsageError(
            f"refresh_profile {every} and {recipe.train.epochs} epochs: it would never be re-estimated; lower "
            "refresh_profile, or leave it out"
        )
    if prune.refresh_profile and prune.id_weight == "none":
        raise UsageError("refresh_profile and id_weight none: no dimension is used; leave refresh_profile out")
