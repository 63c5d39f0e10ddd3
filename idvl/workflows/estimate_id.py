"""Estimate the intrinsic dimension of every layer of a model on a dataset, and leave a run folder behind.

recipe -> model, samples -> measurement -> metrics.jsonl, profile.json, profile.png. It does not know how a terminal
looks: what it has to say goes to the reporter it is given.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
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
from idvl.recipe import Recipe
from idvl.reporting.plot import plot
from idvl.workflows.launch import free_memory, join_team
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
    """What a run ends with. `profile` and `folder` are None after a plan alone, and beside the first process."""

    plan: Plan
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
    other = [(str(compare), load_profile(compare))] if compare else []
    dataset = recipe.data.dataset or dataset_of(recipe.model.name)
    if folder:
        runs.check(folder, resume=resume, overwrite=overwrite)
    device, team = join_team(recipe.model.device)
    loaded, selection, layers = _gather(recipe, dataset, device, team, reporter)
    settings = _settings(recipe)
    signature = _signature(loaded, selection, layers, settings)
    folder = team.first(lambda: folder or runs.default_folder("estimate-id", recipe.model.name, dataset))
    done = team.first(lambda: _done(folder, signature, layers) if resume else {})
    with reporter.progress("preparing") as progress:
        work = Measurement(
            loaded,
            selection.samples,
            layers,
            settings,
            memory=recipe.estimate.memory_bytes or free_memory(device, team) // 4,
            spill=recipe.estimate.spill,
            team=team,
            done=done,
            progress=progress,
        )
    if plan_only:
        return Result(plan=work.plan)
    for line in work.plan.lines():
        reporter.note(line)
    resolved = recipe.model_copy(update={"data": recipe.data.model_copy(update={"dataset": dataset})})
    options = {"recipe": resolved.to_dict(), "signature": signature, "resume": resume, "overwrite": overwrite}
    with ExitStack() as held:
        opened: list[runs.Run] = []
        team.first(lambda: opened.append(held.enter_context(runs.Run.open(folder, **options))))
        start = time.perf_counter()
        if not opened:
            for _ in work.estimates():
                pass
            return Result(plan=work.plan)
        measured = done | _measured(work, opened[0], reporter)
        facts = _facts(work, time.perf_counter() - start)
        profile = _profile(measured, loaded, selection, settings, {**runs.provenance(), **facts})
        backends = Counter(
            layer.estimate.diagnostics.get("neighbors", {}).get("backend") for layer in measured.values()
        )
        reporter.note(f"neighbours by {', '.join(f'{name} in {n} layers' for name, n in backends.items() if name)}")
        profile.save(opened[0].path("profile.json"))
        plot([(recipe.model.name, profile), *other], opened[0].path("profile.png"))
    _judge(measured, reporter)
    return Result(plan=work.plan, profile=profile, folder=folder)


def estimate_id(
    model: str | nn.Module,
    samples: str | Sequence[Sample],
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
    memory: int | None = None,
    spill: str | Path | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Profile:
    """The intrinsic dimension of every layer of `model` on `samples`; nothing is written.

    `model`: a Hub id, a folder, a built-in name, or a transformers model, which then needs its `processor` (a model
    keeps its device). `samples`: a dataset's name or path, of which `n` are drawn from `split`, or a list of Sample.
    `memory`: bytes held beside the model, a quarter of what is free by default. Raises UsageError and RunError with
    one line each.
    """
    device, team = join_team(device)
    if not isinstance(model, str) and (processor is None or not hasattr(model, "config")):
        raise UsageError("a model in memory must be a transformers model and come with its processor=")
    # measured in eval mode, and put back
    modes = [] if isinstance(model, str) else [(module, module.training) for module in model.modules()]
    loaded = load(model, device=device) if isinstance(model, str) else wrap(model, processor)
    if isinstance(samples, str):
        selection = select(samples, split=split, n=n, seed=seed)
    else:
        samples = list(samples)
        if not all(isinstance(sample, Sample) for sample in samples):
            raise UsageError(
                "samples must be a dataset's name or path, or a list of idvl.Sample(id=, source=, texts=(...,))"
            )
        selection = Selection(samples=samples, description={"dataset": None, "ids": [sample.id for sample in samples]})
    settings = Settings(tokens=tokens, capture=capture, estimator=estimator, knn=knn, batch_size=batch_size, seed=seed)
    chosen = find_layers(loaded.model, loaded.family, pattern=layers, modality=modality)
    work = Measurement(
        loaded,
        selection.samples,
        chosen,
        settings,
        memory=memory or free_memory(loaded.model.device, team) // 4,
        spill=Path(spill) if spill else None,
        team=team,
    )
    start = time.perf_counter()
    measured = dict(work.estimates(progress))
    for module, training in modes:
        module.training = training
    facts = _facts(work, time.perf_counter() - start)
    return _profile(measured, loaded, selection, settings, {**runs.provenance(), **facts})


def _gather(
    recipe: Recipe, dataset: str, device: torch.device, team: Team, reporter: Reporter
) -> tuple[Loaded, Selection, dict[str, Layer]]:
    """Model, samples and layers of a recipe. The first process chooses the samples for all."""
    asked, data = recipe.model, recipe.data
    loaded = load(
        asked.name,
        revision=asked.revision,
        dtype=asked.dtype,
        device=device,
        trust_remote_code=asked.trust_remote_code,
        cache_dir=asked.cache_dir,
        local_files_only=asked.local_files_only,
    )
    layers = find_layers(loaded.model, loaded.family, pattern=recipe.estimate.layers, modality=recipe.estimate.modality)
    with reporter.progress("choosing samples") as progress:
        selection = team.first(
            lambda: select(
                dataset,
                split=data.split,
                n=data.samples,
                seed=data.seed,
                data_dir=data.data_dir,
                dataset_id=data.dataset_id,
                image_column=data.image_column,
                text_column=data.text_column,
                cache_dir=asked.cache_dir,
                force=data.force,
                progress=progress,
            )
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
    """What a resumed run must share with the one it continues."""
    return {
        **{key: loaded.description[key] for key in ("fingerprint", "revision", "class", "dtype")},
        "samples": selection.description["fingerprint"],
        "layers": hashlib.sha256("\n".join(layers).encode()).hexdigest(),
        **asdict(settings),
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


def _measured(work: Measurement, opened: runs.Run, reporter: Reporter) -> dict[str, LayerProfile]:
    """Measure what is left, each layer written down as soon as it is known."""
    measured = {}
    try:
        with reporter.progress("measuring layers") as progress:
            for name, layer in work.estimates(progress):
                opened.log_metric({"layer": name, "profile": asdict(layer)})
                measured[name] = layer
    except KeyboardInterrupt:
        reporter.warn(f"stopped: the same command with --output {opened.folder} --resume goes on where this ends")
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


def _profile(
    measured: Mapping[str, LayerProfile],
    loaded: Loaded,
    selection: Selection,
    settings: Settings,
    provenance: dict[str, Any],
) -> Profile:
    return Profile(
        layers=dict(sorted(measured.items(), key=lambda item: item[1].depth)),
        model=loaded.description,
        dataset=selection.description,
        protocol={**asdict(settings), "n_samples": len(selection.samples)},
        provenance=provenance,
    )
