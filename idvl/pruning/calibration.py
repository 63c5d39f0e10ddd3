"""A calibrated pruning run before it starts: its layers and samples, how many weights go. It has written nothing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idvl.data.samples import Sample, Selection
from idvl.data.splits import TRAINING
from idvl.distributed import Team
from idvl.errors import UsageError, quoted
from idvl.geometry.gram import full_precision
from idvl.models.capture import Tap, Watch
from idvl.models.classes import with_labels_of_head
from idvl.models.inputs import encode
from idvl.models.joining import size_of
from idvl.models.layers import SCOPES, Layer, block_of, in_scope, left_out, modality_of, unread_layers
from idvl.models.loading import Loaded
from idvl.models.offload import check_precision, layer_weights
from idvl.models.trace import Trace, trace
from idvl.models.walk import to_device
from idvl.profile import Profile
from idvl.pruning import earlier, profiles
from idvl.pruning.calibration_settings import reads_dimensions
from idvl.pruning.counts import check_limits, parts_of, zeros_of
from idvl.pruning.density_file import densities_of
from idvl.pruning.gradients import probe_of
from idvl.pruning.inputs import InputSums
from idvl.pruning.pruners import criterion_of
from idvl.pruning.signals import prepare
from idvl.recipe import Recipe
from idvl.recipe.sections import AUTO
from idvl.recipe.values import shares
from idvl.reporter import Reporter
from idvl.session import choose_samples, history_of, open_model
from idvl.sparsity import allocation as allocations
from idvl.sparsity.layerwise import Layerwise
from idvl.sparsity.masks import unmasked_zeros
from idvl.sparsity.structure import parse
from idvl.units import percent

# the classes of tokens
CLASSES = ("image", "text")


def gather(recipe: Recipe, device: torch.device, team: Team, reporter: Reporter, *, store: Path) -> Calibration:
    """Model, layers and calibration samples of a resolved recipe; `store` takes their images.

    UsageError, before a sample is read, for layers that the structure or the limits of the budget do not fit.
    """
    data, wanted = recipe.data, recipe.prune.calibration_samples
    loaded = open_model(recipe.model, device, team, offload=recipe.estimate.offload)
    layers = in_scope(loaded.model, loaded.family, recipe.prune.scope)
    group, unread = SCOPES.get(recipe.prune.scope, ()), unread_layers(loaded.model, loaded.family)
    if unread := [name for name, layer in unread.items() if layer.modality in group]:
        reporter.note(left_out(unread, "the model does not use", loaded.family))
    needs = allocations.load(recipe.prune.allocation).needs
    named = needs == "dimension" and recipe.prune.profile != AUTO
    profile = team.first(lambda: profiles.fitting(recipe.prune.profile, layers)) if named else None
    densities = team.first(lambda: densities_of(recipe.prune, loaded, layers)) if needs == "file" else {}
    check_limits(recipe.prune, layers)
    budgets = parts_of(recipe.prune, layers) if densities else {}
    for part, budget in budgets.items():
        sizes = {name: layer.module.weight.numel() for name, layer in budget.layers.items()}
        own = 1 - sum(densities[name] * size for name, size in sizes.items()) / sum(sizes.values())
        if percent(own) != percent(budget.sparsity):
            reporter.note(
                f"allocation {recipe.prune.allocation} comes to sparsity {percent(own)} over the layers in scope"
                f"{'' if part == 'all' else f' ({part})'} and is scaled to {percent(budget.sparsity)}, which sparsity "
                "(--sparsity) sets"
            )
    if named := recipe.prune.modality_sparsity:
        for word in set(shares(named)) - set(parts_of(recipe.prune, layers)):
            reporter.warn(f"sparsity {named}: no layer in scope is {word}")
    selection = choose_samples(
        recipe,
        team,
        reporter=reporter,
        purpose="calibration",
        split=data.split or TRAINING,
        n=wanted,
        loaded=loaded,
        force=True,
        distinct=False,
        store=store,
    )
    if len(selection.samples) < wanted:
        reporter.warn(f"{wanted} calibration samples requested, there are {len(selection.samples)}")
    job = Calibration(recipe, loaded, selection, team, reporter, profile=profile)
    prepare(job, reporter)
    if "gradient" in job.layerwise.criterion.needs:
        team.each(lambda: probe_of(job, None, purpose=f"criterion {recipe.prune.criterion}"))
    if profile and profiles.is_foreign(profile, job.model_description):
        reporter.warn(
            f"the profile {quoted(recipe.prune.profile)} was measured on other weights than {loaded.name} has"
        )
    filled = "the update of weights" if job.layerwise.updates else ""
    for warning in earlier.warnings(job.before, job.layers, filled=filled):
        reporter.warn(warning)
    return job


class Calibration:
    """A model, its layers in scope, and this process's batches of calibration samples.

    `users`: the modules that are measured, by name: the layers, and those that share the weight of one, which `owner`
    names. `tokens`: how many tokens count in each layer, and `classes`, of each class; layers with none are neither
    pruned nor counted. `groups`: the users that read one tensor, in the first batch. `profile`: the profile that the
    allocation reads, if any; `values`: the signal that it reads, None until it is measured; `before`: the zeros that
    layers held, as an earlier pruning leaves them. UsageError where no layer is left, or none has a choice between
    classes of tokens.
    """

    # what its samples are for; no loss is needed, so none fails to reach a layer
    purpose, unreached = "calibration", ()

    def __init__(
        self,
        recipe: Recipe,
        loaded: Loaded,
        selection: Selection,
        team: Team,
        reporter: Reporter,
        *,
        profile: Profile | None = None,
    ):
        self.profile = profile
        self.values: dict[str, float] | None = {} if allocations.load(recipe.prune.allocation).needs is None else None
        self.recipe, self.loaded, self.selection, self.team = recipe, loaded, selection, team
        self.model_description, prune = loaded.description, recipe.prune
        self.device = loaded.device
        self.is_sequential = prune.calibration == "sequential"
        # passes over the samples in which a pruned block is trained
        self.epochs = prune.repair_epochs or 0
        criterion = criterion_of(prune)
        within = prune.compare_within or ("row" if criterion.compares == "row" else "layer")
        self.layerwise = Layerwise(
            criterion=criterion, structure=parse(prune.structure), within=within, repair=prune.repair or "none"
        )
        if self.epochs and team.size > 1:
            raise UsageError(f"repair reconstruct trains in one process, not in {team.size}: use another repair")
        self._encode(reporter)
        self.layers = in_scope(loaded.model, loaded.family, prune.scope)
        self.users, self.owner = _users(loaded, self.layers)
        if loaded.offload:
            self._check_offload()
        self.trace, self.groups = team.each(self._trace)
        self.classes: dict[str, dict[str, int]] = {}
        self._check_choice()
        self._leave_out(reporter)
        self.before = unmasked_zeros(layer_weights(loaded.model, loaded.family, loaded.offload))

    def _encode(self, reporter: Reporter) -> None:
        """This process's batches, and the names of their samples. UsageError where a process has none."""
        samples, size, team = self.selection.samples, self.recipe.data.batch_size, self.team
        if (count := -(-len(samples) // size)) < team.size:
            raise UsageError(
                f"{len(samples)} calibration samples in batches of {size} are too few for {team.size} processes: use "
                "more samples, a smaller data.batch_size or fewer processes"
            )
        part = team.part(count)
        self.names = [[sample.id for sample in samples[k * size : (k + 1) * size]] for k in part]
        with reporter.progress("preparing calibration samples") as progress:
            options = {"batch_size": size, "part": part, "also": [samples[: 1 if size > 1 else 2]]}
            *self.batches, self._other = team.each(lambda: encode(self.loaded, samples, progress=progress, **options))

    def _check_offload(self) -> None:
        """UsageError where an offloaded weight is pruned in several blocks, or cannot be read back as it is saved."""
        for name in self.layers:
            if len({self.users[user].block for user in self.users_of(name)}) > 1:
                raise UsageError(f"--offload prunes weights block by block, and several blocks share {name}: omit it")
        stored = self.model_description["stored_dtype"]
        check_precision(self.loaded.model, getattr(torch, stored) if stored else self.loaded.model.dtype)

    def _trace(self) -> tuple[Trace, list[list[str]]]:
        """What the first batch meets, and which users read one tensor in it."""
        model, family, noted = self.loaded.model, self.loaded.family, self.new_sums(products=False)
        inputs, offload = self.loaded.inputs_device, self.loaded.offload
        batch, how = self.batches[0], {"capture": "input", "device": inputs, "other": self._other, "offload": offload}
        with torch.inference_mode(False), full_precision(self.device):
            seen = trace(model, batch, family.call, self.users, **how)
            tap = Tap([batch], self.token_mask, seen.axes)
            with torch.no_grad(), tap.feeding(noted, seen.shapes), Watch(self.users, "input", tap.record):
                family.call(model, to_device(batch, inputs))
        if offload:
            offload.release()
        return seen, [names for names, _ in noted.groups(seen.shapes)]

    def _check_choice(self) -> None:
        """UsageError where a class of tokens is chosen and no layer reads both."""
        chosen, image_tokens = self.recipe.prune.tokens_from, self.loaded.family.image_tokens
        lengths = {
            name: math.prod(shapes[0][:-1]) // self.trace.batch_size for name, shapes in self.trace.shapes.items()
        }
        if chosen != "all" and all(image_tokens(*length, self.batches[0]) is None for length in lengths.items()):
            raise UsageError(
                f"tokens_from {chosen}: no layer in scope of {self.loaded.name} reads images and texts together; leave "
                "tokens_from out"
            )

    def _leave_out(self, reporter: Reporter) -> None:
        """Count tokens, and leave out the layers that none enters."""
        counts = torch.zeros(len(self.users), len(CLASSES), dtype=torch.int64, device=self.device)
        for row, name in zip(counts, self.users, strict=True):
            for shape in self.trace.shapes.get(name, ()):
                row += self._counts(name, math.prod(shape[:-1]) // self.trace.batch_size).to(self.device)
        by_user = dict(zip(self.users, self.team.reduce(counts).tolist(), strict=True))
        for name in self.layers:
            sums = (sum(column) for column in zip(*(by_user[user] for user in self.users_of(name)), strict=True))
            self.classes[name] = dict(zip(CLASSES, sums, strict=True))
        self.tokens = {name: sum(of_class.values()) for name, of_class in self.classes.items()}
        if idle := [name for name, count in self.tokens.items() if not count]:
            reason = self.trace.faults.get(idle[0], "no token of the calibration samples enters it")
            reporter.warn(f"{len(idle)} layers are neither pruned nor counted, the first is {idle[0]}: {reason}")
        self.layers = {name: layer for name, layer in self.layers.items() if self.tokens[name]}
        self.users = {name: layer for name, layer in self.users.items() if self.tokens[self.owner[name]]}
        few = [name for name, layer in self.layers.items() if self.tokens[name] < layer.in_features]
        if few and self.layerwise.needs_products:
            reporter.warn(
                f"{len(few)} layers have more inputs than tokens that enter them, {few[0]} first "
                f"({self.tokens[few[0]]} tokens): damping decides what is left open; take more calibration samples"
            )
        if not self.layers:
            raise UsageError("no token of the calibration samples enters a layer in scope: widen the scope")

    def _counts(self, name: str, n_tokens: int) -> Tensor:
        """How many tokens of this process's samples, of each of CLASSES, count in a module of so many a sample."""
        counts = torch.zeros(len(CLASSES), dtype=torch.int64)
        for batch in self.batches:
            mask, image = self.token_mask(name, n_tokens, batch), self.loaded.family.image_tokens(name, n_tokens, batch)
            count = n_tokens * size_of(batch) if mask is None else int(mask.sum())
            if image is None:
                of_image = count if self.kind(name) == "image" else 0
            else:
                of_image = int((image if mask is None else image & mask).sum())
            counts += torch.tensor([of_image, count - of_image])
        return counts

    def token_mask(self, name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
        """The real tokens that count in a module, as in Family: of one that reads both classes, those of the chosen."""
        family, chosen = self.loaded.family, self.recipe.prune.tokens_from
        real, image = (mask(name, n_tokens, inputs) for mask in (family.token_mask, family.image_tokens))
        if image is None or chosen == "all" or image.all() or not image.any():
            return real
        of_class = image if chosen == "image" else ~image
        return of_class if real is None else of_class & real

    def with_recipe(self, recipe: Recipe) -> Calibration:
        """The same layers and samples under a recipe that differs in its allocation, whose signal is not known yet."""
        job = copy(self)
        job.recipe, job.values = recipe, None
        vars(job).pop("zeros", None)
        return job

    @cached_property
    def learnable(self) -> list[Sample]:
        """The samples with labels numbered as the classes of the head. UsageError where it lacks one of them."""
        return with_labels_of_head(self.loaded, self.selection).samples

    @property
    def needs_estimate(self) -> bool:
        """Whether dimensions are estimated first."""
        return reads_dimensions(self.recipe.prune) and self.profile is None

    @cached_property
    def zeros(self) -> dict[str, int]:
        """How many weights go of each layer, once `values` are measured."""
        return zeros_of(self.recipe.prune, self.layers, self.values)

    def users_of(self, layer: str) -> list[str]:
        """The modules that hold a layer's weight."""
        return [name for name, owner in self.owner.items() if owner == layer]

    @cached_property
    def spread(self) -> list[list[str]]:
        """The users that read one tensor, where several blocks do."""
        groups = [[name for name in names if name in self.users] for names in self.groups]
        return [names for names in groups if len({self.users[name].block for name in names}) > 1]

    def weight(self, name: str) -> Tensor:
        """A layer's weight on the device, read if the model is offloaded."""
        weight = self.layers[name].module.weight.detach()
        return self.loaded.offload.weight(f"{name}.weight").to(self.device) if weight.is_meta else weight

    def kind(self, name: str) -> str:
        """The class of the tokens that enter a module which reads one class alone."""
        layer = self.users[name]
        return "image" if layer.modality in ("vision", "connector") or layer.reads_image else "text"

    def new_sums(self, *, products: bool) -> InputSums:
        """Sums over what enters the users, empty."""
        return InputSums(self.names, products=products)

    def facts(self) -> dict[str, Any]:
        """What report.json says of the samples: where they are from, and the real tokens of each layer, by class."""
        tokens = {name: {key: n for key, n in self.classes[name].items() if n} for name in self.layers}
        return {"calibration": {**self.selection.source(), "tokens": tokens}}

    def signature(self) -> dict[str, Any]:
        """What a resumed run must share with the one it continues."""
        pruning = self.recipe.prune.model_dump(mode="json").items()
        about = ("fingerprint", "configuration", "revision", "class", "dtype", "chat_template", "clean_texts")
        return {
            **{key: self.model_description[key] for key in about},
            "samples": self.selection.description["fingerprint"],
            "layers": hashlib.sha256("\n".join(self.layers).encode()).hexdigest(),
            **{f"prune.{key}": value for key, value in pruning},
            "batch_size": self.recipe.data.batch_size,
            "seed": self.recipe.data.seed,
            "processes": self.team.size,
            "profile": hashlib.sha256(self.profile.dumps().encode()).hexdigest() if self.profile else None,
            **({"history": history} if (history := history_of(self.recipe.model.name)) else {}),
            **({"densities": self.values} if allocations.load(self.recipe.prune.allocation).needs == "file" else {}),
        }


def _users(loaded: Loaded, layers: Mapping[str, Layer]) -> tuple[dict[str, Layer], dict[str, str]]:
    """The modules that hold a weight of `layers`, and the layer that each belongs to, by the module's name."""
    owners = {id(layer.module.weight): name for name, layer in layers.items()}
    users, owner = {}, {}
    for name, module in loaded.model.named_modules():
        if (layer := owners.get(id(getattr(module, "weight", None)))) is None:
            continue
        owner[name] = layer
        users[name] = replace(
            layers[layer],
            name=name,
            module=module,
            block=block_of(name, loaded.family),
            modality=modality_of(name, loaded.family) or layers[layer].modality,
        )
    return users, owner
