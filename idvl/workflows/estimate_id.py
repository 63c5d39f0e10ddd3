"""Estimate the intrinsic dimension of every layer of a model on a dataset, and leave a run folder behind.

recipe -> model, samples -> measurement -> metrics.jsonl, profile.json, profile.png. It does not know how a terminal
looks: what it has to say goes to the reporter it is given.
"""

from __future__ import annotations

import hashlib
import resource
import shlex
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from idvl import runs
from idvl.builtin import dataset_of
from idvl.data.samples import Sample, Selection, select
from idvl.errors import RunError, UsageError
from idvl.models.layers import Layer, find_layers
from idvl.models.loading import Loaded, load, wrap
from idvl.models.plan import Plan
from idvl.models.team import Team
from idvl.profile import Capture, EstimatorName, Knn, LayerProfile, Modality, Profile, Tokens, load_profile
from idvl.recipe import ESTIMATING, Recipe, parse_bytes
from idvl.reporting.plot import plot
from idvl.workflows.asked import choose_samples, open_model
from idvl.workflows.launch import join_team
from idvl.workflows.measure import Measurement, Progress, Settings


class Reporter(Protocol):
    """Where a run tells its progress."""

    def note(self, text: str) -> None:
        """Something good to know."""

    def warn(self, text: str) -> None:
        """Something the user should look at."""

    def progress(self, label: str) -> AbstractContextManager[Progress]:
        """A bar for as long as the context lasts; it takes (done, total)."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run ends with: `profile` and `folder` after a measurement (beside the first process neither).

    `plan` is None where everything had been measured before.
    """

    plan: Plan | None
    profile: Profile | None = None
    folder: Path | None = None


def run(
    recipe: Recipe,
    *,
    folder: Path | None,
    reporter: Reporter,
    resume: bool = False,
    overwrite: bool = False,
    plan_only: bool = False,
    compare: Path | None = None,
) -> Result:
    """Carry out a recipe. `folder` None: a new one under runs/. `compare`: a profile to draw beside the new one.

    Raises UsageError, before anything is written, for what cannot be carried out.
    """
    others = [(str(compare), load_profile(compare))] if compare else []
    dataset = recipe.data.dataset or dataset_of(recipe.model.name)
    settings = _settings(recipe)
    named = "estimate-id", recipe.model.name, dataset
    runs.check(folder or runs.default_folder(*named), resume=resume, overwrite=overwrite)
    device, team = join_team(recipe.model.device)
    loaded, selection, layers = _gather(recipe, dataset, device, team, reporter)
    signature = _signature(loaded, selection, layers, settings)
    resolved = recipe.model_copy(update={"data": recipe.data.model_copy(update={"dataset": dataset})})
    options = {
        "recipe": resolved.to_dict(*ESTIMATING),
        "signature": signature,
        "resume": resume,
        "overwrite": overwrite,
    }
    done = team.first(lambda: _done(folder, signature, layers) if folder and resume else {})
    if done.keys() == layers.keys() and not plan_only:
        finished = team.first(lambda: _finished(folder, options, loaded.name, others))
        if finished:
            reporter.note("everything is measured already")
            _judge(finished.layers, reporter)
            return Result(plan=None, profile=finished, folder=folder)
    with reporter.progress("preparing") as progress:
        work = Measurement(
            loaded,
            selection.samples,
            layers,
            settings,
            memory=recipe.estimate.memory_bytes,
            spill=recipe.estimate.spill,
            team=team,
            done=done,
            progress=progress,
        )
    if plan_only:
        return Result(plan=work.plan)
    for line in work.plan.lines():
        reporter.note(line)
    with ExitStack() as held:
        opened: list[runs.Run] = []
        team.first(
            lambda: opened.append(held.enter_context(runs.Run.open(folder or runs.new_folder(*named), **options)))
        )
        if not opened:
            for _ in work.estimates():
                pass
            return Result(plan=work.plan)
        profile = _recorded(work, selection, opened[0], done, reporter)
        plot([(loaded.name, profile), *others], opened[0].path("profile.png"))
    _judge(profile.layers, reporter)
    return Result(plan=work.plan, profile=profile, folder=opened[0].folder)


