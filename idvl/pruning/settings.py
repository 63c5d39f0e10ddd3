"""What a pruning recipe leaves open, and what it sets that cannot be. It reads neither models nor samples."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from idvl import runs, yaml_file
from idvl.builtin import learning_rate_of
from idvl.errors import UsageError, unknown
from idvl.recipe import EvalSection, PruneSection, Recipe, TrainSection
from idvl.recipe.sections import CALIBRATED_SPARSITY, CALIBRATION_SAMPLES, REPAIR_EPOCHS, SPARSITY
from idvl.recipe.training import EPOCHS, LEARNING_RATE, ONE_SHOT_STEPS
from idvl.reliability import FEWEST_RELIABLE_POINTS
from idvl.session import with_dataset
from idvl.sparsity import allocation as allocations
from idvl.sparsity import criteria
from idvl.sparsity.axes import refuse as refuse_axes
from idvl.sparsity.axes import refuse_calibrated
from idvl.sparsity.schedule import MASK_EVERY, Schedule
from idvl.sparsity.structure import parse
from idvl.training import Training

# settings of section prune that such a run has, and those that only it has
CALIBRATES = ("calibration", "calibration_samples", "tokens_from", "compare_within", "repair", "repair_epochs")
CALIBRATES += ("allocate_by", "spread", "ecoflap_order", "modality_sparsity", "sparsity_ratio")
CALIBRATED = (*CALIBRATES, "sparsity", "criterion", "id_weight", "scope", "allocation", "structure")
CALIBRATED += ("floor", "ceiling", "min_keep", "profile", "id_exponent", "missing_id")
# those of them that only an allocation by dimension reads
OF_DIMENSIONS = ("profile", "id_exponent", "missing_id")
# settings without a meaning there, in other sections, and what stands in their place
ELSEWHERE = {"data.samples": "set prune.calibration_samples", "eval.every": "it has no steps"}
# the profile that is estimated first
AUTO = "auto"
# settings that the dimensions of a finished run depend on, and those of an evaluation
MEASURED = ("data.samples", *(f"estimate.{name}" for name in ("tokens", "capture", "estimator", "layers", "modality")))
EVALUATED = tuple(f"eval.{name}" for name in EvalSection.model_fields if name not in ("batch_size", "after"))

logger = logging.getLogger(__name__)


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with every value that it leaves open. UsageError for one that makes no sense."""
    if calibrates(recipe.prune):
        _refuse_training(recipe)
        recipe = with_dataset(recipe).model_copy(update={"prune": resolve_pruning(recipe.prune)})
        if recipe.estimate.offload and (what := _needs_all_weights(recipe.prune)):
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
        return _resolved_calibration(prune)
    for name in CALIBRATES:
        if getattr(prune, name) is not None:
            raise UsageError(f"{name} is for pruning from calibration samples: set calibration, or leave it out")
    structure = parse(prune.structure)
    update = {
        "sparsity": prune.sparsity or (structure.sparsity if structure.grouped else SPARSITY),
        "allocation": prune.allocation or ("uniform" if structure.grouped else "global"),
    }
    if prune.schedule == "one-shot":
        update |= {"initial": 0.0, "final": 0.0, "mask_every": 1}
    prune = prune.model_copy(update=update)
    limits = {key: getattr(prune, key) for key in ("floor", "ceiling", "min_keep", "monotone", "compat", "sparsity")}
    axes = {key: getattr(prune, key) for key in ("criterion", "id_weight", "allocation", "structure", "schedule")}
    refuse_axes(**axes, **limits)
    return prune


def calibrates(prune: PruneSection) -> bool:
    """Whether a recipe prunes from calibration samples, once and without training."""
    return prune.calibration is not None or criteria.is_calibrated(criteria.find(prune.criterion))


def reads_dimensions(prune: PruneSection) -> bool:
    """Whether a recipe weights scores by intrinsic dimensions, or allocates by them where it calibrates."""
    if not calibrates(prune):
        return prune.id_weight != "none"
    return allocations.load(prune.allocation or "uniform").needs == "dimension"


