"""What a calibrated run has finished: a file a block, from which it resumes. It does not know how layers are pruned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from idvl.errors import RunError, quoted
from idvl.files import write_bytes
from idvl.sparsity.layerwise import PrunedLayer
from idvl.sparsity.masks import pack, unpack


class FinishedBlocks:
    """The pruned layers of each block in `folder`, by the block's number.

    A layer whose other weights are as they were is a mask alone, one bit a weight.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def save(self, number: int, layers: Mapping[str, PrunedLayer], dense: Mapping[str, Tensor]) -> None:
        """Write the layers of a block, whole or not at all. `dense`: their weights before."""
        tensors, notes = {}, {}
        for name, layer in layers.items():
            tensors[f"kept.{name}"] = pack(layer.kept.reshape(-1)).cpu()
            if not torch.equal(layer.weight, dense[name].masked_fill(~layer.kept, 0)):
                tensors[f"weight.{name}"] = layer.weight.cpu()
            notes[name] = layer.note
        self._folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self._path(number), safetensors.torch.save(tensors, {"notes": json.dumps(notes)}))

    def load(self, number: int, dense: Mapping[str, Tensor]) -> dict[str, PrunedLayer] | None:
        """The layers of a block, None where it is not finished. RunError for a file that is damaged."""
        path, layers = self._path(number), {}
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, "pt") as file:
                notes = json.loads(file.metadata()["notes"])
                keys = set(file.keys())
                for name, weight in dense.items():
                    kept = unpack(file.get_tensor(f"kept.{name}"), weight.numel()).view(weight.shape).to(weight.device)
                    after = weight.detach().masked_fill(~kept, 0)
                    if f"weight.{name}" in keys:
                        after = file.get_tensor(f"weight.{name}").to(weight.device)
                    layers[name] = PrunedLayer(kept, after, notes[name])
        except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{quoted(path)} is damaged: delete it, and --resume prunes its block again") from error
        return layers

    def _path(self, number: int) -> Path:
        return self._folder / f"block-{number:04d}.safetensors"
