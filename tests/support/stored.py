"""Checkpoints in a file for each tensor, whose weights are read one by one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.coverage.architectures import architectures
from tests.support import tiny


def stored(place: Path, kind: str, dtype: torch.dtype = torch.bfloat16) -> Path:
    """The checkpoint of a kind, in a file for each tensor."""
    if (folder := place / f"{kind}-{dtype}").exists():
        return folder
    if kind in tiny.KINDS:
        tiny.save(kind, folder)
    else:
        for part in architectures()[kind].make():
            part.save_pretrained(folder)
    index = {}
    for number, (name, weight) in enumerate(load_file(folder / "model.safetensors").items()):
        index[name] = f"model-{number:05d}.safetensors"
        save_file({name: weight.to(dtype)}, folder / index[name], {"format": "pt"})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": str(dtype).removeprefix("torch.")}))
    return folder
