"""The number of each layer, or of each block, that the allocation of a calibrated run reads: measured or looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from idvl.choices import Signal
from idvl.json_schema import Schema
from idvl.models.layers import Layer, modalities_of
from idvl.profile import Profile
from idvl.pruning import gradients, magnitudes, outliers, profiles, spectra
from idvl.pruning.counts import groups_of
from idvl.pruning.density_file import densities_of
from idvl.recipe import PruneSection
from idvl.recipe.sections import AUTO
from idvl.reporter import Progress, Reporter
from idvl.sparsity import allocation as allocations
from idvl.sparsity.weighting import Multipliers, multipliers

if TYPE_CHECKING:
    from idvl.pruning.calibration import Calibration

# the file in a run's folder, from which a resumed run reads what was measured
FILE = "allocation.json"
# the signals that take time, and wait until a run has begun
MEASURED: tuple[Signal, ...] = ("gradient", "outliers", "spectrum")


class AllocationFile(Schema):
    """allocation.json. `values`: the signal of each layer or block."""

    NAME: ClassVar[str] = "idvl/allocation/1"

    values: dict[str, float]


def prepare(job: Calibration, reporter: Reporter) -> None:
    """Look up the signal of a job where nothing is measured for it. UsageError for one that cannot be measured."""
    prune, needs = job.recipe.prune, allocations.load(job.recipe.prune.allocation).needs
    if job.needs_estimate and prune.profile != AUTO:
        job.profile = job.team.first(lambda: profiles.fitting(prune.profile, job.layers))
    if needs == "gradient":
        job.team.each(lambda: gradients.probe_of(job))
    elif needs not in MEASURED and not job.needs_estimate:
        job.values = measure(job, reporter)


def measure(job: Calibration, reporter: Reporter) -> dict[str, float]:
    """What the allocation of a job reads of each group of layers, the same on all processes."""
    prune = job.recipe.prune
    needs = allocations.load(prune.allocation).needs
    if needs is None:
        return {}
    measured, combine = SIGNALS[needs]
    with reporter.progress(f"measuring the {needs} of layers") as progress:
        values = measured(job, progress)
    values = job.team.first(lambda: values)
    groups: dict[str, list[float]] = {}
    for name, group in groups_of(prune, job.layers).items():
        groups.setdefault(group, []).append(values[name])
    return {group: combine(members) for group, members in groups.items()}


def document(prune: PruneSection, values: Mapping[str, float]) -> dict[str, Any]:
    """allocation.json."""
    needs = allocations.load(prune.allocation).needs
    return {"schema": AllocationFile.NAME, "allocation": prune.allocation, "signal": needs, "values": dict(values)}


def powers(prune: PruneSection, layers: Mapping[str, Layer], profile: Profile) -> Multipliers:
    """The power of each layer's dimension, and whose dimension it is where its own is not reliable."""
    return multipliers(profile, modalities_of(layers), exponent=prune.id_exponent, missing=prune.missing_id)


def _dimensions(job: Calibration, progress: Progress) -> dict[str, float]:
    return powers(job.recipe.prune, job.layers, job.profile).factors


def _depths(job: Calibration, progress: Progress) -> dict[str, float]:
    """Where each layer's block stands in its stack: 0 for the first, 1 for the last, 0.5 outside of any stack."""
    stacks: dict[str, list[str]] = {}
    for layer in job.layers.values():
        stack = stacks.setdefault((layer.block or "").rpartition(".")[0], [])
        if layer.block and layer.block not in stack:
            stack.append(layer.block)
    places = {
        block: place / (len(stack) - 1) if len(stack) > 1 else 0.5
        for stack in stacks.values()
        for place, block in enumerate(stack)
    }
    return {name: places.get(layer.block, 0.5) for name, layer in job.layers.items()}


def _of_file(job: Calibration, progress: Progress) -> dict[str, float]:
    return densities_of(job.recipe.prune, job.loaded, job.layers)


# a signal -> the number of each layer, and that of a block from those of its layers
SIGNALS: dict[Signal, tuple[Callable[[Calibration, Progress], dict[str, float]], Callable[[list[float]], float]]] = {
    "dimension": (_dimensions, fmean),
    "depth": (_depths, fmean),
    "file": (_of_file, fmean),
    "magnitude": (magnitudes.densities, fmean),
    "gradient": (gradients.scores, sum),
    # a block's own already
    "outliers": (outliers.shares, max),
    "spectrum": (spectra.exponents, fmean),
}
