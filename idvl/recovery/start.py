"""What a recovery begins with: a pruned model, its masks, and the run that pruned it, where idvl did."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from idvl import recipe as recipes
from idvl import runs
from idvl.checkpoints.report import REPORT, load_report
from idvl.errors import RunError, UsageError, quoted
from idvl.models.layers import Layer
from idvl.models.locating import locate
from idvl.profile import Profile
from idvl.recipe import PruneSection, Recipe
from idvl.session import MODEL, RECIPE, run_of, runs_behind
from idvl.sparsity.masks import ACCIDENTAL, MASKS, Masks, unmasked_zeros

ZEROS = "zeros"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A pruned model by the name to load it by, and the folder of the run that pruned it, if any."""

    model: str
    run: Path | None

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe of the run. UsageError for one that cannot be read."""
        return recipes.load(self.run / RECIPE) if self.run else None

    @cached_property
    def record(self) -> dict[str, Any]:
        return (runs.read_record(self.run) if self.run else None) or {}

    @property
    def signature(self) -> dict[str, Any]:
        """What identifies the run; {} without one."""
        return self.record.get("signature", {})

    @property
    def origin(self) -> str:
        """The name of the dense model, where it is known, else that of the pruned one."""
        recipe = (self.pruned or self).recipe
        return recipe.model.name if recipe else self.model

    @cached_property
    def lineage(self) -> list[Start]:
        """This model and those that it was recovered from, as far as these are known, back to the one that was pruned.

        A run that has taken the place of an earlier one since shows by the fingerprint of the dense model, which a
        recovery passes on.
        """
        lineage = [self]
        for run in runs_behind(self.model)[1:]:
            start = Start(str(run / MODEL), run)
            is_other = start.signature.get("fingerprint") != self.signature.get("fingerprint")
            if is_other or "recover.method" not in lineage[-1].signature:
                break
            lineage.append(start)
        return lineage

    @cached_property
    def pruned(self) -> Start | None:
        """The model as its pruning left it, before recoveries that came since. None where that run is not known."""
        start = self.lineage[-1]
        try:
            return None if "recover.method" in start.signature or not start.recipe else start
        except UsageError:
            return None

    @property
    def dense_fingerprint(self) -> str | None:
        """The fingerprint of the dense model, where it is known; of one that got a new head, once that was learnt."""
        if self.pruned and self.pruned.recipe.train.new_head:
            return (self.pruned.report() or {}).get("made", {}).get("dense_fingerprint")
        return self.signature.get("fingerprint")

    def report(self) -> dict[str, Any] | None:
        """The report of the run."""
        return load_report(self.run) if self.run else None

    def profile(self) -> Profile | None:
        """The profile that the pruning rested on."""
        path = self.run / "profile.json" if self.run else None
        return Profile.load(path) if path and path.exists() else None

    def pruning(self, named: PruneSection) -> PruneSection:
        """The settings of the pruning, with the structure that a recovery names. UsageError where it is another."""
        if self.recipe is None:
            return named
        structure = self.recipe.prune.structure
        if "structure" in named.model_fields_set and named.structure != structure:
            raise UsageError(f"structure {named.structure}: {self.run} pruned it {structure}; leave structure out")
        return self.recipe.prune


def find(name: str) -> Start:
    """The pruned model of a run folder, or of a model's own name. UsageError for a run that has not finished."""
    path = Path(name).expanduser()
    is_run = runs.read_record(path) is not None
    for folder in (path, *([path.parent] if path.name == MODEL else [])):
        if os.path.isdir(folder) and (reason := runs.damage(folder)):
            raise UsageError(f"{quoted(str(folder / 'run.json'))} cannot be read ({reason}): restore it, or remove it")
    model = str(path / MODEL) if is_run else name
    run = run_of(model)
    if is_run and not (path / REPORT).exists():
        is_pruning = {"prune.criterion", "recover.method"} & {*runs.read_record(path).get("signature", {})}
        unfinished = "has not finished: continue it with --resume first"
        raise UsageError(f"{quoted(name)} {unfinished if is_pruning else 'holds no pruned model'}")
    if run is None and os.path.isfile(path / REPORT) and os.path.isdir(path / MODEL):
        raise UsageError(
            f"{quoted(name)} lacks run.json, so it is no run: restore it, or name the model, "
            f"{quoted(str(path / MODEL))}, with --masks {quoted(str(path / MASKS))}"
        )
    locate(model)
    return Start(model, run)


