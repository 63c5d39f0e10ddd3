"""One pruning run before it starts: what is pruned, what it learns from, in which steps. It has written nothing."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from idvl.data.samples import Selection
from idvl.data.splits import TRAINING
from idvl.distributed import Team
from idvl.errors import UsageError, quoted
from idvl.evaluation.learnt import DIMENSIONS
from idvl.models.classes import with_labels_of_head
from idvl.models.heads import with_new_head
from idvl.models.layers import SCOPES, find_layers, in_scope, left_out
from idvl.models.loading import Loaded
from idvl.models.offload import layer_weights
from idvl.profile import Profile
from idvl.pruning import earlier, head, profiles
from idvl.pruning.pruners import criterion_of, multipliers_of, pruner_of, targets_of
from idvl.pruning.settings import schedule_of, training_of
from idvl.recipe import Recipe
from idvl.reporter import Reporter
from idvl.session import choose_samples, history_of, open_model
from idvl.sparsity import criteria, icml24
from idvl.sparsity.masks import unmasked_zeros
from idvl.sparsity.pruner import WeightPruner
from idvl.sparsity.weighting import Multipliers
from idvl.training import steps_per_epoch, total_steps
from idvl.training.accelerator import can_learn, check
from idvl.training.reach import unreached

# settings of a training that do not change what it comes to
INDIFFERENT = ("checkpoint_every", "report_to")


def gather(recipe: Recipe, device: torch.device, team: Team, reporter: Reporter, *, store: Path) -> Job:
    """Model, layers and training samples of a resolved recipe; `store` takes their images."""
    loaded = open_model(recipe.model, device, team)
    selection = training_samples(recipe, loaded, team, reporter, store=store)
    if recipe.train.new_head:
        loaded = with_new_head(loaded, head.classes_of(selection, reporter), seed=recipe.data.seed)
    job = Job(recipe, loaded, selection, team)
    if job.unreached:
        reporter.note(left_out(job.unreached, "the loss does not reach", loaded.family))
    _warn_of_zeros(job, reporter)
    if job.profile and profiles.is_foreign(job.profile, job.model_description):
        reporter.warn(
            f"the profile {quoted(recipe.prune.profile)} was measured on other weights than {loaded.name} has"
        )
    return job


def _warn_of_zeros(job: Job, reporter: Reporter) -> None:
    """Say what becomes of the zeros of an earlier pruning, of which no mask of this run may know."""
    reached = {name: zeros for name, zeros in job.before.items() if name not in job.unreached}
    if job.recipe.train.new_head and reached:
        # learnt before there are masks
        reporter.warn(
            f"{len(reached)} layers hold {sum(reached.values()):,} zeros, probably of an earlier pruning, which "
            f"training fills ({next(iter(reached))} first): to keep them, learn a new head on the dense model, before "
            "it is pruned"
        )
    elif not job.recipe.train.new_head:
        trained = reached if job.training.update_weights else ()
        for warning in earlier.warnings(job.before, job.layers, filled="training" if trained else "", trained=trained):
            reporter.warn(warning)


def training_samples(recipe: Recipe, loaded: Loaded, team: Team, reporter: Reporter, *, store: Path) -> Selection:
    """The samples that a resolved recipe trains on, with the texts that it reads; `store` takes their images."""
    train = recipe.train
    # no more than the steps take
    limit = train.max_steps and train.max_steps * train.batch_size * train.accumulate * team.size
    selection = choose_samples(
        recipe,
        team,
        reporter=reporter,
        purpose="training",
        split=recipe.data.split or TRAINING,
        n=train.samples or limit,
        loaded=loaded,
        force=True,
        distinct=False,
        store=store,
    )
    if train.samples and len(selection.samples) < train.samples:
        reporter.warn(f"{train.samples} training samples requested, there are {len(selection.samples)}")
    samples = selection.samples
    if train.texts == "first":
        samples = [replace(sample, texts=sample.texts[:1], answers=sample.answers[:1]) for sample in samples]
    elif train.texts == "all":
        # a sample without texts stays as it is
        samples = [
            replace(sample, texts=texts) for sample in samples for texts in [(text,) for text in sample.texts] or [()]
        ]
    return replace(selection, samples=samples)


class Job:
    """Model and samples of a run, its schedule, and the profile that the recipe names (None: none, or estimated first).

    `model_description` describes the model before pruning, and `before` counts the zeros that its layers held, as an
    earlier pruning leaves them. UsageError for what does not go together.
    """

    def __init__(self, recipe: Recipe, loaded: Loaded, selection: Selection, team: Team):
        self.recipe, self.team = recipe, team
        self.model_description = loaded.description
        self.training, self.unreached = training_of(recipe), ()
        self.selection = with_labels_of_head(loaded, selection) if self.learns else selection
        self.replace_model(loaded)
        self._leave_out_unreached()
        self.before = unmasked_zeros(layer_weights(loaded.model, loaded.family))
        samples = len(selection.samples)
        self.per_epoch = steps_per_epoch(self.training, samples, team.size)
        prune = recipe.prune
        if self.training.skip_last and self.per_epoch == 1:
            raise UsageError(
                f"compat icml24 leaves out the last step of each epoch, and {samples} samples make one step an epoch: "
                "nothing would be trained; use a smaller batch_size, more samples or compat none"
            )
        self.schedule = schedule_of(prune, total_steps(self.training, samples, team.size))
        self.profile = team.first(lambda: profiles.recipe_profile(prune, self.layers))
        # refuses what does not go together before anything is written
        self.pruner(self.multipliers(self.profile) if self.profile else None)

    @property
    def needs_estimate(self) -> bool:
        """Whether dimensions are estimated first."""
        return self.recipe.prune.id_weight != "none" and self.profile is None

    @property
    def purpose(self) -> str | None:
        """What its samples are used for, None where they are not."""
        if self.learns or self.recipe.train.new_head:
            return "training"
        return DIMENSIONS if self.needs_estimate else None

    @property
    def learns(self) -> bool:
        """Whether a step needs a loss: to move the weights, or for the criterion."""
        return self.training.update_weights or "gradient" in self.criterion().needs

    def replace_model(self, loaded: Loaded) -> None:
        """Continue with this model."""
        layers = in_scope(loaded.model, loaded.family, self.recipe.prune.scope)
        self.loaded = loaded
        self.layers = {name: layer for name, layer in layers.items() if name not in self.unreached}

    def _leave_out_unreached(self) -> None:
        """Leave layers that the loss does not reach out of the scope. UsageError where it holds no other.

        What the recipe names by a pattern stays where nothing is learnt.
        """
        scope, samples = self.recipe.prune.scope, self.selection.samples
        if self.learns:
            check(self.loaded, samples, self.training)
        elif scope not in SCOPES or not can_learn(self.loaded, samples):
            return
        few = samples[: min(2, self.training.batch_size)]
        self.unreached = tuple(unreached(self.loaded, few, find_layers(self.loaded.model, self.loaded.family)))
        names = list(self.layers)
        self.replace_model(self.loaded)
        if not self.layers:
            raise UsageError(
                f"the loss of {type(self.loaded.model).__name__} reaches no layer of the scope {quoted(scope)} "
                f"({names[0]}, ...): choose another scope"
            )

    def signature(self) -> dict[str, Any]:
        """What a resumed run must share with the one it continues."""
        pruning = self.recipe.prune.model_dump(mode="json").items()
        training = self.recipe.train.model_dump(mode="json").items()
        return {
            **{key: self.model_description[key] for key in ("fingerprint", "configuration", "revision", "class")},
            **{key: self.model_description.get(key) for key in ("chat_template", "clean_texts")},
            "samples": self.selection.description["fingerprint"],
            "layers": hashlib.sha256("\n".join(self.layers).encode()).hexdigest(),
            **{f"prune.{key}": value for key, value in pruning},
            "prune.mask_every": self.schedule.mask_every,
            **{f"train.{key}": value for key, value in training if key not in INDIFFERENT},
            "seed": self.recipe.data.seed,
            "processes": self.team.size,
            "profile": hashlib.sha256(self.profile.dumps().encode()).hexdigest() if self.profile else None,
            **({"history": history} if (history := history_of(self.recipe.model.name)) else {}),
        }

    def multipliers(self, profile: Profile | None) -> Multipliers:
        """What each layer's scores are multiplied by. UsageError for a profile of another model."""
        return multipliers_of(self.recipe.prune, self.layers, profile)

    def targets(self) -> dict[str, float] | None:
        """The target sparsity of each layer, None where one threshold over all layers decides."""
        return targets_of(self.recipe.prune, self.layers)

    def criterion(self) -> criteria.Criterion:
        """A new criterion as the recipe sets it."""
        return criterion_of(self.recipe.prune)

    def pruner(self, weighted: Multipliers | None) -> WeightPruner:
        """A new pruner of the layers in scope."""
        factors = weighted.factors if weighted else None
        if self.recipe.prune.compat == "none":
            return pruner_of(self.recipe.prune, self.layers, self.schedule, factors)
        modules = {name: layer.module for name, layer in self.layers.items()}
        return icml24.Icml24(
            {name: module.weight for name, module in modules.items()},
            steps_per_epoch=self.per_epoch,
            biases={name: module.bias for name, module in modules.items() if module.bias is not None},
            criterion=self.criterion(),
            factors=factors,
            schedule=self.schedule,
        )
