"""Pruning inside transformers' Trainer: `PruneCallback`."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import TrainerCallback

from idvl.choices import DEFAULT_CRITERION
from idvl.errors import UsageError, quoted
from idvl.pruning.api import Pruned, Pruner, section_of

# the file inside a checkpoint of the Trainer that a resumed training continues from
STATE = "idvl_pruner.safetensors"
# where the Trainer's state says which training wrote a checkpoint, and in which folder
SAVED = "idvl"


class PruneCallback(TrainerCallback):
    """Prunes the Trainer's model over all of its steps.

        callback = idvl.PruneCallback(sparsity=0.8)
        Trainer(..., callbacks=[callback]).train()
        report, masks = callback.result

    The settings are those of `Pruner.from_model`; total_steps are the Trainer's. Checkpoints hold the pruner's state,
    from which `train(resume_from_checkpoint=...)` continues. UsageError for settings that do not go together.
    """

    def __init__(self, *, sparsity: float | None = None, **settings: Any) -> None:
        self.settings = {"sparsity": sparsity, **settings}
        rest = {key: value for key, value in self.settings.items() if key not in ("criterion", "profile")}
        section_of(settings.get("criterion", DEFAULT_CRITERION), settings.get("profile"), rest)
        self.pruner: Pruner | None = None
        self.result: Pruned | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        if args.load_best_model_at_end:
            raise UsageError(
                "load_best_model_at_end puts the weights of an earlier step, pruned less, under the last masks: "
                "leave it out"
            )
        self.pruner, self.result = Pruner.from_model(model, total_steps=state.max_steps, **self.settings), None
        # the Trainer does not say which checkpoint it resumes: what it loads with its state does
        saved = state.stateful_callbacks.get(SAVED)
        if state.global_step:
            self.pruner.load_state_dict(_saved_state(_checkpoint(args, state), saved))
        folder = os.path.abspath(args.output_dir)
        state.stateful_callbacks[SAVED] = {"folder": folder, "training": uuid.uuid4().hex}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, *, optimizer: Any, **kwargs: Any) -> None:
        # fp16 skips steps whose gradients overflowed
        if not getattr(optimizer, "step_was_skipped", False):
            self.pruner.step()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = _checkpoint(args, state)
        if state.is_world_process_zero and folder.is_dir():
            tensors = {name: tensor.contiguous() for name, tensor in self.pruner.state_dict().items()}
            safetensors.torch.save_file(tensors, folder / STATE, metadata=_training_of(state.stateful_callbacks[SAVED]))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.result = self.pruner.finish()


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _saved_state(folder: Path, saved: Mapping[str, str] | None) -> dict[str, Tensor]:
    """The pruner's state of a resumed checkpoint: beside it where it was `saved`, else in `folder`.

    UsageError where neither holds it, or holds that of another training. Older checkpoints do not say.
    """
    folders = [Path(saved["folder"]) / folder.name] if saved else []
    paths = [path / STATE for path in (*folders, folder)]
    there = [path for path in paths if path.is_file()]
    states = ((path, *_state(path)) for path in there)
    tensors = next((tensors for _, tensors, of in states if not saved or of == _training_of(saved)), None)
    if tensors is None:
        why = (
            f"{quoted(there[0])} is of another training" if there else f"there is no pruner's state {quoted(paths[0])}"
        )
        raise UsageError(f"cannot resume: {why}; copy the checkpoint to {quoted(folder)}")
    return tensors


def _training_of(saved: Mapping[str, str]) -> dict[str, str]:
    """What a state's file says of the training that wrote it."""
    return {"training": saved["training"]}


def _state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in a checkpoint's file, and of which training they are. UsageError for one that is damaged."""
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise UsageError(f"cannot resume: {quoted(path)} is damaged ({error}); use an earlier checkpoint") from error