def is_changed(report: Mapping[str, Any] | None, fingerprint: str) -> bool:
    """Whether a model is not the one that its run verified when it saved it; False where no run tells."""
    return ((report or {}).get("verified") or {}).get("fingerprint") not in (None, fingerprint)


def masks_of(start: Start, setting: str | None, layers: Mapping[str, Layer], structure: str) -> Masks:
    """The masks of a pruned model: a file's, those of its zeros, or by default its run's; on its device.

    Layers with more zeros than their masks, as an earlier pruning leaves them, get masks of all their zeros, with a
    warning. Raises UsageError for masks of another model, for weights that are pruned and not zero, for more zeros
    that do not have the structure, and for a model without any zeros.
    """
    weights = {name: layer.module.weight.detach() for name, layer in layers.items()}
    if setting == ZEROS:
        masks = _of_zeros(weights)
    else:
        if setting is None and start.run is None:
            raise UsageError(
                f"{quoted(start.model)} is not the model of a run: set masks (--masks) to its masks, or to zeros to "
                "take them from its zeros"
            )
        masks = Masks.load(os.path.expanduser(setting) if setting else start.run)
    if not sum(masks.zeros.values()):
        raise UsageError(f"{quoted(start.model)} has no zeros: there is nothing to keep; prune it first")
    try:
        masks.verify(weights, structure)
    except RunError as error:
        raise UsageError(f"the masks do not fit {quoted(start.model)}: {error}") from error
    device = next(iter(weights.values())).device
    packed = masks.state_dict() | _of_more_zeros(start, masks, weights, structure).state_dict()
    placed = Masks({name: weight.shape for name, weight in weights.items() if name in packed}, device)
    placed.load_state_dict({name: packed[name].to(device) for name in placed.shapes})
    return placed


@torch.no_grad()
def trial_masks(layers: Mapping[str, Layer]) -> Masks:
    """Masks to plan the recovery of a dense model with: one weight of each layer is set to zero, in place.

    So every layer counts as pruned, as far as memory, trained parameters and settings depend on it.
    """
    for layer in layers.values():
        layer.module.weight[0, 0] = 0
    return Masks.from_zeros({name: layer.module.weight for name, layer in layers.items()})


def _of_more_zeros(start: Start, masks: Masks, weights: Mapping[str, torch.Tensor], structure: str) -> Masks:
    """Masks of the layers with more zeros than `masks` has; a warning that counts them.

    Few zeros are taken for accidental ones, except of a model that was pruned before its run pruned it.
    """
    pruned_before = (start.report() or {}).get("before")
    more = unmasked_zeros(weights, masked=masks.zeros, least=0 if pruned_before else ACCIDENTAL)
    if not more:
        return Masks({})
    found = f"{len(more)} layers hold {sum(more.values()):,} zeros that the masks do not have"
    added = Masks.from_zeros({name: weights[name] for name in more})
    if defect := next(added.defects(weights, structure), None):
        raise UsageError(
            f"{found}, and they are not {structure} ({defect}): copy {quoted(start.model)} to a folder of its own and "
            "recover the copy with masks zeros (--masks zeros), which keeps them without a structure"
        )
    logger.warning("%s: they stay zero, and the masks of this run have them; the first is %s", found, next(iter(more)))
    return added


def _of_zeros(weights: Mapping[str, torch.Tensor]) -> Masks:
    """A mask for each layer that holds zeros; a warning for layers whose zeros look accidental."""
    masks = Masks.from_zeros({name: weight for name, weight in weights.items() if bool((weight == 0).any())})
    if few := masks.accidental():
        logger.warning(
            "%d layers have less than %.0f %% zeros, which may be there by accident: they stay zero; the first is "
            "%s (%d zeros)",
            *(len(few), 100 * ACCIDENTAL, few[0], masks.zeros[few[0]]),
        )
    return masks
