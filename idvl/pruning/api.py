"""Pruning inside any PyTorch training loop: `Pruner.from_model`, `pruner.step()`, `pruner.finish()`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from idvl import recipe as recipes
from idvl import runs
from idvl.arguments import whole_number
from idvl.checkpoints import report as reports
from idvl.choices import DEFAULT_CRITERION
from idvl.errors import UsageError, first_line
from idvl.models.families.base import Family
from idvl.models.layers import Layer, in_scope
from idvl.models.offload import layer_weights
from idvl.profile import Profile
from idvl.pruning import earlier, profiles
from idvl.pruning.prunable import check_model, family_in_memory, refuse_unprunable
from idvl.pruning.pruner_state import decoded, encoded, refuse_difference, settings_of
from idvl.pruning.pruners import multipliers_of, pruner_of, targets_of
from idvl.pruning.settings import resolve_pruning, schedule_of
from idvl.recipe import PruneSection
from idvl.sparsity import criteria
from idvl.sparsity.criteria import Criterion, defect
from idvl.sparsity.masks import Masks, unmasked_zeros
from idvl.sparsity.pruner import Update, WeightPruner

# settings that mean something to `idvl prune` alone: they count epochs
OF_EPOCHS = ("compat", "refresh_profile")
# and those that mean something with calibration samples alone
OF_CALIBRATION = (
    *("calibration", "calibration_samples", "compare_within", "repair", "repair_epochs", "tokens_from"),
    *("allocate_by", "spread", "ecoflap_order", "modality_sparsity", "sparsity_ratio"),
)

logger = logging.getLogger(__name__)


class Pruned(NamedTuple):
    """What `Pruner.finish` returns: the object of report.json, and the masks."""

    report: dict[str, Any]
    masks: Masks


class Pruner:
    """Prunes a model step by step while it is trained, exactly as `idvl prune` does.

        pruner = idvl.Pruner.from_model(model, sparsity=0.8, total_steps=len(batches))
        for batch in batches:
            model(**batch).loss.backward()
            optimizer.step()
            pruner.step()
            optimizer.zero_grad()
        report, masks = pruner.finish()

    It never changes whether the model is in training or evaluation mode.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        layers: Mapping[str, Layer],
        weights: WeightPruner,
        planned: Mapping[str, Any],
        weighting: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> None:
        """Use `from_model`.

        `planned`: the report before pruning; `weighting`: what else it says of the factors; `settings`: those that a
        state must share with the pruner that takes it over.
        """
        self._model, self._family, self._layers = model, family, layers
        self.weights, self._planned, self._weighting = weights, planned, weighting
        self._settings, self._made, self.steps = dict(settings), runs.provenance(), 0
        self._finished = False
        # of the model as it is now; a state that is loaded knows those at the beginning
        self._before, self._told = unmasked_zeros(layer_weights(model, family)), False

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        *,
        sparsity: float | None = None,
        total_steps: int,
        profile: Profile | str | Path | None = None,
        criterion: str | Criterion = DEFAULT_CRITERION,
        scope: str = "all",
        **settings: Any,
    ) -> Pruner:
        """A pruner of `model`, whose optimizer will make `total_steps` steps.

        `sparsity` may be left out with a `structure` N:M, which implies it.
        `profile`: intrinsic dimensions to weight scores by: a Profile, a file, a run folder or published:NAME; without
        one, scores are not weighted. `criterion`: a name, or an object with the methods of `Criterion`. `scope`: a
        group of layers, or a pattern of layer names. `settings`: any other setting of the recipe's section prune:
        id_weight, id_exponent, missing_id, allocation, structure, floor, ceiling, min_keep, schedule, initial, final,
        mask_every, monotone, beta1, beta2, window, smoothing_dtype.

        The layers of a transformers model are those that `idvl prune` prunes; of any other module, all linear layers
        but the last one, its output head. Raises UsageError for settings that do not exist or do not go together, for
        a profile of another model, and for parameters that cannot be pruned: frozen, shared, sharded or meta ones.
        """
        model = model.module if isinstance(model, DistributedDataParallel) else model
        check_model(model)
        prune = section_of(criterion, profile, {"sparsity": sparsity, "scope": scope, **settings})
        total_steps = whole_number("total_steps", total_steps, least=1)
        family = family_in_memory(model)
        layers = in_scope(model, family, prune.scope)
        refuse_unprunable(model, layers)
        known_profile = None if profile is None else profiles.fitting(profile, layers)
        weighted = multipliers_of(prune, layers, known_profile)
        weights = pruner_of(
            prune,
            layers,
            schedule_of(prune, total_steps),
            weighted.factors,
            criterion=None if isinstance(criterion, str) else criterion,
        )
        planned = reports.plan(
            model,
            layers,
            family=family,
            asked=prune.sparsity,
            by_layer=targets_of(prune, layers),
        )
        weighting = {"profile": known_profile, "factors": weighted.factors, "substituted": weighted.substituted}
        return cls(model, family, layers, weights, planned, weighting, settings_of(prune, criterion, weighted.factors))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.weights.schedule.total_steps

    @property
    def masks(self) -> Masks:
        """The masks as they are now."""
        return self.weights.masks

    def sparsity(self) -> float:
        """The share of the weights in scope that the masks prune now."""
        return self.weights.sparsity()

    def step(self) -> Update | None:
        """Prune where it is due. Call it after every `optimizer.step()`, before gradients are cleared.

        Returns what changed, or None. Raises RunError for a layer without a gradient where the criterion needs one,
        and for NaN; UsageError after `finish`, and for a layer whose weight was replaced.
        """
        if self._finished:
            raise UsageError("step after finish: make a new Pruner to prune further")
        self._refuse_replaced()
        self._warn_of_zeros()
        update = self.weights.step(self.steps + 1)
        self.steps += 1
        return update

    def _warn_of_zeros(self) -> None:
        """Say once what becomes of the zeros of an earlier pruning."""
        learning = {name for name in self._before if self._model.get_submodule(name).weight.requires_grad}
        if not self._told:
            for warning in earlier.warnings(self._before, self._layers, filled="training", trained=learning):
                logger.warning("%s", warning)
        self._told = True

    def masked(self) -> AbstractContextManager[None]:
        """Inside, pruned weights are zero, to evaluate or save; afterwards weights are as before."""
        self._refuse_replaced()
        return self.weights.masked()

    def enforce(self) -> None:
        """Write zeros wherever the masks have them: after each step of a training that goes on behind `finish`."""
        self._refuse_replaced()
        self.masks.enforce_(self.weights.weights)

    def finish(self) -> Pruned:
        """Write zeros wherever the masks have them. The report and the masks; a second call returns the same.

        Where steps are missing, the sparsity reached so far stays, and a warning says so. `zeros` in the report are
        those of the masks; made.other_zeros counts kept weights that are zero too. UsageError for a layer whose weight
        was replaced.
        """
        self.enforce()
        if not self._finished and not self.weights.frozen:
            logger.warning(
                "pruning finished after %d of %d steps: sparsity %.4f, not %.4f",
                *(self.steps, self.total_steps, self.sparsity(), self.weights.schedule.target),
            )
        weights, masks = self.weights.weights, self.masks
        other = sum(int((weights[name] == 0).count_nonzero()) - zeros for name, zeros in masks.zeros.items())
        if other and not self._finished:
            logger.warning("%d more weights in scope are zero; the sparsity in scope does not count them", other)
        self._finished = True
        facts = {**self._made, "schedule": asdict(self.weights.schedule), "steps": self.steps, "other_zeros": other}
        planned = {**self._planned, **reports.before(self._before)}
        report = reports.counted(reports.report(planned, masks, **self._weighting), self._model, self._family)
        return Pruned(report | {"made": facts}, masks)

    def _refuse_replaced(self) -> None:
        """UsageError, naming the layer, where the model no longer holds a tensor that is pruned."""
        held = set(map(id, self._model.parameters()))
        for name, weight in self.weights.weights.items():
            if id(weight) not in held or self._layers[name].module.weight is not weight:
                raise UsageError(
                    f"{name}.weight was replaced after the pruner was made (as load_state_dict(assign=True) does): "
                    "make the Pruner afterwards; to resume, load its state_dict into that one"
                )

    def state_dict(self) -> dict[str, Tensor]:
        """What a training loop saves beside its model and optimizer to resume."""
        texts = {"schedule": encoded(asdict(self.weights.schedule)), "settings": encoded(self._settings)}
        texts["before"] = encoded(self._before)
        return {**self.weights.state_dict(), "steps": torch.tensor(self.steps), **texts}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the state of a pruner of the same model and settings; UsageError for another's."""
        try:
            steps = int(state["steps"])
            if not 0 <= steps <= self.total_steps:
                raise UsageError(f"the state is of step {steps} of {self.total_steps}: it is of another pruner")
            # older states have neither
            if "schedule" in state:
                refuse_difference(decoded(state["schedule"]), asdict(self.weights.schedule))
            if "settings" in state:
                refuse_difference(decoded(state["settings"]), self._settings)
            smoothed = getattr(self.weights.scores.criterion, "bytes_per_weight", 0)
            if steps and smoothed and not any(key.startswith("criterion.") for key in state):
                raise UsageError("the state lacks the criterion's averages: it is of a pruner with another criterion")
            self.weights.load_state_dict(state)
            # the zeros that older states do not count may be those of the masks
            before = decoded(state["before"]) if "before" in state else {}
        except UsageError:
            raise
        except KeyError as error:
            raise UsageError(f"the state lacks {error}: it is of another pruner, or not whole") from error
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise UsageError(f"the state is of another pruner, or not whole: {first_line(error)}") from error
        self.steps, self._before, self._told = steps, before, steps > 0


