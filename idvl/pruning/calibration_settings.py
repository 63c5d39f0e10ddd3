"""What a recipe that prunes from calibration samples leaves open, and what it sets that cannot be."""

from __future__ import annotations

from idvl.errors import UsageError, unknown
from idvl.recipe import PruneSection, Recipe, TrainSection
from idvl.recipe.sections import AUTO, CALIBRATED_SPARSITY, CALIBRATION_SAMPLES, REPAIR_EPOCHS
from idvl.reliability import FEWEST_RELIABLE_POINTS
from idvl.sparsity import allocation as allocations
from idvl.sparsity import criteria
from idvl.sparsity.axes import refuse_calibrated
from idvl.sparsity.structure import parse

# settings of section prune that such a run has and no other, and all that it has
CALIBRATES = ("calibration", "calibration_samples", "tokens_from", "compare_within", "repair", "repair_epochs")
CALIBRATES += ("allocate_by", "spread", "ecoflap_order", "modality_sparsity", "sparsity_ratio")
CALIBRATED = (*CALIBRATES, "sparsity", "criterion", "id_weight", "scope", "allocation", "structure")
CALIBRATED += ("floor", "ceiling", "min_keep", "profile", "id_exponent", "missing_id")
# those of them that only an allocation by dimension reads
OF_DIMENSIONS = ("profile", "id_exponent", "missing_id")
# settings without a meaning there, in other sections, and what stands in their place
ELSEWHERE = {"data.samples": "set prune.calibration_samples", "eval.every": "it has no steps"}


def calibrates(prune: PruneSection) -> bool:
    """Whether a recipe prunes from calibration samples, once and without training."""
    return prune.calibration is not None or criteria.is_calibrated(criteria.find(prune.criterion))


def reads_dimensions(prune: PruneSection) -> bool:
    """Whether a recipe weights scores by intrinsic dimensions, or allocates by them where it calibrates."""
    if not calibrates(prune):
        return prune.id_weight != "none"
    return allocations.load(prune.allocation or "uniform").needs == "dimension"


def resolve_calibration(prune: PruneSection) -> PruneSection:
    """The section with every value that it leaves open. UsageError for values that do not go together."""
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


def refuse_training(recipe: Recipe) -> None:
    """UsageError for a setting without a meaning where weights are pruned once, from calibration samples."""
    named = f"criterion {recipe.prune.criterion} prunes once, from calibration samples"
    unmeant = {f"train.{key}": "nothing is trained" for key in TrainSection.model_fields}
    unmeant |= {f"prune.{key}": "it has none" for key in PruneSection.model_fields if key not in CALIBRATED}
    unmeant |= ELSEWHERE
    if reads_dimensions(recipe.prune) and recipe.prune.profile == AUTO:
        del unmeant["data.samples"]
        refuse_few(recipe)
    for key, why in unmeant.items():
        section, name = key.split(".")
        values = getattr(recipe, section)
        if getattr(values, name) != type(values).model_fields[name].default:
            raise UsageError(f"{key} {getattr(values, name)} and {named}: {why}; leave {key} out")


def refuse_few(recipe: Recipe) -> None:
    """UsageError for samples that are too few to estimate dimensions from."""
    if recipe.data.samples is not None and recipe.data.samples < FEWEST_RELIABLE_POINTS:
        other = "allocation" if calibrates(recipe.prune) else "id_weight none"
        raise UsageError(
            f"{recipe.data.samples} samples give no reliable ID: ask for {FEWEST_RELIABLE_POINTS} or more, for another "
            f"profile, or for {'another ' if calibrates(recipe.prune) else ''}{other}"
        )


def needs_all_weights(prune: PruneSection) -> str | None:
    """What of a calibrated run computes gradients."""
    if prune.repair == "reconstruct":
        return "repair reconstruct"
    if allocations.load(prune.allocation).needs == "gradient":
        return f"the gradient that allocation {prune.allocation} reads"
    return "criterion gradient" if "gradient" in criteria.find(prune.criterion).needs else None


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
