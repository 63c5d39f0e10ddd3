"""The training loop: steps, hooks, checkpoints. It knows neither recipes nor what its hooks do."""

from __future__ import annotations

import contextlib
import logging
import operator
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from idvl import runs
from idvl.data.samples import Sample
from idvl.device import cost_since
from idvl.errors import RunError, UsageError, quoted
from idvl.models.loading import Loaded
from idvl.training import accelerator as setup
from idvl.training import batches, checkpoint, ranks
from idvl.training.checkpoint import Stateful
from idvl.training.hooks import Hooks
from idvl.training.loss_module import Teacher
from idvl.training.settings import Training, steps_per_epoch, total_steps
from idvl.training.signals import Interrupts, stop
from idvl.training.stepper import Diverged, Stepper

logger = logging.getLogger(__name__)

# steps in a row that fp16 may skip while it looks for a scale
MOST_SKIPPED = 100
# settings that may change when a run is resumed; of epochs and steps the total counts
MAY_CHANGE = ("epochs", "max_steps", "checkpoint_every", "evaluate_every", "log_every", "workers", "report_to")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run did: its steps, the one it was resumed at (0: none), steps that fp16 skipped, the last loss a term.

    `seconds`, and `peak_memory` in bytes, are those of the sessions before it was resumed too, up to their checkpoints;
    None where a checkpoint of an older version does not say.
    """

    steps: int
    resumed_at: int
    skipped: int
    loss: float | None
    seconds: float | None
    peak_memory: int | None


def train(
    loaded: Loaded,
    samples: Sequence[Sample],
    training: Training,
    *,
    folder: Path | None = None,
    resume: bool = False,
    state: Mapping[str, Stateful] | None = None,
    teacher: nn.Module | Teacher | None = None,
    **hooks: Callable,
) -> Outcome:
    """Train `loaded.model` in place; every process of a launch calls this alike. The model ends in eval mode.

    `hooks` are those of `Hooks`, by name.

    `folder` takes checkpoints: every `checkpoint_every` steps, and on Ctrl-C or SIGTERM, which then end the run as
    KeyboardInterrupt or SystemExit(143). They hold the objects of `state` too. With `resume` training continues from
    the newest one, if there is one, which must have the same settings but for MAY_CHANGE; on a CPU with as many
    threads, or with torch's deterministic algorithms, the weights then end bit by bit as if never interrupted.
    `teacher`: the dense model to distill from, or what gives it for each pass (None: a copy of the model as it is
    given). Python's, numpy's and torch's random numbers are seeded.

    Raises UsageError for samples, settings or launches that cannot work, RunError when the loss or the gradient is
    not a number any more, memory runs out, or another process failed.
    """
    setup.check(loaded, samples, training)
    if warning := setup.left_out(loaded, samples):
        logger.warning(warning)
    with setup.session(loaded, training, folder) as accelerator, ranks.failing_together():
        run = TrainingRun(loaded, samples, training, accelerator, teacher=teacher, folder=folder, state=state or {})
        if resume:
            run.resume()
        with setup.text_dropout(loaded, training.text_dropout), run.prepared():
            return run.train(Hooks(**hooks))


class TrainingRun:
    """One training and its position: optimizer steps made, steps of data read, how many of these fp16 skipped."""

    def __init__(
        self,
        loaded: Loaded,
        samples: Sequence[Sample],
        training: Training,
        accelerator: Accelerator,
        *,
        teacher: nn.Module | Teacher | None,
        folder: Path | None,
        state: Mapping[str, Stateful],
    ):
        self.loaded, self.samples, self.training, self.accelerator = loaded, samples, training, accelerator
        self.model, self.folder = loaded.model, folder
        processes = accelerator.num_processes
        self.per_epoch = steps_per_epoch(training, len(samples), processes)
        self.total = total_steps(training, len(samples), processes)
        set_seed(training.seed, device_specific=True)
        steps = {"total": self.total, "per_epoch": self.per_epoch}
        self.stepper = Stepper(loaded, training, accelerator, **steps, teacher=teacher)
        self.parts = {"model": checkpoint.Weights(self.model), "optimizer": self.stepper.moments, **state}
        self.step = self.position = self.skipped = self.resumed_at = 0
        self.loss: float | None = None
        self.start, self.earlier = time.perf_counter(), []

    def train(self, hooks: Hooks) -> Outcome:
        """All steps that are left."""
        loader, skips = self._loader(), 0
        with Interrupts(several=self.accelerator.num_processes > 1) as interrupts:
            if self.resumed_at:
                self._evaluate(hooks, interrupts)
            while self.step < self.total:
                with setup.fitting(self.training, self.loaded.family.training_task.contrastive):
                    self.loss, stop_signal, moved = self._step(loader, hooks, interrupts)
                skips = 0 if moved else skips + 1
                if skips > MOST_SKIPPED:
                    raise RunError(f"fp16 overflowed {skips} times in a row after step {self.step}: use bf16")
                if hooks.on_epoch and self.position % self.per_epoch == 0:
                    self._between(lambda: hooks.on_epoch(self.position // self.per_epoch, self.step))
                self._keep(stop_signal, moved)
                if moved:
                    self._evaluate(hooks, interrupts)
        about = {"steps": self.step, "resumed_at": self.resumed_at, "skipped": self.skipped, "loss": self.loss}
        return Outcome(**about, **self.cost())

    def cost(self) -> dict[str, Any]:
        """The seconds and the peak of memory so far, those of earlier sessions included."""
        return runs.total_cost(cost_since(self.start, self.model.device), *self.earlier)

    def _step(self, loader: Iterator, hooks: Hooks, interrupts: Interrupts) -> tuple[float, int, bool]:
        """One step. (the loss of a term, the signal that a process got or 0, whether the optimizer made its step).

        A process that has others to wait for heeds a signal that came after the backward pass in its next step.
        """
        signals = (signal.SIGINT, signal.SIGTERM)
        parts = [next(loader) for _ in range(self.training.accumulate)]
        rate, ends = self.stepper.rate, (self.position + 1) % self.per_epoch == 0
        leave_out = not self.training.update_weights or (self.training.skip_last and ends)
        try:
            loss, raised = self.stepper.backward(parts, lambda: [interrupts.number == number for number in signals])
            norm, moved = self.stepper.move(leave_out=leave_out)
        except Diverged as error:
            raise RunError(f"{error} at step {self.step + 1}: {self._last_good()}") from error
        self.position += 1
        self.step += moved
        self.skipped += not moved
        if moved and hooks.on_step:
            hooks.on_step(self.step)
        self.stepper.optimizer.zero_grad()
        if moved:
            self._report_step({"loss": loss, "lr": rate, "norm": norm}, hooks)
        stop_signal = next((number for number, yes in zip(signals, raised, strict=True) if yes), 0)
        return loss, interrupts.number if self.accelerator.num_processes == 1 else stop_signal, moved

    def _evaluate(self, hooks: Hooks, interrupts: Interrupts) -> None:
        """Evaluate if it is time: after a checkpoint, so that signals need not wait for it, nor is it lost."""
        every = self.training.evaluate_every
        if not hooks.evaluate or not every or self.step % every:
            return
        if self.folder and self.resumed_at != self.step:
            self.save()
        with interrupts.released():
            metrics = self._between(lambda: hooks.evaluate(self.step))
        self._log(metrics, hooks)

    def _between(self, hook: Callable[[], Any]) -> Any:
        """What a hook returns that training does not notice."""
        random = checkpoint.random_state()
        self.model.eval()
        # batch statistics are of each process's own samples
        ranks.follow_first(self.model.buffers())
        result = hook()
        ranks.meet()
        self._to_training()
        checkpoint.set_random_state(random)
        return result

    def _report_step(self, numbers: dict[str, float], hooks: Hooks) -> None:
        if not self.accelerator.is_main_process:
            return
        numbers = numbers | (hooks.describe() if hooks.describe else {})
        if hooks.progress:
            hooks.progress(self.step, self.total, numbers)
        if self.step % self.training.log_every == 0 or self.step == self.total:
            self._log(numbers, hooks)

    def _log(self, numbers: dict[str, float], hooks: Hooks) -> None:
        self.accelerator.log(numbers, step=self.step)
        if hooks.log and self.accelerator.is_main_process:
            hooks.log({"step": self.step, "epoch": self.position / self.per_epoch, **numbers})

    def _keep(self, stop_signal: int, moved: bool) -> None:
        """Save if it is time, or if the run was asked to stop, which it then does."""
        every = self.training.checkpoint_every
        due = moved and every and self.step % every == 0
        if self.folder and (due or stop_signal):
            self.save()
        if stop_signal:
            outcome = "saved" if self.folder else "not saved: there is no folder for checkpoints"
            logger.warning("stopped after step %d of %d, %s", self.step, self.total, outcome)
            stop(stop_signal)

    def save(self) -> None:
        """A checkpoint of this moment, written by the first process."""
        randoms = ranks.objects(checkpoint.random_state())
        if self.accelerator.is_main_process:
            position = {"step": self.step, "position": self.position, "skipped": self.skipped}
            so_far = {"loss": self.loss, "cost": self.cost()}
            record = {**self._identity(), **position, **so_far, **self.stepper.record(), "random": randoms}
            checkpoint.save(self.folder, self.step, self.parts, record)
        # nobody goes on before the checkpoint is whole
        ranks.meet()

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one. UsageError for one of another run."""
        path = checkpoint.latest(self.folder) if self.folder else None
        if path is None:
            return
        record = checkpoint.read(path)
        for key, value in self._identity().items():
            # checkpoints of older versions do not hold all of them
            if key in record and record[key] != value:
                raise UsageError(
                    f"cannot resume {quoted(path)}: {key} was {record[key]}, is {value}; use the same or --overwrite"
                )
        checkpoint.restore(path, self.parts)
        try:
            self._take_over(record)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise checkpoint.changed(path, error) from error

    def _take_over(self, record: dict[str, Any]) -> None:
        """Continue at the record's place. Many an error for values that no run writes: its checksum may be missing."""
        step, position, skipped = (operator.index(record[key]) for key in ("step", "position", "skipped"))
        if not 0 <= step <= self.total or skipped < 0 or position != step + skipped:
            raise ValueError(f"step {step}, position {position} and {skipped} skipped of {self.total} steps")
        self.stepper.load(record, step)
        checkpoint.set_random_state(record["random"][self.accelerator.process_index])
        # which older checkpoints do not hold
        self.loss, self.earlier = record.get("loss"), [dict(record.get("cost", {}))]
        self.step, self.position, self.skipped, self.resumed_at = step, position, skipped, step

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """The model in training mode, and back in eval mode in the end."""
        if self.training.gradient_checkpointing:
            setup.checkpoint_blocks(self.model, True)
        self._to_training()
        try:
            yield
        finally:
            self.model.eval()
            self.stepper.optimizer.zero_grad()
            if self.training.gradient_checkpointing:
                setup.checkpoint_blocks(self.model, False)

    def _to_training(self) -> None:
        """Training mode. Where weights are left alone, so are the batch statistics, which then normalise instead."""
        self.model.train()
        if not self.training.update_weights:
            for module in self.model.modules():
                if isinstance(module, _NormBase):
                    module.eval()

    def _identity(self) -> dict[str, Any]:
        settings = {key: value for key, value in asdict(self.training).items() if key not in MAY_CHANGE}
        processes, samples = self.accelerator.num_processes, len(self.samples)
        return {"total": self.total, "processes": processes, "samples": samples, **settings}

    def _loader(self) -> Iterator:
        training, workers = self.training, self.training.workers
        order = batches.Order(
            samples=len(self.samples),
            batch_size=training.batch_size,
            accumulate=training.accumulate,
            ranks=self.accelerator.num_processes,
            seed=training.seed,
        )
        if workers is None:
            workers = 4 if self.model.device.type == "cuda" else 0
        size = batches.augmented_size(self.loaded) if training.augmentation else None
        position = {"rank": self.accelerator.process_index, "position": self.position}
        return batches.load(self.loaded, self.samples, order, workers=workers, size=size, **position)

    def _last_good(self) -> str:
        newest = checkpoint.latest(self.folder) if self.folder else None
        stays = f"the last good checkpoint is {newest.name}" if newest else "there is no checkpoint yet"
        return f"{stays}; use a lower learning rate, or mixed_precision no"
