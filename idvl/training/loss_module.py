"""A model together with what it learns: a module whose forward pass is the loss, as data-parallel wrappers need it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Literal

from torch import Tensor, nn, no_grad

from idvl.errors import UsageError
from idvl.models.families.base import TrainingTask
from idvl.models.losses import Gather, divergence

# opened around each pass of the dense model, which it gives
Teacher = Callable[[], AbstractContextManager[nn.Module]]


class LossModule(nn.Module):
    """Model inputs with labels -> the loss summed over their terms.

    With `teacher`, `distill` times KL(teacher || model) is added to each term's loss. `compat` "ressa" weighs the two
    as SparseLoRA's code does: 1 - `distill` and `distill`, the divergence summed over a sample's terms and without T^2.
    That code sums over padding too, which has no meaning and is left out. `label_smoothing` None is the model's own.
    """

    def __init__(
        self,
        model: nn.Module,
        task: TrainingTask,
        *,
        gather: Gather | None = None,
        teacher: Teacher | None = None,
        distill: float = 0.0,
        temperature: float = 1.0,
        compat: Literal["none", "ressa"] = "none",
        label_smoothing: float | None = None,
    ):
        super().__init__()
        self.model = model
        self.gather, self.distill = gather, distill
        self.loss = task.loss if label_smoothing is None else partial(task.loss, label_smoothing=label_smoothing)
        self.temperature, self.compat = temperature, compat
        self.teacher = teacher

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        total, count, logits = self.loss(self.model, inputs, self.gather)
        if self.teacher is None:
            return total
        if logits is None:
            raise UsageError(f"the loss of {type(self.model).__name__} has no softmax to distill: leave out distill")
        with no_grad(), self.teacher() as teacher:
            dense = self.loss(teacher, inputs, self.gather).logits()
        student = logits()
        kl = count * divergence(student, dense, self.temperature)
        if self.compat == "none":
            return total + self.distill * kl
        per_sample = len(student) / len(inputs["labels"]) / self.temperature**2
        return (1 - self.distill) * total + self.distill * per_sample * kl
