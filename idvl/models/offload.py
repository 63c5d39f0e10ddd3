"""Weights that stay in a checkpoint's files, but for those of the block that runs.

transformers loads what lies outside of blocks and notes where each weight of a block is stored; a block's weights are
read when it is called, and dropped when another one is. Blocks run on the device, the rest of the model on the CPU,
where tensors between blocks stay.
"""

from __future__ import annotations

import itertools
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from idvl.device import give_back_freed_memory
from idvl.errors import UsageError
from idvl.models.layers import block_of, find_layers
from idvl.models.plan import OffloadedBytes
from idvl.models.spill import mapped

if TYPE_CHECKING:
    from idvl.models.families.base import Family

CPU = torch.device("cpu")


class Offload:
    """The blocks of a model whose weights are in files: at most one block's are in memory, those of the last that ran.

    `weights`: name -> a weight, read when it is looked up; `stored`: bytes of the checkpoint's files. `changes`:
    name -> a function of the stored weight that gives the one to use. `seconds` were spent reading. On a GPU the
    weights of the block that ran next in the pass before are read meanwhile. Outputs of blocks go to files in the
    folder `spill`, if that is set.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Mapping[str, nn.Module],
        weights: Mapping[str, Tensor],
        *,
        device: torch.device,
        stored: int,
        scratch: TemporaryDirectory,
    ):
        self.device, self.stored, self.seconds = device, stored, 0.0
        self.spill: Path | None = None
        self.changes: dict[str, Callable[[Tensor], Tensor]] = {}
        # the folder is there for as long as this is
        self.blocks, self._model, self._weights, self._scratch = blocks, model, weights, scratch
        self._numbers = itertools.count()
        self._held: str | None = None
        # what a module had instead of what it holds now
        self._absent: list[tuple[dict[str, Any], str, Tensor | None]] = []
        self._next: dict[str, str] = {}
        self._ahead: dict[str, Future] = {}
        self._reader = ThreadPoolExecutor(1, "idvl-offload") if device.type == "cuda" else None
        for name, block in blocks.items():
            block.forward = self._forward(name, block.forward)

    def _forward(self, name: str, original: Callable) -> Callable:
        from accelerate.utils import recursively_apply, send_to_device

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.hold(name)
            args, kwargs = send_to_device((args, kwargs), self.device)
            return recursively_apply(self._between, original(*args, **kwargs))

        return forward

    def _between(self, tensor: Tensor) -> Tensor:
        """A tensor as it waits for the next block."""
        if self.spill is None:
            return tensor.to(CPU)
        path = self.spill / f"between-{next(self._numbers)}"
        copy = mapped(path, tensor.shape, tensor.dtype)
        # the file lasts as long as the tensor
        path.unlink()
        return copy.copy_(tensor)

    def hold(self, name: str | None) -> None:
        """Have a block's weights in memory, instead of another's."""
        if name == self._held or name not in self.blocks:
            return
        start = time.perf_counter()
        if self._held:
            self._next[self._held] = name
        self.release()
        reading = self._ahead.pop(name, None)
        self._ahead.clear()
        for values, key, tensor in reading.result() if reading else self._read(name):
            self._absent.append((values, key, values[key]))
            values[key] = tensor
        self._held = name
        if self._reader and name in self._next:
            self._ahead[self._next[name]] = self._reader.submit(self._read, self._next[name])
        self.seconds += time.perf_counter() - start

    def release(self) -> None:
        """Have no block's weights in memory."""
        for values, key, tensor in self._absent:
            values[key] = tensor
        self._absent.clear()
        self._held = None
        # small tensors that live on would pin what is freed of a block
        give_back_freed_memory()

    @torch.no_grad()
    def _read(self, name: str) -> list[tuple[dict[str, Any], str, Tensor]]:
        """A block's parameters and buffers on the device: where each belongs, and its value."""
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        tensors: list[tuple[dict[str, Any], str, Tensor]] = []
        # no kernel of the block that runs waits for these copies
        with torch.cuda.stream(stream):
            for path, module in self.blocks[name].named_modules(prefix=name):
                for key, value in module._parameters.items():
                    if value is not None and value.is_meta:
                        tensor = self.weight(f"{path}.{key}").to(self.device)
                        tensors.append((module._parameters, key, nn.Parameter(tensor, requires_grad=False)))
                for key, value in module._buffers.items():
                    if value is not None:
                        tensors.append((module._buffers, key, value.to(self.device)))
        if stream:
            stream.synchronize()
        return tensors

    def bytes(self) -> OffloadedBytes:
        """What the weights take: those outside of blocks, and of the one or two largest blocks that are in memory."""
        parameters = list(self._model.parameters())
        blocks = [sum(part.nbytes for part in block.parameters()) for block in self.blocks.values()]
        return OffloadedBytes(
            stored=self.stored,
            outside=sum(part.nbytes for part in parameters) - sum(blocks),
            blocks=sum(sorted(blocks)[-2 if self._reader else -1 :]),
            elsewhere=self.device != CPU,
        )

    def clock(self) -> float:
        """Seconds, less those spent reading weights."""
        return time.perf_counter() - self.seconds

    def weight(self, name: str) -> Tensor:
        """A weight of a block, read from its file, on the CPU."""
        tensor = self._weights[name]
        return self.changes[name](tensor) if name in self.changes else tensor

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters of the model, those of blocks read one by one."""
        for name, parameter in self._model.named_parameters():
            yield name, self.weight(name) if parameter.is_meta else parameter

    def state(self) -> StoredTensors:
        """The model's state_dict, whose weights of blocks are read when they are looked up."""
        self.release()
        state = self._model.state_dict()
        return StoredTensors(state, lambda name: self.weight(name) if state[name].is_meta else state[name])


