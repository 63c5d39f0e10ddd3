"""What a run is made of: Accelerate's session, optimizer and rate, and what cannot be trained. It runs no step."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, DistributedType
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin, LoggerType
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from idvl.errors import RunError, UsageError, first_line, quoted
from idvl.models.inputs import check as check_inputs
from idvl.training.batches import augmented_size
from idvl.training.settings import BY_EPOCH

if TYPE_CHECKING:
    from idvl.data.samples import Sample
    from idvl.models.loading import Loaded
    from idvl.training.settings import Training

REPLICATED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


@contextlib.contextmanager
def session(loaded: Loaded, training: Training, folder: Path | None) -> Iterator[Accelerator]:
    """Accelerate for one training, its trackers started and, in the end, closed; `loaded` has a training task."""
    AcceleratorState._reset_state()  # of a training before this one, in another precision maybe
    try:
        accelerator = Accelerator(
            cpu=loaded.model.device.type == "cpu",
            device_placement=False,
            mixed_precision=training.mixed_precision,
            log_with=list(training.report_to) or None,
            project_dir=folder.parent if folder else "runs",
            # the loop accumulates by itself, whatever the launcher's environment says
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=loaded.family.training_task.partial)],
        )
    except (ValueError, RuntimeError, ImportError) as error:
        raise UsageError(f"Accelerate refuses this training: {first_line(error)}") from error
    _check_launch(accelerator)
    try:
        if training.report_to:
            simple = {key: value for key, value in asdict(training).items() if isinstance(value, int | float | str)}
            accelerator.init_trackers("idvl", config=simple)
        yield accelerator
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.free_memory()


def check(loaded: Loaded, samples: Sequence[Sample], training: Training) -> None:
    """Raise UsageError, before anything runs, for a model, samples or settings that cannot be trained."""
    task, model = loaded.family.training_task, loaded.model
    kind = type(model).__name__
    if task is None:
        classes = ", ".join(name for name in loaded.family.classes if name != kind)
        hint = (
            f"; take a checkpoint of {classes}" if classes else ", only for writers of text and classifiers of images"
        )
        raise UsageError(f"{loaded.name} cannot be trained: idvl has no loss for a {kind}{hint}")
    if task.contrastive and training.accumulate > 1:
        raise UsageError(
            f"the loss of {kind} compares the pairs of one batch, so accumulating gradients would change it: use "
            f"accumulate 1 and a batch_size of {training.batch_size * training.accumulate}, or more processes"
        )
    if training.batch_size < task.least_batch:
        raise UsageError(f"the loss of {kind} needs a batch_size of at least {task.least_batch}")
    if training.gradient_checkpointing and not (task.checkpointing and model.supports_gradient_checkpointing):
        raise UsageError(f"gradient checkpointing does not work with {kind}: leave it out, or use a smaller batch_size")
    if training.label_smoothing is not None and not task.smooths:
        raise UsageError(f"label_smoothing does not work with {kind}: leave it out")
    if training.text_dropout is not None and task.text_dropout is None:
        raise UsageError(f"text_dropout is for BLIP, not for {kind}: leave it out")
    if training.augmentation:
        augmented_size(loaded)
    _check_trackers(training.report_to)
    if training.mixed_precision == "fp16" and model.device.type == "cpu":
        raise UsageError("mixed_precision fp16 needs a GPU, whose scaler keeps small gradients: use bf16 or no")
    schedule(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=training.learning_rate), training, total=2, per_epoch=1)
    _check_samples(loaded, samples)


def can_learn(loaded: Loaded, samples: Sequence[Sample]) -> bool:
    """Whether a model has a loss, and the samples all that it needs."""
    try:
        if loaded.family.training_task is not None:
            _check_samples(loaded, samples)
    except UsageError:
        return False
    return loaded.family.training_task is not None


def _check_samples(loaded: Loaded, samples: Sequence[Sample]) -> None:
    """UsageError for the first sample that a model with a training task cannot learn from."""
    check_inputs(loaded, samples)
    for sample in samples:
        if reason := loaded.family.training_task.unusable_reason(sample, loaded.model.config):
            raise UsageError(f"{loaded.name} cannot learn from sample {sample.id}: {reason}")
    left_out(loaded, samples)


def left_out(loaded: Loaded, samples: Sequence[Sample]) -> str | None:
    """How many of the samples the loss leaves out, and why the first; None where all count, or there is no loss.

    UsageError where no sample counts.
    """
    if (task := loaded.family.training_task) is None:
        return None
    reasons = [task.left_out_reason(sample, loaded.model.config) for sample in samples]
    without = [reason for reason in reasons if reason is not None]
    if without and len(without) == len(samples):
        raise UsageError(f"{loaded.name} cannot learn from any of the {len(samples):,} samples: {without[0]}")
    if not without:
        return None
    return f"{len(without):,} of {len(samples):,} samples are left out of the loss: {without[0]}"


def optimizer(weights: list[nn.Parameter], training: Training, *, fused: bool) -> torch.optim.AdamW:
    """AdamW over all weights. Not fused under fp16: the fused one silently skips steps."""
    return torch.optim.AdamW(weights, lr=training.learning_rate, weight_decay=training.weight_decay, fused=fused)


def schedule(
    optimizer: torch.optim.Optimizer, training: Training, *, total: int, per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The scheduler of that name. UsageError for an unknown one, or one that needs more settings.

    `total`, `per_epoch`: steps of the run and of an epoch.
    """
    from transformers import get_scheduler

    if training.lr_schedule == BY_EPOCH:
        epochs = -(-total // per_epoch)
        return LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * (step // per_epoch) / epochs)) / 2)
    try:
        return get_scheduler(training.lr_schedule, optimizer, round(training.warmup * total), total)
    except (ValueError, TypeError) as error:
        # transformers' list of names has some that need more settings
        reason = first_line(error) if isinstance(error, TypeError) else "there is no such scheduler"
        raise UsageError(
            f"lr_schedule {quoted(training.lr_schedule)}: {reason}; choose linear, cosine, constant, "
            "cosine_by_epoch, constant_with_warmup, polynomial, cosine_with_restarts or inverse_sqrt"
        ) from error


@contextlib.contextmanager
def text_dropout(loaded: Loaded, rate: float | None) -> Iterator[None]:
    """Inside, the text stack's dropout has this rate in training mode; None is the model's own."""
    pattern = None if rate is None else loaded.family.training_task.text_dropout
    modules = [] if pattern is None else [m for name, m in loaded.model.named_modules() if re.search(pattern, name)]
    own = {module: module.p for module in modules if isinstance(module, nn.Dropout)}
    try:
        for module in own:
            module.p = rate
        yield
    finally:
        for module, value in own.items():
            module.p = value


def checkpoint_blocks(model: nn.Module, on: bool) -> None:
    """Have the backward pass compute each block again, instead of keeping what is within it; or no longer."""
    verb = "enable" if on else "disable"
    # the name until transformers 5.2x
    old = f"gradient_checkpointing_{verb}"
    getattr(model, f"activation_checkpointing_{verb}", getattr(model, old))()


@contextlib.contextmanager
def fitting(training: Training, contrastive: bool) -> Iterator[None]:
    """RunError, with half the batch size as the way out, where a GPU's memory gets full inside."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(too_large(training, contrastive, training.batch_size // 2)) from error


def too_large(training: Training, contrastive: bool, fits: int) -> str:
    """What to say when a GPU's memory is full, and batches of `fits` samples are smaller (0: there are none)."""
    cause = f"the GPU's memory is full with a batch_size of {training.batch_size}: "
    less = "mixed_precision bf16" if training.gradient_checkpointing else "gradient_checkpointing"
    if not fits:
        return f"{cause}no smaller one helps; use {less}, or a smaller model"
    parts = training.accumulate * -(-training.batch_size // fits)
    more = "" if contrastive else f" and accumulate {parts} for the same steps"
    return f"{cause}use batch_size {fits}{more}, or {less}"


def _check_trackers(names: Sequence[str]) -> None:
    trackers = [str(name) for name in LoggerType if name != LoggerType.ALL]
    for name in names:
        if name not in trackers:
            raise UsageError(f"no tracker {quoted(name)}; choose {', '.join(trackers)}")
        if name not in [str(tracker) for tracker in get_available_trackers()]:
            raise UsageError(f"report_to {name}: its package is not installed; pip install {name}, or leave it out")


def _check_launch(accelerator: Accelerator) -> None:
    if accelerator.distributed_type not in REPLICATED or os.environ.get("ACCELERATE_USE_FSDP", "") == "true":
        raise UsageError(
            "idvl trains whole copies of the model on each process (DDP); FSDP, DeepSpeed and the like do not work yet"
        )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise UsageError(
            f"{launched} processes were launched, but Accelerate sees {accelerator.num_processes}: on CPUs set "
            "ACCELERATE_USE_CPU=true, or unset WORLD_SIZE for one process"
        )
