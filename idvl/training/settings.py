"""The settings of a training run, and the number of its steps. It knows neither models nor samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from idvl.errors import UsageError, quoted

# they need a number that this loop does not feed back into the rate
WITHOUT_METRIC = ("reduce_lr_on_plateau", "greedy")

BY_EPOCH = "cosine_by_epoch"


@dataclass(frozen=True, kw_only=True)
class Training:
    """The settings of `train`; the recipe has checked their ranges. UsageError for schedulers that cannot be used.

    `batch_size` is a process's; a step learns from batch_size x accumulate x processes samples. `max_steps` replaces
    `epochs`. `warmup` is a fraction of all steps, `lr_schedule` a name of transformers' schedulers or cosine_by_epoch,
    a cosine that falls once an epoch, as in BLIP's code (utils.py). `augmentation` of images is none where it is None;
    `label_smoothing` and the `text_dropout` of the text stack are then the checkpoint's own. `clip` is the largest norm
    of the gradient (None: unclipped). AdamW decays every trainable weight alike, biases and norms too, as the code of
    the ICML 2024 paper does. `distill` weighs KL(dense model || model), added to the loss, at a `temperature`; `compat`
    is that of `LossModule`.
    `update_weights=False` computes gradients for the hook, and leaves the weights alone; `skip_last` does so in the
    last step of each epoch, as that code does. `workers` processes prepare samples (None: none on a CPU, 4 a GPU).
    `checkpoint_every`, `evaluate_every` and `log_every` count steps.
    """

    epochs: int = 5
    max_steps: int | None = None
    batch_size: int = 20
    accumulate: int = 1
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    lr_schedule: str = "cosine"
    warmup: float = 0.0
    augmentation: Literal["blip"] | None = None
    label_smoothing: float | None = None
    text_dropout: float | None = None
    clip: float | None = None
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    gradient_checkpointing: bool = False
    distill: float = 0.0
    temperature: float = 1.0
    compat: Literal["none", "ressa"] = "none"
    checkpoint_every: int | None = 500
    evaluate_every: int | None = None
    log_every: int = 10
    update_weights: bool = True
    skip_last: bool = False
    workers: int | None = None
    seed: int = 0
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.lr_schedule in WITHOUT_METRIC:
            raise UsageError(
                f"lr_schedule {quoted(self.lr_schedule)} follows a metric, which training does not measure"
            )
        if self.lr_schedule == "constant" and self.warmup:
            raise UsageError("lr_schedule 'constant' has no warmup: use 'constant_with_warmup', or warmup 0")
        if self.lr_schedule == BY_EPOCH and self.warmup:
            raise UsageError(f"lr_schedule {BY_EPOCH!r} has no warmup: use 'cosine', or warmup 0")


def global_batch(training: Training, processes: int) -> int:
    """Samples that one step learns from."""
    return training.batch_size * training.accumulate * processes


def steps_per_epoch(training: Training, samples: int, processes: int = 1) -> int:
    """Whole steps in one pass over the samples; the rest is dropped. UsageError if there is not even one."""
    size = global_batch(training, processes)
    if samples < size:
        parts = f"batch_size {training.batch_size} x accumulate {training.accumulate} x {processes} processes"
        fits = samples // (training.accumulate * processes)
        way_out = f"a batch_size of at most {fits}" if fits else "fewer processes or less accumulation"
        raise UsageError(f"{samples} samples are fewer than one step learns from ({size}: {parts}); use {way_out}")
    return samples // size


def total_steps(training: Training, samples: int, processes: int = 1) -> int:
    """Optimizer steps of the whole run (with `update_weights=False`, gradients)."""
    each = steps_per_epoch(training, samples, processes)
    return training.epochs * each if training.max_steps is None else training.max_steps