def layer_weights(model: nn.Module, family: Family, offload: Offload | None = None) -> Mapping[str, Tensor]:
    """The weights of all prunable layers, by layer.

    Those of a model with `offload` are read when they are looked up; without, those on no device are left out.
    """
    layers = find_layers(model, family)
    if offload is None:
        weights = {name: layer.module.weight.detach() for name, layer in layers.items()}
        return {name: weight for name, weight in weights.items() if not weight.is_meta}
    state = offload.state()
    return StoredTensors(layers, lambda name: state[f"{name}.weight"])


class StoredTensors(Mapping[str, Tensor]):
    """Tensors by name, each of which is read whenever it is looked up."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Tensor]):
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


def places(kind: type, config: Any, family: Family, *, trust_remote_code: bool) -> dict[str, str]:
    """transformers' device_map that leaves the blocks of a model on disk. UsageError for a model without blocks."""
    with torch.device("meta"):
        if issubclass(kind, nn.Module):
            model = kind(deepcopy(config))
        else:
            model = kind.from_config(deepcopy(config), trust_remote_code=trust_remote_code)
    blocks = _blocks(model, family)
    if not blocks:
        raise UsageError(f"--offload leaves transformer blocks on disk, and {type(model).__name__} has none: omit it")
    # accelerate takes no place for the whole of which blocks are excepted
    inside = tuple(f"{block}." for block in blocks)
    outside = [name for name in model.state_dict() if not name.startswith(inside)]
    return {**dict.fromkeys(outside, "cpu"), **dict.fromkeys(blocks, "disk")}


@contextmanager
def without_warnings() -> Iterator[None]:
    """accelerate and transformers without their warnings of weights that stay on disk, when they are saved too, and of
    places for parameters outside of modules.
    """
    theirs = logging.getLogger("accelerate.big_modeling")
    disabled, theirs.disabled = theirs.disabled, True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The following device_map keys|Attempting to save a model with off")
        try:
            yield
        finally:
            theirs.disabled = disabled


def take_over(
    model: nn.Module, family: Family, device: torch.device, *, stored: int, scratch: TemporaryDirectory
) -> Offload:
    """The blocks of a model that was loaded with `places`, without accelerate's hooks.

    Those would read the weights of every module again whenever it is called. `scratch` is the folder of weights that
    transformers had to write. UsageError where weights would be read in another precision than they are loaded, or are
    in no file.
    """
    from accelerate.hooks import remove_hook_from_submodules

    check_precision(model, model.dtype)
    hooks = [hook for module in model.modules() if (hook := getattr(module, "_hf_hook", None))]
    hooks = [part for hook in hooks for part in getattr(hook, "hooks", (hook,))]
    weights = next(hook.weights_map.dataset for hook in hooks if getattr(hook, "offload", False))
    remove_hook_from_submodules(model)
    names = [name for name, value in model.named_parameters(remove_duplicate=False) if value.is_meta]
    if absent := set(names) - set(weights):
        raise UsageError(
            f"--offload reads all weights from files, which lack {min(absent)} ({len(absent)} in all): omit it"
        )
    return Offload(model, _blocks(model, family), weights, device=device, stored=stored, scratch=scratch)


def check_precision(model: nn.Module, dtype: torch.dtype) -> None:
    """UsageError for a model that keeps some weights in float32 beside those in `dtype`."""
    if model._get_dtype_plan(dtype):
        way_out = "omit it" if model.dtype == torch.float32 else "use --dtype float32"
        raise UsageError(
            f"--offload reads all weights in one precision, and {type(model).__name__} keeps some in float32 beside "
            f"{str(dtype).removeprefix('torch.')}: {way_out}"
        )


def _blocks(model: nn.Module, family: Family) -> dict[str, nn.Module]:
    """The blocks by name, without lists of modules, which are never called."""
    names = dict.fromkeys(block_of(name, family) for name, _ in model.named_modules())
    blocks = {name: model.get_submodule(name) for name in names if name}
    return {name: block for name, block in blocks.items() if not isinstance(block, nn.ModuleList)}