def _resolved_calibration(prune: PruneSection) -> PruneSection:
    structure, named = parse(prune.structure), prune.model_fields_set
    axes = {
        "criterion": prune.criterion,
        "calibration": prune.calibration or "sequential",
        "compare_within": prune.compare_within,
        "repair": prune.repair,
        "id_weight": prune.id_weight if "id_weight" in named else "none",
        "allocation": prune.allocation or "uniform",
        "structure": prune.structure,
        "floor": prune.floor,
        "ceiling": prune.ceiling,
        "min_keep": prune.min_keep,
        "sparsity": prune.sparsity or (structure.sparsity if structure.grouped else CALIBRATED_SPARSITY),
    }
    if prune.modality_sparsity:
        _refuse_modalities(prune, structure.grouped)
        axes["sparsity"] = None
    refuse_calibrated(**axes)
    _refuse_allocating(prune, axes["allocation"])
    reads = reads_dimensions(prune)
    for name in OF_DIMENSIONS:
        if not reads and getattr(prune, name) != PruneSection.model_fields[name].default:
            raise UsageError(f"{name} and allocation {axes['allocation']}: no dimension is used; leave {name} out")
    if prune.tokens_from in ("image", "text") and prune.criterion == "magnitude" and not prune.repair:
        raise UsageError(
            f"tokens_from {prune.tokens_from} and criterion magnitude: it reads no tokens; leave tokens_from out"
        )
    reconstructs = prune.repair == "reconstruct"
    if prune.repair_epochs is not None and not reconstructs:
        raise UsageError("repair_epochs is for repair reconstruct: leave it out")
    open_values = {
        "repair_epochs": (prune.repair_epochs or REPAIR_EPOCHS) if reconstructs else None,
        "calibration_samples": prune.calibration_samples or CALIBRATION_SAMPLES,
        "tokens_from": prune.tokens_from or "all",
    }
    return prune.model_copy(update={**axes, **open_values})


def for_allocation(recipe: Recipe, name: str) -> Recipe:
    """A recipe that calibrates, with another allocation and without the settings that this one does not have.

    UsageError for an unknown allocation, and for a criterion that reads training.
    """
    if name.partition(":")[0] not in allocations.names():
        raise unknown("allocation", name, allocations.names())
    allocation, prune = allocations.load(name), recipe.prune
    unread = [] if allocation.needs == "dimension" else [*OF_DIMENSIONS]
    unread += [] if allocation.needs == "gradient" else ["ecoflap_order"]
    unread += ["spread"] if allocation.spread is None else []
    unread += ["allocate_by"] if prune.allocate_by not in allocation.by else []
    unread += ["floor", "ceiling"] if name == "uniform" else []
    update = {key: PruneSection.model_fields[key].default for key in unread} | {"allocation": name}
    if not calibrates(prune) and "criterion" not in prune.model_fields_set:
        update["criterion"] = "wanda"
    elif not calibrates(prune):
        raise UsageError(
            f"criterion {prune.criterion} and several allocations: they are for pruning from calibration samples; "
            "leave criterion out, or set calibration"
        )
    data = recipe.data if allocation.needs == "dimension" else recipe.data.model_copy(update={"samples": None})
    return recipe.model_copy(update={"prune": prune.model_copy(update=update), "data": data})


def _refuse_modalities(prune: PruneSection, grouped: bool) -> None:
    """UsageError for what does not go with sparsities of modalities."""
    named = f"sparsity {prune.modality_sparsity}"
    if prune.sparsity:
        raise UsageError(f"{named} and sparsity {prune.sparsity}: set one of the two")
    if prune.sparsity_ratio:
        raise UsageError(f"{named} and sparsity_ratio {prune.sparsity_ratio}: set one of the two")
    if grouped:
        raise UsageError(f"{named} and structure {prune.structure}: every layer gets the sparsity 1 - N/M")


def _refuse_allocating(prune: PruneSection, name: str) -> None:
    """UsageError for settings that an allocation does not have."""
    allocation = allocations.load(name)
    if name == "file":
        raise UsageError("allocation file takes the sparsity of each layer from a file: write file:FILE")
    if prune.sparsity_ratio and parse(prune.structure).grouped:
        raise UsageError(
            f"sparsity_ratio {prune.sparsity_ratio} and structure {prune.structure}: every layer gets the sparsity "
            "1 - N/M; leave sparsity_ratio out"
        )
    if prune.ecoflap_order and allocation.needs != "gradient":
        raise UsageError(f"ecoflap_order {prune.ecoflap_order} and allocation {name}: set allocation ecoflap")
    if prune.spread and allocation.spread is None:
        raise UsageError(f"spread {prune.spread} and allocation {name}: it has none; leave spread out")
    if prune.allocate_by and prune.allocate_by not in allocation.by:
        raise UsageError(
            f"allocate_by {prune.allocate_by} and allocation {name}: it goes by {' or '.join(allocation.by)}; leave "
            "allocate_by out"
        )


