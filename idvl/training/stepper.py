"""One optimizer step over several processes and parts of a batch. It does not know which step it is."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from idvl.errors import RunError
from idvl.models.labels import IGNORED
from idvl.models.loading import Loaded
from idvl.training import accelerator as setup
from idvl.training import checkpoint, ranks
from idvl.training.loss_module import LossModule, Teacher
from idvl.training.settings import Training


class Diverged(RunError):
    """A loss or a gradient is no number any more."""


class Stepper:
    """Model, optimizer and learning rate of a training of `total` steps, `per_epoch` in an epoch."""

    def __init__(
        self,
        loaded: Loaded,
        training: Training,
        accelerator: Accelerator,
        *,
        total: int,
        per_epoch: int,
        teacher: nn.Module | Teacher | None,
    ):
        self.training, self.accelerator, self.model = training, accelerator, loaded.model
        self.device = loaded.model.device
        self.loss_module = accelerator.prepare_model(
            LossModule(
                self.model,
                loaded.family.training_task,
                gather=ranks.rows if accelerator.num_processes > 1 else None,
                teacher=_opening(teacher, self.model) if training.distill else None,
                distill=training.distill,
                temperature=training.temperature,
                compat=training.compat,
                label_smoothing=training.label_smoothing,
            )
        )
        trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        self.weights = list(trained.values())
        optimizer = setup.optimizer(self.weights, training, fused=accelerator.scaler is None)
        # it stays unprepared: Accelerate would step it once for every process
        self.schedule = setup.schedule(optimizer, training, total=total, per_epoch=per_epoch)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self.moments = checkpoint.Moments(optimizer, list(trained))

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.schedule.get_last_lr()[0]

    def backward(
        self, parts: Sequence[dict[str, Tensor]], flags: Callable[[], Sequence[bool]]
    ) -> tuple[float, list[bool]]:
        """Gradients of one step's batches. (the loss of a term, which flags any process has set when they are there).

        Losses are sums, divided by the number of terms of the whole step: neither how it is cut into parts nor the
        number of processes changes the gradient.
        """
        world = self.accelerator.num_processes
        (count,) = ranks.sums([float(sum(terms(part) for part in parts))], self.device)
        count = max(count, 1)
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        for part in parts:
            last = part is parts[-1]
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.loss_module):
                total = self.loss_module({k: v.to(self.device, non_blocking=True) for k, v in part.items()})
                # data-parallel wrappers average gradients over processes
                self.accelerator.backward(total * (world / count))
            loss += total.detach()
        summed, *raised = ranks.sums([loss.item(), *map(float, flags())], self.device)
        if not math.isfinite(summed):
            raise Diverged(f"the loss became {summed}")
        return summed / count, [value > 0 for value in raised]

    def move(self, *, leave_out: bool) -> tuple[float, bool]:
        """Unscale, clip, and let the optimizer step. (the gradient's norm before clipping, whether there was a step).

        Only fp16 skips steps, where its scale overflowed. With `leave_out` the weights stay as they are: the step is
        the optimizer's to leave out, and a sound gradient counts as one.
        """
        self.accelerator.unscale_gradients(self.optimizer)
        norm = nn.utils.get_total_norm([weight.grad for weight in self.weights if weight.grad is not None])
        if self.training.clip is not None:
            nn.utils.clip_grads_with_norm_(self.weights, self.training.clip, norm)
        norm, scaler = norm.item(), self.accelerator.scaler
        if not math.isfinite(norm) and scaler is None:
            raise Diverged(f"the gradient's norm became {norm}")
        if leave_out:
            if scaler is not None:
                scaler.update()
            moved = math.isfinite(norm)
        else:
            self.optimizer.step()
            moved = not self.optimizer.step_was_skipped
        if moved and self.training.update_weights:
            self.schedule.step()
        return norm, moved

    def record(self) -> dict:
        """What a checkpoint keeps beside the tensors; JSON-ready."""
        scaler = self.accelerator.scaler
        return {
            # functions are no JSON; a resumed run makes its own
            "schedule": {key: value for key, value in self.schedule.state_dict().items() if key != "lr_lambdas"},
            "rates": [group["lr"] for group in self.optimizer.param_groups],
            "scaler": scaler.state_dict() if scaler else None,
        }

    def load(self, record: dict, step: int) -> None:
        """The inverse of `record`, after `step` steps. ValueError for a schedule or rates of another step."""
        groups = self.optimizer.param_groups
        last = record["schedule"]["last_epoch"]
        if last != (step if self.training.update_weights else 0):
            raise ValueError(f"the schedule is at step {last}, not {step}")
        if not all(math.isfinite(rate) and rate >= 0 for rate in record["rates"]):
            raise ValueError(f"the learning rates are {record['rates']}")
        self.schedule.load_state_dict({**record["schedule"], "lr_lambdas": [None] * len(groups)})
        for group, rate in zip(groups, record["rates"], strict=True):
            group["lr"] = rate
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(record["scaler"])


def _opening(teacher: nn.Module | Teacher | None, model: nn.Module) -> Teacher:
    """What gives the dense model: as it is, frozen in eval mode; None is a copy of the model."""
    if teacher is not None and not isinstance(teacher, nn.Module):
        return teacher
    module = (teacher or copy.deepcopy(model)).to(model.device).eval().requires_grad_(False)
    return lambda: contextlib.nullcontext(module)


def terms(part: dict[str, Tensor]) -> int:
    """How many terms of a batch are learnt from."""
    return int((part["labels"] != IGNORED).sum())
