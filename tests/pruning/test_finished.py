"""Blocks that a calibrated run has finished, read back whole or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from idvl.errors import RunError
from idvl.pruning.finished import FinishedBlocks
from idvl.sparsity.layerwise import PrunedLayer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_flipped_bit_gives_other_layers(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    dense = {name: torch.randn(4, 6, dtype=dtype) for name in ("fc1", "fc2")}
    kept = torch.rand(4, 6) > 0.5
    layers = {
        "fc1": PrunedLayer(kept, dense["fc1"].masked_fill(~kept, 0)),
        "fc2": PrunedLayer(~kept, torch.randn(4, 6, dtype=dtype).masked_fill(kept, 0), "damped by 0.1"),
    }
    finished = FinishedBlocks(tmp_path)
    assert finished.load(0, dense) is None
    cost = {"seconds": 1.5, "peak_memory": 2**20}
    finished.save(0, layers, dense, cost)
    assert finished.cost(0) == cost

    def is_whole() -> bool:
        found = finished.load(0, dense)
        return all(
            torch.equal(found[name].kept, layer.kept)
            and torch.equal(found[name].weight, layer.weight)
            and found[name].note == layer.note
            for name, layer in layers.items()
        )

    assert is_whole() and list(finished.load(0, {"fc2": dense["fc2"]})) == ["fc2"]
    path = tmp_path / "block-0000.safetensors"
    data = path.read_bytes()
    refused = 0
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        try:
            assert is_whole(), place
            finished.cost(0)  # what it says is harmless
        except RunError as error:
            refused += 1
            assert "block-0000.safetensors' is damaged: delete it, and --resume prunes" in str(error)
    # the names of what the metadata holds, and the padding of the header, may change without harm
    assert refused > 0.9 * len(data)
