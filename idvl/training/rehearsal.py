"""One step tried before the run: how long it takes. It leaves weights, gradients and random numbers as they were."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import torch

from idvl.data.samples import Sample
from idvl.models.loading import Loaded
from idvl.training import accelerating, checkpoint
from idvl.training.batches import Collate
from idvl.training.learner import Learner
from idvl.training.settings import Training


def rehearse(loaded: Loaded, samples: Sequence[Sample], training: Training) -> float:
    """Seconds of one step on this machine, as far as forward, backward and preparing the batch go.

    Raises the UsageError with which `train` would refuse this model, these samples or settings, and RunError where the
    batch does not fit into a GPU's memory.
    """
    accelerating.check(loaded, samples, training)
    model, lesson = loaded.model, loaded.family.lesson
    collate = Collate(loaded.family, loaded.processor, model.config)
    # the dense model's pass takes as long as the model's own
    learner = Learner(model, lesson, teacher=model if training.distill else None, distill=training.distill)
    random = checkpoint.random_state()
    seconds = 0.0
    model.train()
    if training.gradient_checkpointing:
        accelerating.checkpoint_blocks(model, True)
    try:
        with accelerating.fitting(training, lesson.contrastive):
            for _ in range(2):  # the first one warms up
                start = time.perf_counter()
                batch = collate(list(samples[: training.batch_size]))
                with _precision(training, model.device):
                    total = learner({key: value.to(model.device) for key, value in batch.items()})
                total.backward()
                if model.device.type == "cuda":
                    torch.cuda.synchronize()
                seconds = time.perf_counter() - start
                model.zero_grad()
    finally:
        if training.gradient_checkpointing:
            accelerating.checkpoint_blocks(model, False)
        model.eval()
        checkpoint.set_random_state(random)
    return seconds * training.accumulate


def _precision(training: Training, device: torch.device) -> contextlib.AbstractContextManager:
    if training.mixed_precision == "no":
        return contextlib.nullcontext()
    return torch.autocast(device.type, {"fp16": torch.float16, "bf16": torch.bfloat16}[training.mixed_precision])
