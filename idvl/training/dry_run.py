"""One step tried before the run: how long it takes, and whether it fits into memory.

It leaves weights, buffers, gradients, modes and random numbers as they were.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from idvl.data.samples import Sample
from idvl.errors import RunError
from idvl.models.loading import Loaded
from idvl.training import accelerator, checkpoint
from idvl.training.batches import Collate, Reading, augmented_size
from idvl.training.loss_module import LossModule
from idvl.training.settings import Training


def rehearse(loaded: Loaded, samples: Sequence[Sample], training: Training, *, beside: int = 0) -> float:
    """Seconds of one step on this machine, as far as forward, backward and preparing the batch go.

    `beside`: bytes that training holds on a GPU beside weights, gradients and the batch; they are taken meanwhile.
    Raises the UsageError with which `train` would refuse this model, these samples or settings, and RunError, with a
    batch size that fits, where the batch does not fit into a GPU's memory.
    """
    accelerator.check(loaded, samples, training)
    model, task, size = loaded.model, loaded.family.training_task, training.batch_size
    # the dense model's pass takes as long as the model's own
    module = LossModule(
        model,
        task,
        teacher=(lambda: contextlib.nullcontext(model)) if training.distill else None,
        distill=training.distill,
    )
    seconds = None
    with no_trace(model):
        model.train()
        if training.gradient_checkpointing:
            accelerator.checkpoint_blocks(model, True)
        try:
            while seconds is None and size >= task.least_batch:
                try:
                    seconds = _timed(module, loaded, samples[:size], training, beside)
                except torch.OutOfMemoryError:
                    size //= 2
                finally:
                    model.zero_grad()
        finally:
            if training.gradient_checkpointing:
                accelerator.checkpoint_blocks(model, False)
    if size < training.batch_size:
        raise RunError(accelerator.too_large(training, task.contrastive, 0 if seconds is None else size))
    return seconds * training.accumulate


@contextlib.contextmanager
def no_trace(model: nn.Module) -> Iterator[None]:
    """Restore the model's buffers, modes and gradients and all random numbers. Inside, it has no gradients."""
    random = checkpoint.random_state()
    modules = [(module, module.training, dict(module.named_buffers(recurse=False))) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = [(weight, weight.grad) for weight in model.parameters()]
    model.zero_grad()
    try:
        yield
    finally:
        for module, mode, own in modules:
            module.training = mode
            module._buffers.update(own)  # some are replaced, not written
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for weight, gradient in gradients:
            weight.grad = gradient
        checkpoint.set_random_state(random)


def _timed(module: LossModule, loaded: Loaded, samples: Sequence[Sample], training: Training, beside: int) -> float:
    """Seconds of one batch, forward and backward."""
    model = loaded.model
    on_gpu = model.device.type == "cuda"
    collate = Collate(loaded.family, loaded.processor, model.config)
    size = augmented_size(loaded) if training.augmentation else None
    reading = Reading(samples, training.seed, size)
    reserve = torch.empty(beside if on_gpu else 0, dtype=torch.uint8, device=model.device)
    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        batch = collate([reading[0, index] for index in range(len(samples))])
        with _precision(training, model.device):
            total = module({key: value.to(model.device) for key, value in batch.items()})
        total.backward()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        model.zero_grad()
    del reserve
    return seconds


def _precision(training: Training, device: torch.device) -> contextlib.AbstractContextManager:
    if training.mixed_precision == "no":
        return contextlib.nullcontext()
    return torch.autocast(device.type, {"fp16": torch.float16, "bf16": torch.bfloat16}[training.mixed_precision])
