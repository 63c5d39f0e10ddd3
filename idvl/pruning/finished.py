"""What a calibrated run has finished: a file a block, from which it resumes. It does not know how layers are pruned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from idvl.errors import RunError, quoted
from idvl.files import write_bytes
from idvl.sparsity.layerwise import PrunedLayer
from idvl.sparsity.masks import pack, unpack


class FinishedBlocks:
    """The pruned layers of each block in `folder`, by the block's number.

    A layer whose other weights are as they were is a mask alone, one bit a weight. Each has a checksum, so that reading
    a layer of a block reads no other.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def save(
        self,
        number: int,
        layers: Mapping[str, PrunedLayer],
        dense: Mapping[str, Tensor],
        cost: Mapping[str, float],
    ) -> None:
        """Write the layers of a block, whole or not at all. `dense`: their weights before; `cost`: what it took."""
        tensors, notes, sums = {}, {}, {}
        for name, layer in layers.items():
            stored = {f"kept.{name}": pack(layer.kept.reshape(-1)).cpu()}
            if not torch.equal(layer.weight, dense[name].masked_fill(~layer.kept, 0)):
                stored[f"weight.{name}"] = layer.weight.cpu()
            tensors |= stored
            notes[name], sums[name] = layer.note, _sum(stored, layer.note)
        self._folder.mkdir(parents=True, exist_ok=True)
        metadata = {"notes": json.dumps(notes), "sha256": json.dumps(sums), "cost": json.dumps(dict(cost))}
        write_bytes(self._path(number), safetensors.torch.save(tensors, metadata))

    def load(self, number: int, dense: Mapping[str, Tensor]) -> dict[str, PrunedLayer] | None:
        """The layers of a block, None where it is not finished. RunError for a file that is damaged."""
        path, layers = self._path(number), {}
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, "pt") as file:
                notes, sums = (json.loads(file.metadata().get(key, "{}")) for key in ("notes", "sha256"))
                keys = set(file.keys())
                for name, weight in dense.items():
                    stored = {key: file.get_tensor(key) for key in (f"kept.{name}", f"weight.{name}") if key in keys}
                    # files of older versions hold no checksums
                    if name in sums and _sum(stored, notes[name]) != sums[name]:
                        raise ValueError(f"{name} differs from its checksum")
                    kept = unpack(stored[f"kept.{name}"], weight.numel()).view(weight.shape).to(weight.device)
                    after = weight.detach().masked_fill(~kept, 0)
                    if f"weight.{name}" in stored:
                        after = stored[f"weight.{name}"].to(weight.device)
                    layers[name] = PrunedLayer(kept, after, notes[name])
        except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{quoted(path)} is damaged: delete it, and --resume prunes its block again") from error
        return layers

    def cost(self, number: int) -> dict[str, Any]:
        """What pruning a finished block took; {} where it does not say, as those of older versions."""
        with safetensors.safe_open(self._path(number), "pt") as file:
            text = file.metadata().get("cost", "{}")
        try:
            return dict(json.loads(text))
        except (TypeError, ValueError):  # no checksum covers it
            return {}

    def _path(self, number: int) -> Path:
        return self._folder / f"block-{number:04d}.safetensors"


def _sum(stored: Mapping[str, Tensor], note: str | None) -> str:
    """The checksum of what is stored of a layer."""
    digest = hashlib.sha256(json.dumps(note).encode())
    for name, tensor in stored.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
