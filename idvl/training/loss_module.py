"""A model together with what it learns: a module whose forward pass is the loss, as data-parallel wrappers need it."""

from __future__ import annotations

from torch import Tensor, nn, no_grad

from idvl.errors import UsageError
from idvl.models.families.base import TrainingTask
from idvl.models.losses import Gather, divergence


class LossModule(nn.Module):
    """Model inputs with labels -> the loss summed over their terms.

    With `teacher`, `distill` times KL(teacher || model) is added to each term's loss.
    """

    def __init__(
        self,
        model: nn.Module,
        task: TrainingTask,
        *,
        gather: Gather | None = None,
        teacher: nn.Module | None = None,
        distill: float = 0.0,
    ):
        super().__init__()
        self.model = model
        self.loss, self.gather, self.distill = task.loss, gather, distill
        # in a tuple it is no submodule: neither trained nor sent between processes
        self._teacher = (teacher,)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        total, count, logits = self.loss(self.model, inputs, self.gather)
        (teacher,) = self._teacher
        if teacher is None:
            return total
        if logits is None:
            raise UsageError(f"the logits of {type(self.model).__name__} are unknown to idvl: leave out distill")
        with no_grad():
            dense = self.loss(teacher, inputs, self.gather).logits
        return total + self.distill * count * divergence(logits, dense)