def estimate_id(
    model: str | Path | nn.Module,
    samples: str | Path | Sequence[Sample],
    *,
    processor: Any = None,
    n: int | None = None,
    split: str | None = None,
    tokens: Tokens = "flatten",
    capture: Capture = "output",
    estimator: EstimatorName = "twonn",
    layers: str | None = None,
    modality: Sequence[Modality] | None = None,
    knn: Knn = "auto",
    batch_size: int = 16,
    memory: int | str | None = None,
    spill: str | Path | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Profile:
    """The intrinsic dimension of every layer of `model` on `samples`; nothing is written.

    `model`: a Hub id, a folder, a built-in name, or a transformers model, which then needs its `processor` (a model
    keeps its device). `samples`: a dataset's name or path, of which `n` are drawn from `split`, or a list of Sample.
    `memory`: what is held beside the model, as in 2**33 or "8GiB", a quarter of what is free by default. Calls from
    several threads take turns. Raises UsageError and RunError with one line each.
    """
    settings = Settings(tokens=tokens, capture=capture, estimator=estimator, knn=knn, batch_size=batch_size, seed=seed)
    budget = _budget(memory)
    with _turn, _put_back(model):
        place, team = join_team(device)
        loaded = _loaded(model, processor, place)
        selection = _selection(samples, split=split, n=n, seed=seed)
        chosen = find_layers(loaded.model, loaded.family, pattern=layers, modality=modality)
        spill = Path(spill) if spill else None
        work = Measurement(loaded, selection.samples, chosen, settings, memory=budget, spill=spill, team=team)
        start = time.perf_counter()
        measured = dict(work.estimates(progress))
        return _profile(measured, work, selection, time.perf_counter() - start)


# forwards are suspended and precision is set for the whole process
_turn = threading.Lock()


@contextmanager
def _put_back(model: Any) -> Iterator[None]:
    """Leave a model in memory in training or eval mode as it was; it is measured in eval mode."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _budget(memory: int | str | None) -> int | None:
    try:
        return None if memory is None else parse_bytes(memory)
    except ValueError as error:
        raise UsageError(f"memory takes {error}") from error


def _loaded(model: str | Path | nn.Module, processor: Any, device: torch.device) -> Loaded:
    if isinstance(model, str | Path):
        return load(str(model), device=device)
    if processor is None or not hasattr(model, "config"):
        raise UsageError("a model in memory must be a transformers model and come with its processor=")
    return wrap(model, processor)


def _selection(samples: str | Path | Sequence[Sample], *, split: str | None, n: int | None, seed: int) -> Selection:
    if isinstance(samples, str | Path):
        return select(str(samples), split=split, n=n, seed=seed)
    if n is not None or split is not None:
        raise UsageError("n= and split= choose from a dataset's name or path; of a list of samples all are taken")
    samples = list(samples)
    if not all(isinstance(sample, Sample) for sample in samples):
        raise UsageError(
            "samples must be a dataset's name or path, or a list of idvl.Sample(id=, source=, texts=(...,))"
        )
    return Selection(samples=samples, description={"dataset": None, "ids": [sample.id for sample in samples]})


def _gather(
    recipe: Recipe, dataset: str, device: torch.device, team: Team, reporter: Reporter
) -> tuple[Loaded, Selection, dict[str, Layer]]:
    """Model, samples and layers of a recipe. The first process chooses the samples for all."""
    data = recipe.data
    loaded = open_model(recipe.model, device, team)
    layers = find_layers(loaded.model, loaded.family, pattern=recipe.estimate.layers, modality=recipe.estimate.modality)
    with reporter.progress("choosing samples") as progress:
        selection = choose_samples(
            recipe, dataset, team, split=data.split, n=data.samples, force=data.force, progress=progress
        )
    return loaded, selection, layers


def _settings(recipe: Recipe) -> Settings:
    wanted = recipe.estimate
    return Settings(
        tokens=wanted.tokens,
        capture=wanted.capture,
        estimator=wanted.estimator,
        knn=wanted.knn,
        batch_size=recipe.data.batch_size,
        seed=recipe.data.seed,
    )


def _signature(loaded: Loaded, selection: Selection, layers: Mapping[str, Layer], settings: Settings) -> dict[str, Any]:
    """What a resumed run must share with the one it continues: all that its numbers depend on."""
    return {
        **{key: loaded.description[key] for key in ("fingerprint", "revision", "class", "dtype")},
        "samples": selection.description["fingerprint"],
        "layers": hashlib.sha256("\n".join(layers).encode()).hexdigest(),
        **{key: value for key, value in asdict(settings).items() if key not in ("batch_size", "knn")},
    }


def _done(folder: Path, signature: dict[str, Any], layers: Mapping[str, Layer]) -> dict[str, LayerProfile]:
    """The layers that the run in `folder` has measured, none where there is no run yet."""
    record = runs.read_record(folder)
    if record:
        runs.refuse_difference(folder, record["signature"], signature)
    done = {}
    for line in runs.read_metrics(folder / "metrics.jsonl"):
        if not isinstance(line, dict) or line.get("layer") not in layers:
            raise RunError(f"metrics.jsonl of {str(folder)!r} holds a line that is not this run's: use --overwrite")
        done[line["layer"]] = LayerProfile.from_json(line.get("profile"), line["layer"])
    return done


def _finished(
    folder: Path, options: Mapping[str, Any], name: str, others: Sequence[tuple[str, Profile]]
) -> Profile | None:
    """The profile of a run that has measured everything, None if it was not written; drawn anew beside `others`."""
    try:
        profile = load_profile(folder / "profile.json")
    except UsageError:
        return None
    if others:
        with runs.Run.open(folder, **options) as opened:
            plot([(name, profile), *others], opened.path("profile.png"))
    return profile


def _recorded(
    work: Measurement, selection: Selection, opened: runs.Run, done: dict[str, LayerProfile], reporter: Reporter
) -> Profile:
    """Measure what is left, and write the profile."""
    start = time.perf_counter()
    measured = done | _measured(work, opened, reporter)
    profile = _profile(measured, work, selection, time.perf_counter() - start)
    backends = Counter(layer.estimate.diagnostics.get("neighbors", {}).get("backend") for layer in measured.values())
    reporter.note(f"neighbours by {', '.join(f'{name} in {n} layers' for name, n in backends.items() if name)}")
    profile.save(opened.path("profile.json"))
    return profile


def _measured(work: Measurement, opened: runs.Run, reporter: Reporter) -> dict[str, LayerProfile]:
    """Measure what is left, each layer written down as soon as it is known."""
    measured = {}
    try:
        with reporter.progress("measuring layers") as progress:
            for name, layer in work.estimates(progress):
                opened.log_metric({"layer": name, "profile": asdict(layer)})
                measured[name] = layer
    except KeyboardInterrupt:
        place = shlex.quote(str(opened.folder))
        reporter.warn(f"stopped: the same command with --output {place} --resume goes on where this ends")
        raise
    return measured


def _judge(measured: Mapping[str, LayerProfile], reporter: Reporter) -> None:
    """Warn of layers without a number. Raises RunError where none has one."""
    without = {name: layer.estimate.reason for name, layer in measured.items() if layer.estimate.dimension is None}
    if not without:
        return
    name, reason = next(iter(without.items()))
    told = f"{len(without)} of {len(measured)} layers have no estimate, the first is {name}: {reason}"
    if len(without) == len(measured):
        raise RunError(told)
    reporter.warn(told)


def _facts(work: Measurement, seconds: float) -> dict[str, Any]:
    """How the measurement went."""
    on_gpu = work.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(work.device) if on_gpu else _peak_resident()
    return {
        "device": torch.cuda.get_device_name(work.device) if on_gpu else "cpu",
        "processes": work.team.size,
        "seconds": round(seconds, 3),
        "planned_seconds": round(work.plan.seconds, 3),
        "forward_passes": round(work.plan.forwards, 3),
        "memory_budget": work.plan.budget,
        "peak_memory": peak,
    }


def _peak_resident() -> int:
    """The most memory this process has held, in bytes (Linux counts in KiB, macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _profile(measured: Mapping[str, LayerProfile], work: Measurement, selection: Selection, seconds: float) -> Profile:
    return Profile(
        layers=dict(sorted(measured.items(), key=lambda item: item[1].depth)),
        model=work.loaded.description,
        dataset=selection.description,
        protocol={**asdict(work.settings), "n_samples": len(selection.samples)},
        provenance={**runs.provenance(), **_facts(work, seconds)},
    )
