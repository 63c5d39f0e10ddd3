"""Everything a run needs to go on as if nothing had happened, in one folder that is whole or not there.

Tensors are safetensors files, the rest is one JSON file: nothing is unpickled. A folder is written beside its place,
brought to the disk and renamed; only then the one before is removed. It does not know the loop.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from idvl.errors import RunError, UsageError, first_line, quoted
from idvl.files import checksum, disk_errors

PREFIX = "step-"
RECORD = "state.json"


class Stateful(Protocol):
    """What survives a crash: tensors by name. `load_state_dict` gets them on the CPU."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> Any: ...


class Weights:
    """A model's trained parameters, and its buffers, as `Stateful`: tied ones once, put back into the same tensors."""

    def __init__(self, model: nn.Module):
        saved = model.state_dict(keep_vars=True)
        self._tensors = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._tensors |= {name: value for name, value in model.named_buffers() if name in saved}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self._tensors.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._tensors.items():
                value.copy_(state[name])


class Moments:
    """An optimizer's state as `Stateful`, named by parameter: "exp_avg/<parameter>"."""

    def __init__(self, optimizer: torch.optim.Optimizer, names: list[str]):
        self._optimizer, self._names = optimizer, names

    def state_dict(self) -> dict[str, Tensor]:
        state = self._optimizer.state_dict()["state"]
        return {f"{key}/{self._names[i]}": value for i, values in state.items() for key, value in values.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        numbers = {name: i for i, name in enumerate(self._names)}
        nested: dict[int, dict[str, Tensor]] = {}
        for full, value in state.items():
            key, _, name = full.partition("/")
            nested.setdefault(numbers[name], {})[key] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": nested, "param_groups": groups})


def save(folder: Path, step: int, parts: Mapping[str, Stateful], record: Mapping[str, Any]) -> None:
    """Write the checkpoint of `step` into `folder` and remove older ones. Call it on one process only.

    RunError when the disk is full: the checkpoint before stays.
    """
    target = folder / f"{PREFIX}{step:09d}"
    beside = folder / f".{target.name}.tmp"
    with disk_errors(target):
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        if target.exists():
            return
        beside.mkdir()
        try:
            for name, part in parts.items():
                _write(beside / f"{name}.safetensors", part.state_dict())
            sums = {name: checksum(beside / f"{name}.safetensors") for name in parts}
            sums[RECORD] = _record_sum({**record, "sha256": sums})
            (beside / RECORD).write_text(json.dumps({**record, "sha256": sums}), encoding="utf-8")
            _sync(beside / RECORD)
            _sync(beside)
            os.replace(beside, target)
            _sync(folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        for old in _all(folder)[:-1]:
            shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, None without one."""
    return next(reversed(_all(folder)), None)


def read(path: Path) -> dict[str, Any]:
    """The record of a checkpoint. RunError for one that is damaged.

    It is compared with its own checksum, which older checkpoints lack.
    """
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        step = record.get("step") if isinstance(record, dict) else None
        if isinstance(step, bool) or not isinstance(step, int) or path.name != f"{PREFIX}{step:09d}":
            raise ValueError(f"{RECORD} is of step {quoted(step)}")
        sums = record.get("sha256", {})
        if not isinstance(sums, dict) or (RECORD in sums and _record_sum(record) != sums[RECORD]):
            raise ValueError(f"{RECORD} differs from its checksum")
        return record
    except (OSError, ValueError, RecursionError) as error:
        raise changed(path, error) from error


def changed(path: Path, error: Exception) -> RunError:
    """The error for a checkpoint that is damaged, however that shows."""
    return RunError(
        f"the checkpoint {quoted(path)} cannot be read: its contents have changed ({first_line(error)}); "
        "start again with --overwrite"
    )


def restore(path: Path, parts: Mapping[str, Stateful]) -> None:
    """Give each part its tensors back. RunError for files that are damaged, UsageError for another model's.

    Files are compared with the checksums in the record, which older checkpoints lack.
    """
    sums = read(path).get("sha256", {})
    for name, part in parts.items():
        file = path / f"{name}.safetensors"
        try:
            if name in sums and checksum(file) != sums[name]:
                raise OSError(f"{file.name} differs from its checksum")
            state = load_file(file)
        except (OSError, SafetensorError) as error:
            raise changed(path, error) from error
        try:
            part.load_state_dict(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise UsageError(f"{quoted(file)} is not of this run's {name} ({error}): use --overwrite") from error


def random_state() -> dict[str, Any]:
    """This process's random numbers to come, of Python, numpy, torch and its GPU; JSON-ready."""
    kind, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_bytes(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes(state["cuda"]))


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def _write(path: Path, state: dict[str, Tensor]) -> None:
    try:
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    except SafetensorError as error:
        # the system's refusals come as text
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    _sync(path)


def _record_sum(record: Mapping[str, Any]) -> str:
    """The checksum of all of the record but this sum itself."""
    sums = {name: value for name, value in record["sha256"].items() if name != RECORD}
    return hashlib.sha256(json.dumps({**record, "sha256": sums}).encode()).hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal())


def _clear(folder: Path) -> None:
    """Remove what killed runs left: folders never renamed, and checkpoints that a newer one replaced."""
    for path in [*folder.glob(f".{PREFIX}*.tmp"), *_all(folder)[:-1]]:
        shutil.rmtree(path, ignore_errors=True)
