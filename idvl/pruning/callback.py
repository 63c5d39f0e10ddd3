"""Pruning inside transformers' Trainer: `PruneCallback`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import TrainerCallback

from idvl.errors import UsageError, quoted
from idvl.pruning.api import Pruned, Pruner

# the file inside a checkpoint of the Trainer that a resumed training continues from
STATE = "idvl_pruner.safetensors"


class PruneCallback(TrainerCallback):
    """Prunes the Trainer's model over all of its steps.

        callback = idvl.PruneCallback(sparsity=0.8)
        Trainer(..., callbacks=[callback]).train()
        report, masks = callback.result

    The settings are those of `Pruner.from_model`; total_steps are the Trainer's. Checkpoints hold the pruner's state,
    from which `train(resume_from_checkpoint=True)` continues.
    """

    def __init__(self, *, sparsity: float, **settings: Any) -> None:
        self.settings = {"sparsity": sparsity, **settings}
        self.pruner: Pruner | None = None
        self.result: Pruned | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        if args.load_best_model_at_end:
            raise UsageError(
                "load_best_model_at_end puts the weights of an earlier step, pruned less, under the last masks: "
                "leave it out"
            )
        self.pruner, self.result = Pruner.from_model(model, total_steps=state.max_steps, **self.settings), None
        if state.global_step:
            path = _checkpoint(args, state) / STATE
            if not path.is_file():
                raise UsageError(f"cannot resume: there is no pruner's state {quoted(path)}")
            self.pruner.load_state_dict(_state(path))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, *, optimizer: Any, **kwargs: Any) -> None:
        # fp16 skips steps whose gradients overflowed
        if not getattr(optimizer, "step_was_skipped", False):
            self.pruner.step()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = _checkpoint(args, state)
        if state.is_world_process_zero and folder.is_dir():
            tensors = {name: tensor.contiguous() for name, tensor in self.pruner.state_dict().items()}
            safetensors.torch.save_file(tensors, folder / STATE)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.result = self.pruner.finish()


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _state(path: Path) -> dict[str, Tensor]:
    """The tensors in a checkpoint's file. UsageError for one that is damaged."""
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise UsageError(f"cannot resume: {quoted(path)} is damaged ({error}); use an earlier checkpoint") from error