def continued(recipe: Recipe, folder: Path, *, ended: bool, evaluated: bool) -> dict[str, Any]:
    """The recipe that describes a resumed run, once what it has done is `ended`, or even `evaluated`.

    What is done already keeps the settings that it was done with. UsageError for other ones, where a number depends on
    them and the run's signature does not hold them.
    """
    earlier, current = _recorded(folder / "recipe.yaml"), recipe.to_dict()
    # which older runs do not have
    earlier = {"recover": current["recover"], **earlier}
    if earlier.keys() != current.keys():
        logger.warning("recipe.yaml of %r was missing or damaged: this command's settings take its place", str(folder))
        return current
    on_the_way = recipe.eval.every or earlier["eval"].get("every")
    fixed = [*(MEASURED if ended else ()), *(EVALUATED if evaluated or on_the_way else ())]
    parts = [(key, *key.split(".")) for key in fixed]
    values = [
        {key: sections[part][name] for key, part, name in parts if name in earlier[part]}
        for sections in (earlier, current)
    ]
    runs.refuse_difference(folder, *values)
    return current if not ended else earlier if evaluated else earlier | {"eval": current["eval"]}


def _recorded(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a recipe as they are written, {} for a file that is missing or damaged."""
    try:
        sections = yaml_file.read(path, "recipe")
    except UsageError:
        return {}
    sound = isinstance(sections, dict) and all(isinstance(part, dict) for part in sections.values())
    return sections if sound else {}


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


def _refuse_training(recipe: Recipe) -> None:
    """UsageError for a setting without a meaning where weights are pruned once, from calibration samples."""
    named = f"criterion {recipe.prune.criterion} prunes once, from calibration samples"
    unmeant = {f"train.{key}": "nothing is trained" for key in TrainSection.model_fields}
    unmeant |= {f"prune.{key}": "it has none" for key in PruneSection.model_fields if key not in CALIBRATED}
    unmeant |= ELSEWHERE
    if reads_dimensions(recipe.prune) and recipe.prune.profile == AUTO:
        del unmeant["data.samples"]
        _refuse_few(recipe)
    for key, why in unmeant.items():
        section, name = key.split(".")
        values = getattr(recipe, section)
        if getattr(values, name) != type(values).model_fields[name].default:
            raise UsageError(f"{key} {getattr(values, name)} and {named}: {why}; leave {key} out")


def _refuse_few(recipe: Recipe) -> None:
    """UsageError for samples that are too few to estimate dimensions from."""
    if recipe.data.samples is not None and recipe.data.samples < FEWEST_RELIABLE_POINTS:
        other = "allocation" if calibrates(recipe.prune) else "id_weight none"
        raise UsageError(
            f"{recipe.data.samples} samples give no reliable ID: ask for {FEWEST_RELIABLE_POINTS} or more, for another "
            f"profile, or for {'another ' if calibrates(recipe.prune) else ''}{other}"
        )


def _needs_all_weights(prune: PruneSection) -> str | None:
    """What of a calibrated run computes gradients."""
    if prune.repair == "reconstruct":
        return "repair reconstruct"
    if allocations.load(prune.allocation).needs == "gradient":
        return f"the gradient that allocation {prune.allocation} reads"
    return "criterion gradient" if "gradient" in criteria.find(prune.criterion).needs else None


def _refuse(recipe: Recipe) -> None:
    prune = recipe.prune
    if recipe.estimate.offload:
        raise UsageError(f"criterion {prune.criterion} trains all weights, in memory: leave offload out")
    if recipe.model.dtype != "float32":
        raise UsageError(f"weights are trained in float32, not {recipe.model.dtype}: see train.mixed_precision")
    if prune.id_weight != "none" and prune.profile == AUTO:
        _refuse_few(recipe)
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
