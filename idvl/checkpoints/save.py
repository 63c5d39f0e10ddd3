"""A pruned model written down: a folder that plain transformers opens, and beside it what was pruned.

    run/model/             config, safetensors, processor, README.md; zeros in place, tied weights tied
    run/masks.safetensors  the masks, one bit a weight
    run/profile.json       the dimensions that they rest on, if any
    run/README.md          the model card, as in model/
    run/report.json        what was pruned, what reopening the folder showed, and the sizes of its files

report.json is removed first and written last, after model/ was reopened and verified: a save that was killed at any
moment has none, and never looks finished. model/ is written beside itself and renamed when it is whole and verified,
so the one before survives whatever goes wrong.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from idvl.checkpoints.verify import Verdict, defects, opened, verify
from idvl.device import give_back_freed_memory
from idvl.errors import RunError, first_line, quoted
from idvl.files import disk_errors, to_disk, write_json, write_text
from idvl.models.loading import quiet
from idvl.models.offload import Offload, without_warnings
from idvl.models.spill import mapped
from idvl.profile import Profile
from idvl.sparsity.masks import Masks


def save_pruned(
    folder: Path | str,
    model: nn.Module,
    processor: Any,
    *,
    masks: Masks,
    profile: Profile | None,
    report: Mapping[str, Any],
    card: str,
    structure: str = "unstructured",
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    offload: Offload | None = None,
) -> Verdict:
    """Write the model into `folder` and the rest beside it, in the order that this module's text tells.

    `model` may be in training, on any device and wrapped; its weights must be masked. It is left as it was. `dtype` is
    that of the file, the model's own by default: the one that the dense checkpoint had. Weights of a model with
    `offload` are written once more to files beside `folder`, from which they are saved. Call it on one process. Raises
    RunError for a full disk and for a saved model that is not what it should be; the one before stays.
    """
    folder = Path(folder)
    with _refusals(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _restore(folder)
        folder.with_name("report.json").unlink(missing_ok=True)
        fresh = _beside(folder, "fresh")
        try:
            state = _write(fresh, _unwrapped(model), processor, card, dtype, offload)
            checked = {"report": report, "state": state, "trust_remote_code": trust_remote_code}
            verdict = verify(fresh, masks, structure, **checked, offload=offload is not None)
            # cards are for people to edit
            paths = [path for path in sorted(fresh.rglob("*")) if path.is_file() and path.name != "README.md"]
            files = {path.relative_to(fresh).as_posix(): path.stat().st_size for path in paths}
            masks.save(folder.with_name("masks.safetensors"))
            if profile is not None:
                profile.save(folder.with_name("profile.json"))
            write_text(folder.with_name("README.md"), card)
            _replace(folder, fresh)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        write_json(folder.with_name("report.json"), {**report, "verified": asdict(verdict) | {"files": files}})
    return verdict


def save_dense(folder: Path, model: nn.Module, processor: Any, *, card: str) -> None:
    """Write a model into `folder`, which must not exist: beside it, then reopened, compared, and renamed.

    Raises RunError for a full disk and for a saved model that is not, tensor by tensor, the one in memory.
    """
    with _refusals(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = _beside(folder, "fresh")
        try:
            state = _write(fresh, model, processor, card, None, None)
            loaded = opened(str(fresh), local_files_only=True)
            for defect in defects(loaded, Masks({}), state=state):
                raise RunError(defect)
            _replace(folder, fresh)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _write(
    folder: Path, model: nn.Module, processor: Any, card: str, dtype: torch.dtype | None, offload: Offload | None
) -> dict[str, Tensor]:
    """The whole folder, on the disk when this returns; what was written by name."""
    dtype = dtype or model.dtype
    state = _in_files(offload, model, dtype, folder) if offload else _state(model, dtype)
    settings = model.config.dtype, model.config.architectures
    try:
        with quiet(), without_warnings():
            model.save_pretrained(folder, state_dict=dict(state))
        config = copy.deepcopy(model.config)
    except (ValueError, RuntimeError) as error:  # a generation config that contradicts itself, weights tied by hand
        raise RunError(f"transformers does not write a {type(model).__name__}: {first_line(error)}") from error
    finally:
        # transformers notes the class there, and the dtype that the model has in memory
        model.config.dtype, model.config.architectures = settings
    _set_dtype(config, dtype)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    mode = folder.stat().st_mode & 0o666
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file():
            path.chmod(mode)  # safetensors makes files that nobody else may read
        to_disk(path)
    to_disk(folder)
    return state


def _state(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state in `dtype` on the CPU, tied weights still one tensor; tensors not of the model's dtype keep theirs."""
    tensors: dict[tuple, Tensor] = {}
    state = {}
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if key not in tensors or not tensor.numel():
            tensors[key] = tensor.detach().to("cpu", dtype if tensor.dtype == model.dtype else tensor.dtype)
        state[name] = tensors[key]
    return state


def _in_files(offload: Offload, model: nn.Module, dtype: torch.dtype, folder: Path) -> dict[str, Tensor]:
    """The same for a model whose blocks are in files, from which each weight goes to another file beside `folder`."""
    offload.release()
    tensors: dict[int, Tensor] = {}
    state = {}
    with TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.", suffix=".tmp") as scratch:
        for name, tensor in model.state_dict(keep_vars=True).items():
            # tied weights are one parameter
            if (key := id(tensor)) not in tensors:
                wanted = dtype if tensor.dtype == model.dtype else tensor.dtype
                if tensor.is_meta:
                    # whose files last as long as the tensors
                    copy = mapped(Path(scratch) / str(len(tensors)), tensor.shape, wanted, flag="--output")
                    tensors[key] = copy.copy_(offload.weight(name))
                    give_back_freed_memory()
                else:
                    tensors[key] = tensor.detach().to("cpu", wanted)
            state[name] = tensors[key]
    return state


def _set_dtype(config: Any, dtype: torch.dtype) -> None:
    config.dtype = dtype
    for name in getattr(config, "sub_configs", ()):
        if getattr(config, name, None) is not None:
            _set_dtype(getattr(config, name), dtype)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of what accelerate and torch wrapped around it."""
    from accelerate.utils import extract_model_from_parallel

    return extract_model_from_parallel(model, keep_torch_compile=False)


def _beside(folder: Path, word: str) -> Path:
    return folder.with_name(f".{folder.name}.{word}.{os.getpid()}.tmp")


def _restore(folder: Path) -> None:
    """Put back a model that a killed save was about to replace, and remove what it left."""
    for left in sorted(folder.parent.glob(f".{folder.name}.*.tmp")):
        if f".{folder.name}.before." in left.name and not folder.exists():
            os.replace(left, folder)
        else:
            shutil.rmtree(left)
    for name in ("masks.safetensors", "profile.json", "README.md", "report.json"):
        for left in folder.parent.glob(f".{name}.*.tmp"):
            left.unlink()


def _replace(folder: Path, fresh: Path) -> None:
    before = _beside(folder, "before")
    if folder.exists():
        os.replace(folder, before)
    try:
        os.replace(fresh, folder)
    except OSError:
        if before.exists():
            os.replace(before, folder)
        raise
    to_disk(folder.parent)
    shutil.rmtree(before, ignore_errors=True)


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """What a disk refuses in one line, safetensors' way of telling it included."""
    from safetensors import SafetensorError

    try:
        with disk_errors(folder):
            try:
                yield
            except SafetensorError as error:
                number = re.search(r"os error (\d+)", str(error))
                if number is None:
                    raise
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    except OSError as error:
        raise RunError(f"cannot write {quoted(folder)}: {error.strerror or error}") from error