def _check_criterion(criterion: object, settings: Mapping[str, Any]) -> None:
    """UsageError for an object that does not keep the contract of criteria, or has its settings beside it."""
    if isinstance(criterion, str):
        return
    if isinstance(criterion, type):
        raise UsageError(f"criterion is a name or an object, not a class: pass {criterion.__name__}(...)")
    if reason := defect(criterion):
        raise UsageError(f"the criterion {type(criterion).__name__} cannot be used: {reason}")
    of_criteria = {key for name in criteria.observed() for key in criteria.settings(name)}
    if extra := sorted(of_criteria & settings.keys()):
        raise UsageError(f"{extra[0]} is a setting of a criterion: set it in {type(criterion).__name__}(...)")


def section_of(criterion: str | Criterion, profile: object, settings: Mapping[str, Any]) -> PruneSection:
    """The section prune of a recipe, every value set. UsageError for settings that do not exist or fit a Pruner."""
    _check_criterion(criterion, settings)
    named = isinstance(criterion, str)
    if criterion in criteria.calibrated() if named else criteria.is_calibrated(criterion):
        raise UsageError(
            f"criterion {criterion if named else type(criterion).__name__} prunes from calibration samples and not "
            f"while a model trains: use idvl prune, or one of {', '.join(criteria.observed())}"
        )
    settings = {"criterion": criterion if named else DEFAULT_CRITERION, **settings}
    for key in OF_EPOCHS:
        if settings.pop(key, None) not in (None, "none"):
            raise UsageError(f"{key} counts epochs, which a Pruner does not see: use idvl prune, or leave {key} out")
    for key in OF_CALIBRATION:
        if settings.pop(key, None) is not None:
            raise UsageError(
                f"{key} is for pruning from calibration samples, of which a Pruner has none: use idvl prune, or leave "
                f"{key} out"
            )
    if settings.get("sparsity") is None and settings.get("structure", "unstructured") == "unstructured":
        raise UsageError("no sparsity: set sparsity, as in sparsity=0.8, or a structure that implies it, as 2:4")
    weight = settings.setdefault("id_weight", "none" if profile is None else "multiply")
    overrides = {f"prune.{name}": value for name, value in settings.items()}
    prune = recipes.load(None, {"model.name": "model", **overrides}).prune
    if profile is None and weight != "none":
        raise UsageError(f"id_weight {weight} needs a profile: pass profile=idvl.estimate_id(...), or a file")
    if profile is not None and weight == "none":
        raise UsageError("profile and id_weight none: no dimension is used; leave profile out")
    return resolve_pruning(prune)
