"""One recovery before it starts: the pruned model ready to be trained under its masks. It has written nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from idvl.checkpoints.report import counted
from idvl.checkpoints.report import plan as planned_report
from idvl.checkpoints.report import report as finished_report
from idvl.checkpoints.verify import not_finite
from idvl.data.samples import Selection
from idvl.distributed import Team
from idvl.errors import UsageError, listed, quoted
from idvl.models.classes import with_labels_of_head
from idvl.models.layers import find_layers, in_scope
from idvl.models.loading import Loaded
from idvl.pruning.job import INDIFFERENT, training_samples
from idvl.recipe import ModelSection, Recipe
from idvl.recipe.training import RANKS
from idvl.recovery.adapters import attach_lora, dense, mask_gradients, small_parameters, take_back_weights
from idvl.recovery.settings import training_of
from idvl.recovery.start import Start, is_changed, masks_of, trial_masks
from idvl.recovery.teacher import load_teacher
from idvl.reporter import Reporter
from idvl.session import history_of, open_model
from idvl.sparsity.masks import Masks
from idvl.training.accelerator import check
from idvl.training.reach import unreached

logger = logging.getLogger(__name__)


def gather(
    start: Start,
    recipe: Recipe,
    device: torch.device,
    team: Team,
    reporter: Reporter,
    *,
    store: Path,
    teacher: ModelSection | None,
    is_dense: bool = False,
) -> Recovery:
    """The pruned model, its masks, its `teacher` and training samples; `store` takes their images.

    `is_dense`: the model is yet to be pruned in the scope of the recipe, and gets masks to plan with.
    """
    loaded = open_model(recipe.model, device, team)
    if line := next(not_finite(loaded.model.state_dict()), None):
        raise UsageError(f"{quoted(start.model)} cannot be trained: {line}")
    layers = find_layers(loaded.model, loaded.family)
    if is_dense:
        masks = team.each(lambda: trial_masks(in_scope(loaded.model, loaded.family, recipe.prune.scope)))
    else:
        masks = team.each(lambda: masks_of(start, recipe.recover.masks, layers, recipe.prune.structure))
    taught_by = team.each(lambda: load_teacher(start, recipe, teacher, loaded)) if teacher else None
    selection = training_samples(recipe, loaded, team, reporter, store=store)
    return Recovery(start, recipe, loaded, masks, taught_by, selection, team, is_dense=is_dense)


class Recovery:
    """A pruned model of which a part is trained, its masks, its teacher (None: none), and what it learns from.

    The teacher is the dense model, or this one without its masks, where its weights are the dense ones.

    `model_description` describes the dense model, as far as it is known; `report` is report.json without how the model
    was recovered; `trained` counts the parameters that are, without those that are pruned. With `is_dense` the model is
    yet to be pruned. UsageError for what does not go together.
    """

    # what its samples are for, and what chooses the weights to remove: these are chosen
    purpose, profile = "training", None

    def __init__(
        self,
        start: Start,
        recipe: Recipe,
        loaded: Loaded,
        masks: Masks,
        teacher: Loaded | None,
        selection: Selection,
        team: Team,
        *,
        is_dense: bool = False,
    ):
        self.is_dense = is_dense
        self.start, self.recipe, self.loaded, self.masks, self.team = start, recipe, loaded, masks, team
        self.selection, self.training = with_labels_of_head(loaded, selection), training_of(recipe)
        self.teacher = teacher and teacher.model
        self.teacher_description = teacher and teacher.description
        self.layers = find_layers(loaded.model, loaded.family)
        self.model_description = _description(start, loaded)
        check(loaded, self.selection.samples, self.training)
        samples = self.selection.samples[: min(2, recipe.train.batch_size)]
        self.unreached = tuple(unreached(loaded, samples, self.layers))
        reported = start.report()
        if is_changed(reported, loaded.description["fingerprint"]):
            logger.warning(
                "%s has changed since it was pruned: its weights are not those that report.json verified; the recovery "
                "starts from them as they are",
                start.model,
            )
        self.report = self._pruned_report(reported)
        self.parameters = self.report["total"]["model_weights"]
        _PREPARE[recipe.recover.method](self)
        zeros = self._keep_biases(reported)
        # biases and norms that are trained would be those of the teacher too
        may_teach = teacher and recipe.recover.method == "lora" and not recipe.recover.biases
        if may_teach and take_back_weights(loaded.model, teacher.model, masks):
            self.teacher = partial(dense, loaded.model)
        zeros += sum(masks.zeros[name] for name, weight in self.weights().items() if weight.requires_grad)
        self.trained = sum(one.numel() for one in loaded.model.parameters() if one.requires_grad) - zeros

    def _pruned_report(self, reported: dict[str, Any] | None) -> dict[str, Any]:
        """What the masks prune: as the run that set them reported it, else counted here."""
        zeros = {name: layer["zeros"] for name, layer in reported["layers"].items()} if reported else None
        if zeros == self.masks.zeros:
            return {key: value for key, value in reported.items() if key not in ("made", "verified", "evaluation")}
        layers = {name: self.layers[name] for name in self.masks.shapes}
        sparsity = sum(self.masks.zeros.values()) / self.masks.total
        options = {"family": self.loaded.family, "unreached": self.unreached}
        planned = planned_report(self.loaded.model, layers, asked=sparsity, **options)
        if reported and "before" in reported:
            planned["before"] = reported["before"]
        return self.counted(finished_report(planned, self.masks))

    def _keep_biases(self, reported: Mapping[str, Any] | None) -> int:
        """Keep the zeros of biases that were pruned, of which no file of masks knows, where biases are trained.

        How many zeros these are.
        """
        rows = reported["layers"] if reported else {}
        biases = {name: self.layers[name].module.bias for name, row in rows.items() if row.get("bias_zeros")}
        biases = {name: bias for name, bias in biases.items() if bias.requires_grad}
        masks = Masks.from_zeros(biases)
        mask_gradients(masks, biases)
        return sum(masks.zeros.values())

    def counted(self, report: dict[str, Any]) -> dict[str, Any]:
        """A report with the zeros that the model holds by now."""
        model, family = self.loaded.model, self.loaded.family
        return counted(report, model, family, unreached=self.unreached)

    def signature(self) -> dict[str, Any]:
        """What a resumed run must share with the one it continues. Reports find there what the model began with."""
        recover = self.recipe.recover.model_dump(mode="json").items()
        training = self.recipe.train.model_dump(mode="json").items()
        keys = ("fingerprint", "configuration", "revision", "class")
        pruned = {key: value for key, value in self.start.signature.items() if key.startswith("prune.")}
        return {
            **pruned,
            **{key: self.model_description.get(key) for key in keys},
            "pruned": self.loaded.description["fingerprint"],
            "masks": self.masks.hash(),
            **{key: self.model_description.get(key) for key in ("chat_template", "clean_texts")},
            "samples": self.selection.description["fingerprint"],
            **{f"recover.{key}": value for key, value in recover},
            **{f"train.{key}": value for key, value in training if key not in INDIFFERENT},
            "seed": self.recipe.data.seed,
            "processes": self.team.size,
            **({"history": history} if (history := history_of(self.start.model)) else {}),
        }

    def weights(self) -> dict[str, nn.Parameter]:
        """The weights that have a mask, by layer."""
        modules = dict(self.loaded.model.named_modules())
        return {name: modules[name].weight for name in self.masks.shapes}


def _add_lora(job: Recovery) -> None:
    """Train masked LoRA alone, or biases and norms too."""
    settings, model = job.recipe.recover, job.loaded.model
    layers = in_scope(model, job.loaded.family, settings.layers)
    layers = {name: layer for name, layer in layers.items() if name not in job.unreached}
    if not layers:
        raise UsageError(f"the loss reaches no layer of {settings.layers}: choose other layers")
    present = {layer.modality for layer in layers.values()}
    one_for_all = len({*settings.rank.values()}) == 1
    for modality, rank in settings.rank.items() if not one_for_all else ():
        if modality not in present and rank != RANKS[modality]:
            raise UsageError(
                f"rank {rank} of {modality}: none of the layers trained is {modality}, but {listed(sorted(present))}; "
                f"leave {modality} out"
            )
    for name, layer in layers.items():
        rank, most = settings.rank[layer.modality], min(layer.in_features, layer.out_features)
        if rank > most:
            raise UsageError(
                f"rank {rank} of {layer.modality}: {name} has {layer.in_features} inputs and {layer.out_features} "
                f"outputs; use a rank of at most {most}"
            )
    attach_lora(
        model,
        job.masks,
        rank={name: settings.rank[layer.modality] for name, layer in layers.items()},
        alpha=settings.alpha,
        seed=job.recipe.data.seed,
    )
    for parameter in small_parameters(model) if settings.biases else ():
        parameter.requires_grad_(True)


def _train_all(job: Recovery) -> None:
    """Train every weight that is not pruned."""
    mask_gradients(job.masks, job.weights())


def _train_biases(job: Recovery) -> None:
    """Train biases and norms alone."""
    job.loaded.model.requires_grad_(False)
    parameters = small_parameters(job.loaded.model)
    if not parameters:
        raise UsageError(f"method biases: a {type(job.loaded.model).__name__} has neither biases nor norms")
    for parameter in parameters:
        parameter.requires_grad_(True)


_PREPARE = {"lora": _add_lora, "full": _train_all, "biases": _train_biases}


def _description(start: Start, loaded: Loaded) -> dict[str, Any]:
    """The description of the dense model, as far as the run that pruned it tells; else that of the pruned one."""
    described = dict(loaded.description)
    if start.recipe is None:
        return described
    known = {key: start.signature.get(key) for key in ("fingerprint", "configuration", "revision")}
    name = start.origin
    source = "builtin" if name.startswith("builtin/") else "hub" if start.signature.get("revision") else "folder"
    return described | known | {"name": name, "source": source}
