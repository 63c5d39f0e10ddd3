"""idvl.estimate_id: the profile of a model from Python, with nothing written."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from idvl import recipe as recipes
from idvl import runs
from idvl.arguments import whole_number
from idvl.data.samples import Sample, Selection, select
from idvl.data.selector import Distinct
from idvl.device import cost_since
from idvl.distributed import join_team
from idvl.errors import UsageError
from idvl.measurement.measurement import Measurement
from idvl.measurement.settings import settings_of
from idvl.models.layers import find_layers, read_text
from idvl.models.loading import Loaded, load, wrap
from idvl.profile import Capture, EstimatorName, Knn, Modality, Profile, Tokens
from idvl.recipe import ModelSection
from idvl.reporter import Progress


def estimate_id(
    model: str | Path | nn.Module,
    samples: str | Path | Sequence[Sample],
    *,
    processor: Any = None,
    revision: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    chat_template: bool = True,
    clean_texts: bool = True,
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
    offload: bool = False,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Profile:
    """The intrinsic dimension of every layer of `model` on `samples`; nothing is written.

    `model`: a Hub id, a folder, a built-in name, or a transformers model, which then needs its `processor` (a model
    keeps its device). `revision`, `dtype`, `trust_remote_code`, `cache_dir` and `local_files_only` say how a Hub id or
    folder is loaded, as for `idvl estimate-id`, and `cache_dir` where a dataset of the Hub is kept. `chat_template`
    puts texts about images into its chat template, if it has one; `clean_texts` cleans texts as BLIP's training does,
    for BLIP. `samples`: a dataset's name or path, of which `n` with distinct images are drawn from `split`, and with
    distinct first texts if any measured layer reads text; or a list of Sample, all of which are measured.
    `memory`: what is held beside the model, as in 2**33 or "8GiB", a quarter of what is free by default. `offload`
    leaves the weights of a Hub id or folder in their files, and reads those of one block at a time. Calls from several
    threads take turns. Raises UsageError and RunError with one line each.
    """
    values = {"tokens": tokens, "capture": capture, "estimator": estimator, "knn": knn, "layers": layers}
    values |= {"modality": modality, "memory": memory, "spill": spill, "offload": offload}
    reading = {"chat_template": chat_template, "clean_texts": clean_texts}
    files = {"revision": revision, "dtype": dtype, "trust_remote_code": trust_remote_code}
    files |= {"cache_dir": cache_dir, "local_files_only": local_files_only}
    recipe = recipes.load(
        None,
        {"model.name": "model", "data.batch_size": batch_size, "data.seed": seed}
        | {f"model.{name}": value for name, value in (reading | files).items()}
        | {f"estimate.{name}": value for name, value in values.items()},
    )
    settings, budget, spill = settings_of(recipe), recipe.estimate.memory_bytes, recipe.estimate.spill
    with _turn, _put_back(model):
        same = {"n": n, "split": split, "layers": layers, "modality": modality, **reading}
        same |= {"revision": revision, "dtype": dtype}
        target, team = join_team(device, settings=asdict(settings), **same)
        loaded = _loaded(model, processor, target, recipe.model, offload=offload)
        selected = find_layers(loaded.model, loaded.family, pattern=layers, modality=modality)
        drawn = {"split": split, "n": n, "distinct": read_text(selected, loaded.family) or "images"}
        selection = _selection(samples, **drawn, seed=seed, cache_dir=recipe.model.cache_dir)
        work = Measurement(loaded, selection.samples, selected, settings, memory=budget, spill=spill, team=team)
        start = time.perf_counter()
        measured = dict(work.estimates(progress))
        return work.profile(measured, selection, runs.total_cost(cost_since(start, work.device)))


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


def _loaded(
    model: str | Path | nn.Module, processor: Any, device: torch.device, section: ModelSection, *, offload: bool
) -> Loaded:
    options = section.model_dump(exclude={"name", "device"})
    if isinstance(model, str | Path):
        return load(str(model), device=device, offload=offload, **options)
    if offload:
        raise UsageError("offload reads weights from files, and this model is in memory: pass its folder or Hub id")
    if processor is None or not hasattr(getattr(model, "config", None), "get_text_config"):
        raise UsageError("a model in memory must be a transformers model and come with its processor=")
    reading = {name: options.pop(name) for name in ("chat_template", "clean_texts")}
    # which is the dataset's too
    del options["cache_dir"]
    if given := [name for name, value in options.items() if value != ModelSection.model_fields[name].default]:
        raise UsageError(f"{given[0]} says how a folder or Hub id is loaded, and this model is in memory: leave it out")
    return wrap(model, processor, **reading)


def _selection(
    samples: str | Path | Sequence[Sample],
    *,
    split: str | None,
    n: int | None,
    distinct: Distinct,
    seed: int,
    cache_dir: Path | None,
) -> Selection:
    if isinstance(samples, str | Path):
        n = None if n is None else whole_number("n", n, least=1)
        return select(str(samples), split=split, n=n, distinct=distinct, seed=seed, cache_dir=cache_dir)
    if n is not None or split is not None:
        raise UsageError("n= and split= choose from a dataset's name or path; of a list of samples all are taken")
    samples = list(samples) if isinstance(samples, Iterable) else [samples]
    if not all(isinstance(sample, Sample) for sample in samples):
        raise UsageError(
            "samples must be a dataset's name or path, or a list of idvl.Sample(id=, source=, texts=(...,))"
        )
    return Selection(samples=samples, description={"dataset": None, "ids": [sample.id for sample in samples]})
