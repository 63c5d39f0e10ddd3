"""Prune a model while it trains, and leave a folder behind that plain transformers opens.

recipe -> model, samples -> plan -> profile -> pruner -> training -> model/, masks, report, card. The profile is a run
of estimate-id in a folder inside this one's. It does not know how a terminal looks.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from idvl import runs
from idvl.builtin import dataset_of, learning_rate_of
from idvl.checkpoints.card import base_facts, page
from idvl.checkpoints.hub import check as check_hub
from idvl.checkpoints.hub import push
from idvl.checkpoints.report import plan as planned_report
from idvl.checkpoints.report import report as finished_report
from idvl.checkpoints.save import save_pruned
from idvl.data.catalog import TRAINING
from idvl.data.samples import Selection
from idvl.errors import RunError, UsageError
from idvl.files import disk_errors, write_text
from idvl.models.heads import with_new_head
from idvl.models.layers import SCOPES, find_layers, in_scope
from idvl.models.loading import Loaded, load, quiet
from idvl.models.team import Team
from idvl.profile import Profile, load_profile, published
from idvl.recipe import PruneSection, Recipe
from idvl.sparsity import criteria, icml24
from idvl.sparsity.axes import refuse
from idvl.sparsity.pruner import Pruner
from idvl.sparsity.schedule import Schedule
from idvl.sparsity.structure import parse
from idvl.sparsity.weighting import FEWEST_POINTS, Weights, multipliers
from idvl.training import Training, agree, steps_per_epoch, total_steps, train
from idvl.training.checkpoint import latest
from idvl.training.rehearsal import rehearse
from idvl.workflows import estimate_id
from idvl.workflows.asked import choose_samples, open_model
from idvl.workflows.estimate_id import Reporter
from idvl.workflows.launch import join_team

# what a recipe leaves open
SPARSITY, LEARNING_RATE, EPOCHS = 0.8, 1e-5, 5
# pruning steps of one-shot pruning (appendix A, rows 5 and 6 of Table 8), each with its own sparsity
ONE_SHOT_STEPS = 50
AUTO, PUBLISHED = "auto", "published:"
# folders inside a run's: the run that estimates its profile, the dense model with a new head, and checkpoints
PROFILE, DENSE, CHECKPOINTS = "profile", "dense", "checkpoints"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is going to do. `report` is report.json without what only the masks know."""

    report: dict[str, Any]
    schedule: Schedule
    steps_per_epoch: int
    samples: int
    memory: int
    seconds: float

    def scope(self) -> list[str]:
        """What is pruned, a line for each modality."""
        total = self.report["total"]["weights"]
        return [
            f"{name}: {part['layers']} layers, {part['weights']:,} weights, {part['weights'] / total:.1%} of the scope"
            for name, part in self.report["modalities"].items()
        ]

    def lines(self) -> list[str]:
        """When, and what it takes."""
        schedule = self.schedule
        hours, minutes = divmod(round(self.seconds / 60), 60)
        took = f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{self.seconds:.0f} s"
        return [
            f"{schedule.total_steps:,} steps, {self.steps_per_epoch:,} an epoch of {self.samples:,} samples: dense for "
            f"{schedule.first:,}, {schedule.kind} to {schedule.target:.2%} at step {schedule.last + 1:,}, masks every "
            f"{schedule.mask_every} steps",
            f"{self.memory / 2**30:.2f} GiB for weights, gradients, optimizer and criterion, beside a batch's "
            f"activations; about {took} of training",
        ]

    def to_json(self) -> dict[str, Any]:
        """The plan for programs; memory in bytes."""
        return {
            "report": self.report,
            "schedule": asdict(self.schedule),
            "steps_per_epoch": self.steps_per_epoch,
            "samples": self.samples,
            "memory": self.memory,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run ends with: the report and its folder, or after a plan (and beside the first process) neither."""

    plan: Plan | None
    report: dict[str, Any] | None = None
    folder: Path | None = None


def run(
    recipe: Recipe,
    *,
    folder: Path | None,
    reporter: Reporter,
    resume: bool = False,
    overwrite: bool = False,
    plan_only: bool = False,
    push_to: str | None = None,
    private: bool = True,
) -> Result:
    """Carry out a recipe. `folder` None: a new one under runs/. `push_to`: the Hub repository to upload the model to.

    Raises UsageError, before anything is written, for what cannot be carried out.
    """
    _refuse(recipe)
    recipe = _resolved(recipe)
    _refuse_axes(recipe.prune)
    if push_to:
        check_hub(push_to)
    named = "prune", recipe.model.name, recipe.data.dataset
    runs.check(folder or runs.default_folder(*named), resume=resume, overwrite=overwrite)
    device, team = join_team(recipe.model.device)
    work = _gather(recipe, device, team, reporter)
    if plan_only:
        return Result(plan=team.each(work.plan))
    ended = folder is not None and resume and team.first((folder / "report.json").exists)
    plan = None if ended else team.each(work.plan)
    with ExitStack() as held:
        opened: list[runs.Run] = []
        options = {"recipe": recipe.to_dict(), "signature": work.signature(), "resume": resume, "overwrite": overwrite}
        team.first(
            lambda: opened.append(held.enter_context(runs.Run.open(folder or runs.new_folder(*named), **options)))
        )
        folder = team.first(lambda: opened[0].folder)
        if ended:
            reporter.note("the model is pruned already")
            report = team.first(lambda: _read_report(folder / "report.json"))
        else:
            for line in (*plan.scope(), *plan.lines()):
                reporter.note(line)
            report = work.carry_out(plan, folder, opened[0] if opened else None, reporter, resume=resume)
        if opened and push_to:
            reporter.note(f"uploaded to {push(folder / 'model', push_to, private=private)}")
    return Result(plan=plan, report=report, folder=folder if opened else None)


def _resolved(recipe: Recipe) -> Recipe:
    """The recipe with every value that it leaves open."""
    prune, train = recipe.prune, recipe.train
    structure = parse(prune.structure)
    built_in = recipe.model.name.startswith("builtin/")
    rate = learning_rate_of(recipe.model.name) if built_in else LEARNING_RATE
    once = prune.schedule == "one-shot"
    pruning = {
        "sparsity": prune.sparsity or (structure.sparsity if structure.grouped else SPARSITY),
        "allocation": prune.allocation or ("uniform" if structure.grouped else "global"),
    }
    training = {
        "learning_rate": train.learning_rate or rate,
        # they were trained on the first caption
        "texts": train.texts or ("first" if built_in else "any"),
        "epochs": EPOCHS if train.epochs is None else train.epochs,
    }
    if once:
        training |= {"epochs": 0, "max_steps": train.max_steps or ONE_SHOT_STEPS}
        pruning |= {"initial": 0.0, "final": 0.0, "mask_every": 1}
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"dataset": recipe.data.dataset or dataset_of(recipe.model.name)}),
            "prune": prune.model_copy(update=pruning),
            "train": train.model_copy(update=training),
        }
    )


def _refuse(recipe: Recipe) -> None:
    prune = recipe.prune
    if recipe.model.dtype != "float32":
        raise UsageError(f"weights are trained in float32, not {recipe.model.dtype}: see train.mixed_precision")
    few = recipe.data.samples is not None and recipe.data.samples < FEWEST_POINTS
    if few and prune.id_weight != "none" and prune.profile == AUTO:
        raise UsageError(
            f"{recipe.data.samples} samples give no sound dimension: ask for {FEWEST_POINTS} or more, for another "
            "profile, or for id_weight none"
        )
    if prune.schedule == "one-shot" and recipe.train.epochs:
        raise UsageError("schedule one-shot trains nothing: leave epochs out, or give max_steps")


def _refuse_axes(prune: PruneSection) -> None:
    limits = {key: getattr(prune, key) for key in ("floor", "ceiling", "min_keep", "monotone", "compat", "sparsity")}
    axes = {key: getattr(prune, key) for key in ("criterion", "id_weight", "allocation", "structure", "schedule")}
    refuse(**axes, **limits)
    if prune.schedule == "one-shot" and prune.refresh_profile:
        raise UsageError("refresh_profile and schedule one-shot: no epoch passes; leave refresh_profile out")
    if prune.id_weight == "none" and prune.refresh_profile:
        raise UsageError("refresh_profile and id_weight none: no dimension is used; leave refresh_profile out")


def _gather(recipe: Recipe, device: torch.device, team: Team, reporter: Reporter) -> Work:
    """Model, layers and training samples of a recipe."""
    train, data = recipe.train, recipe.data
    loaded = open_model(recipe.model, device, team)
    # no more than the steps take
    wanted = train.max_steps and train.max_steps * train.batch_size * train.accumulate * team.size
    with reporter.progress("choosing training samples") as progress:
        selection = choose_samples(
            recipe,
            data.dataset,
            team,
            split=data.split or TRAINING,
            n=train.samples or wanted,
            force=True,
            distinct=False,
            progress=progress,
        )
    if train.samples and len(selection.samples) < train.samples:
        reporter.warn(f"{train.samples} training samples were asked for, there are {len(selection.samples)}")
    if train.new_head:
        known = {sample.label for sample in selection.samples} - {None}
        if not known:
            raise UsageError(f"--new-head needs labels to learn, and {data.dataset} has none")
        loaded = with_new_head(loaded, [str(label) for label in range(max(known) + 1)], seed=data.seed)
    if train.texts == "first" and loaded.family.lesson:
        read = loaded.family.lesson.fixed_texts + 1
        selection = replace(
            selection, samples=[replace(sample, texts=sample.texts[:read]) for sample in selection.samples]
        )
    return Work(recipe, loaded, selection, team)


class Work:
    """One pruning run: what is pruned, what it learns from, and in which steps. Nothing has been written yet."""

    def __init__(self, recipe: Recipe, loaded: Loaded, selection: Selection, team: Team):
        self.recipe, self.selection, self.team = recipe, selection, team
        self._take(loaded)
        self.training = _training(recipe)
        samples = selection.samples
        self.per_epoch = steps_per_epoch(self.training, len(samples), team.size)
        prune = recipe.prune
        self.schedule = Schedule(
            kind=prune.schedule,
            target=prune.sparsity,
            total_steps=total_steps(self.training, len(samples), team.size),
            initial=prune.initial,
            final=prune.final,
            mask_every=prune.mask_every,
        )
        if prune.criterion == "platon":
            refuse(schedule=prune.schedule, window=prune.window, total_steps=self.schedule.total_steps)
        self.known = None if prune.id_weight == "none" or prune.profile == AUTO else team.first(self._read_profile)
        # refuses what does not go together before anything is written
        self._pruner(self._weights(self.known) if self.known else None)

    def _take(self, loaded: Loaded) -> None:
        self.loaded, self.layers = loaded, in_scope(loaded.model, loaded.family, self.recipe.prune.scope)
        for layer in self.layers.values() if parse(self.recipe.prune.structure).grouped else ():
            if layer.module.weight.shape[1] != layer.in_features:
                raise UsageError(f"{self.recipe.prune.structure} groups inputs, which {layer.name} stores as rows")

    def signature(self) -> dict[str, Any]:
        """What a resumed run must share with the one it continues."""
        asked = {f"prune.{key}": value for key, value in self.recipe.prune.model_dump(mode="json").items()}
        skipped = ("checkpoint_every", "report_to")
        training = self.recipe.train.model_dump(mode="json").items()
        return {
            **{key: self.loaded.description[key] for key in ("fingerprint", "revision", "class")},
            "samples": self.selection.description["fingerprint"],
            "layers": hashlib.sha256("\n".join(self.layers).encode()).hexdigest(),
            **asked,
            **{f"train.{key}": value for key, value in training if key not in skipped},
            "seed": self.recipe.data.seed,
            "processes": self.team.size,
            "profile": hashlib.sha256(self.known.dumps().encode()).hexdigest() if self.known else None,
        }

    def plan(self) -> Plan:
        """What is going to happen, after a rehearsal of one step."""
        model, prune = self.loaded.model, self.recipe.prune
        alike = prune.allocation == "uniform"
        # beside the weights: a gradient and two moments, or a gradient; and the dense model
        copies = (4 if self.training.update_weights else 2) + (self.training.distill > 0)
        weights = sum(parameter.nbytes for parameter in model.parameters())
        pruned = sum(layer.in_features * layer.out_features for layer in self.layers.values())
        smoothing = {"platon": 12 if prune.smoothing_dtype == "float32" else 8}.get(prune.criterion, 0)
        seconds = rehearse(self.loaded, self.selection.samples, self.training) * self.schedule.total_steps
        return Plan(
            report=planned_report(
                model,
                self.layers,
                prunable=find_layers(model, self.loaded.family),
                asked=prune.sparsity,
                by_layer=dict.fromkeys(self.layers, prune.sparsity) if alike else None,
            ),
            schedule=self.schedule,
            steps_per_epoch=self.per_epoch,
            samples=len(self.selection.samples),
            memory=weights * copies + pruned * smoothing + pruned // 8,
            seconds=seconds,
        )

    def learn_head(self, folder: Path, opened: runs.Run | None, reporter: Reporter) -> None:
        """Train the model with its new head, dense, and go on from folder/dense; at once where that is there."""
        dense = folder / DENSE
        if not self.team.first(dense.exists):
            checkpoints = folder / "dense-checkpoints"
            if opened:
                opened.path(DENSE)
                opened.path(checkpoints.name)
            with reporter.progress("training the new head") as progress:
                once = self.recipe.prune.schedule == "one-shot"
                steps = {"epochs": EPOCHS, "max_steps": None} if once else {}
                learning = replace(self.training, update_weights=True, distill=0.0, **steps)
                train(
                    self.loaded,
                    self.selection.samples,
                    learning,
                    folder=checkpoints,
                    resume=True,
                    progress=lambda step, total, numbers: progress(step, total, f"loss {numbers['loss']:.3f}"),
                )
            self.team.first(lambda: self._keep_dense(dense))
            if opened:
                shutil.rmtree(checkpoints, ignore_errors=True)
        learnt = self.team.each(lambda: load(str(dense), dtype="float32", device=self.loaded.model.device))
        kept = ("name", "source", "revision", "stored_dtype")
        origin = {key: self.loaded.description.get(key) for key in kept}
        self._take(replace(learnt, description={**learnt.description, **origin}))

    def _keep_dense(self, dense: Path) -> None:
        fresh = dense.with_name(f".{dense.name}.0.tmp")
        with disk_errors(dense):
            with quiet():
                self.loaded.model.save_pretrained(fresh)
            self.loaded.processor.save_pretrained(fresh)
            fresh.replace(dense)

    def carry_out(
        self, plan: Plan, folder: Path, opened: runs.Run | None, reporter: Reporter, *, resume: bool
    ) -> dict[str, Any] | None:
        """Learn the head, estimate the profile, prune; the report, on the first process."""
        if opened:
            for name in (PROFILE, CHECKPOINTS):
                opened.path(name)
        if self.recipe.train.new_head:
            self.learn_head(folder, opened, reporter)
        profile = self.known
        if self.recipe.prune.id_weight != "none" and profile is None:
            profile = self._estimated(folder / PROFILE, reporter, resume=resume)
        return self.prune(profile, plan, folder, opened, reporter, resume=resume)

    def _estimated(self, folder: Path, reporter: Reporter, *, resume: bool) -> Profile:
        """The profile of the dense model, from a run of its own inside this one's folder."""
        again = resume and self.team.first(lambda: runs.read_record(folder) is not None)
        done = estimate_id.run(self._estimating(), folder=folder, reporter=reporter, resume=again)
        return self.team.first(lambda: done.profile)

    def _read_profile(self) -> Profile:
        """The profile that the recipe names. UsageError where layers of a name are not as wide."""
        name = self.recipe.prune.profile
        profile = published(name.removeprefix(PUBLISHED)) if name.startswith(PUBLISHED) else load_profile(name)
        for layer in self.layers.values():
            known = profile.layers.get(layer.name)
            if known is not None and known.width not in (layer.in_features, layer.out_features):
                raise UsageError(
                    f"the profile {name} is of another model: {layer.name} has {known.width} features there, "
                    f"{layer.out_features} here"
                )
        return profile

    def _estimating(self) -> Recipe:
        """The recipe of the profile: the layers in scope, on samples of the split that is trained on."""
        data = self.recipe.data.model_copy(update={"split": self.selection.description["split"]})
        scope = self.recipe.prune.scope
        modalities = sorted({layer.modality for layer in self.layers.values()})
        update = {"modality": modalities, "layers": None if scope in SCOPES else scope}
        if self.recipe.prune.compat == "icml24":
            update["estimator"] = "icml24"
        estimate = self.recipe.estimate.model_copy(update=update)
        model = self.recipe.model.model_copy(update={"name": self.loaded.name})
        return self.recipe.model_copy(update={"model": model, "data": data, "estimate": estimate})

    def prune(
        self,
        profile: Profile | None,
        plan: Plan,
        folder: Path,
        opened: runs.Run | None,
        reporter: Reporter,
        *,
        resume: bool,
    ) -> dict[str, Any] | None:
        """Train and prune, then save; the report, on the first process."""
        weights = self._weights(profile)
        for name, reason in weights.substituted.items():
            reporter.warn(f"{name}: {reason}")
        pruner = self._pruner(weights)
        checkpoints = folder / CHECKPOINTS
        if opened and resume:
            kept = latest(checkpoints)
            _forget(folder / "metrics.jsonl", int(kept.name.rpartition("-")[2]) if kept else 0)

        def on_step(step: int) -> None:
            update = pruner.step(step)
            if update is not None:
                agree(update.digest, f"the masks at step {step}", pruner.digests)

        def on_epoch(epoch: int) -> None:
            every = self.recipe.prune.refresh_profile
            if every and epoch % every == 0 and not self.schedule.is_final(epoch * self.per_epoch + 1):
                pruner.set_factors(self._weights(self._refreshed(pruner, opened, epoch)).factors)

        def told(numbers: dict[str, float]) -> str:
            found = self._sparsities(pruner)
            parts = (f"{name.partition('.')[2]} {share:.0%}" for name, share in found.items() if "." in name)
            return (
                f"loss {numbers['loss']:.3f}, {found['sparsity']:.1%} of {self.schedule.target:.1%}: {', '.join(parts)}"
            )

        def log(numbers: dict[str, float]) -> None:
            opened.log_metric({**numbers, **self._sparsities(pruner)})

        made = runs.provenance()
        with reporter.progress("pruning") as progress:
            start = time.perf_counter()
            outcome = train(
                self.loaded,
                self.selection.samples,
                self.training,
                folder=checkpoints,
                resume=resume,
                state={"pruner": pruner},
                on_step=on_step,
                on_epoch=on_epoch if self.recipe.prune.refresh_profile else None,
                progress=lambda step, total, numbers: progress(step, total, told(numbers)),
                log=log,
            )
            seconds = time.perf_counter() - start
        facts = {**made, **asdict(outcome), "seconds": round(seconds, 3)}
        report = self.team.first(lambda: self._save(pruner, profile, plan, opened, facts))
        if opened:
            shutil.rmtree(checkpoints, ignore_errors=True)
        return report

    def _weights(self, profile: Profile | None) -> Weights:
        prune = self.recipe.prune
        modalities = {name: layer.modality for name, layer in self.layers.items()}
        return multipliers(
            profile, modalities, mode=prune.id_weight, exponent=prune.id_exponent, missing=prune.missing_id
        )

    def _pruner(self, weights: Weights | None) -> Pruner:
        prune = self.recipe.prune
        settings = {}
        if prune.criterion == "platon":
            settings = {key: getattr(prune, key) for key in ("beta1", "beta2", "window", "smoothing_dtype")}
        modules = {name: layer.module for name, layer in self.layers.items()}
        targets = {name: module.weight for name, module in modules.items()}
        common = {"factors": weights.factors if weights else None, "schedule": self.schedule}
        if prune.compat == "icml24":
            return icml24.Icml24(
                targets,
                criterion=icml24.load(prune.criterion, **settings),
                steps_per_epoch=self.per_epoch,
                biases={name: module.bias for name, module in modules.items() if module.bias is not None},
                **common,
            )
        return Pruner(
            targets,
            criterion=criteria.load(prune.criterion, **settings),
            allocation=prune.allocation,
            structure=prune.structure,
            floor=prune.floor,
            ceiling=prune.ceiling,
            min_keep=prune.min_keep,
            monotone=prune.monotone,
            **common,
        )

    def _refreshed(self, pruner: Pruner, opened: runs.Run | None, epoch: int) -> Profile:
        """The dimensions of the model as it is now, masked."""
        asked, data = self._estimating(), self.recipe.data
        drawn = choose_samples(asked, data.dataset, self.team, split=asked.data.split, n=data.samples, force=data.force)
        wanted = asked.estimate.model_dump(exclude={"spill"})
        with pruner.masked():
            profile = estimate_id.estimate_id(
                self.loaded.model,
                drawn.samples,
                processor=self.loaded.processor,
                batch_size=asked.data.batch_size,
                seed=asked.data.seed,
                spill=asked.estimate.spill,
                **wanted,
            )
        if opened:
            profile.save(opened.path(f"profile-epoch-{epoch:04d}.json"))
        return profile

    def _sparsities(self, pruner: Pruner) -> dict[str, float]:
        """The share of zeros in scope and of each modality in it."""
        found = {"sparsity": pruner.sparsity()}
        for modality in dict.fromkeys(layer.modality for layer in self.layers.values()):
            inside = [name for name, layer in self.layers.items() if layer.modality == modality]
            size = sum(self.layers[name].module.weight.numel() for name in inside)
            found[f"sparsity.{modality}"] = sum(pruner.masks.zeros[name] for name in inside) / size
        return found

    def _save(
        self, pruner: Pruner, profile: Profile | None, plan: Plan, opened: runs.Run, facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write model/ and what belongs to it, verified; report.json comes last."""
        if refreshed := sorted(opened.folder.glob("profile-epoch-*.json")):
            profile = Profile.load(refreshed[-1])
        weights = self._weights(profile)
        report = finished_report(
            plan.report, pruner.masks, profile=profile, factors=weights.factors, substituted=weights.substituted
        )
        report["made"] = dict(facts)
        asked, model = self.recipe.model, self.loaded
        card = page(
            report,
            model=model.description,
            command=facts["command"],
            recipe=yaml.safe_dump(self.recipe.to_dict(), sort_keys=False, allow_unicode=True),
            versions=facts["versions"],
            base=base_facts(model.description, cache_dir=asked.cache_dir, local_files_only=asked.local_files_only),
        )
        for name in ("model", "masks.safetensors", "profile.json", "README.md", "report.json"):
            opened.path(name)
        stored = model.description.get("stored_dtype")
        with pruner.masked():
            verdict = save_pruned(
                opened.folder / "model",
                model.model,
                model.processor,
                masks=pruner.masks,
                profile=profile,
                report=report,
                card=card,
                structure=self.recipe.prune.structure,
                dtype=getattr(torch, stored) if stored else None,
                trust_remote_code=asked.trust_remote_code,
            )
        return {**report, "verified": asdict(verdict)}


def _training(recipe: Recipe) -> Training:
    asked = recipe.train.model_dump(exclude={"samples", "texts", "new_head", "report_to"})
    once = recipe.prune.schedule == "one-shot"
    return Training(**asked, report_to=tuple(recipe.train.report_to), seed=recipe.data.seed, update_weights=not once)


def _read_report(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{str(path)!r} is damaged ({error}): start anew with --overwrite") from error


def _forget(path: Path, step: int) -> None:
    """Drop the metrics of steps after this one: they will be made again."""
    kept = [line for line in runs.read_metrics(path) if line.get("step", 0) <= step]
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
