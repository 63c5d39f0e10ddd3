"""One batch sent through the model to learn what a walk will meet: blocks, layers and their sizes, and the time.

The order in which towers run is not the order in which they are registered, and sizes depend on the inputs: so both are
observed. It does not know how much memory there is: plan.py decides with what is found here.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from idvl.errors import UsageError, first_line
from idvl.models.capture import Watch
from idvl.models.joining import Axis, axis_of, size_of
from idvl.models.layers import Layer, blocks_of
from idvl.models.load_errors import REFUSED
from idvl.models.walk import Call, to_device
from idvl.profile import Capture

if TYPE_CHECKING:
    from idvl.models.offload import Offload

TOURS = 2


@dataclass
class Stop:
    """A block as met: the layers that ran in it, in order, its time for the batch and the bytes alive before it."""

    name: str
    seconds: float = 0.0
    alive: int = 0
    layers: list[str] = field(default_factory=list)


@dataclass
class Trace:
    """What one batch met. `shapes`: layer name -> shape of one captured tensor per call, in order.

    `working`: the most bytes that a block holds while it runs for the batch, beside what was there before.
    `axes`: layer name -> the axis that holds the samples. `faults`: layers that ran but have no tensor of samples, and
    why; they are in nothing else. `changed`: layers whose tensor is changed in place after they pass it on. `reading`:
    seconds that reading offloaded weights took.
    """

    batch_size: int
    stops: list[Stop]
    shapes: dict[str, list[torch.Size]]
    axes: dict[str, Axis]
    seconds: float
    unwalkable: str | None
    faults: dict[str, str]
    changed: frozenset[str]
    working: int
    reading: float = 0.0


def trace(
    model: nn.Module,
    batch: dict[str, Tensor],
    call: Call,
    layers: Mapping[str, Layer],
    *,
    capture: Capture,
    device: torch.device,
    other: dict[str, Tensor] | None = None,
    offload: Offload | None = None,
) -> Trace:
    """Run another batch to warm up, then the batch TOURS times, of which the fastest counts; once, memory is counted.

    `other` has another number of samples, by default one: where a tensor's shape differs, there are its samples. All
    blocks of a model with `offload` are stops. Raises UsageError for inputs that the model refuses.
    """
    blocks = blocks_of(model, layers) | (offload.blocks if offload else {})
    batch = to_device(batch, device)
    other = {key: value[:1] for key, value in batch.items()} if other is None else to_device(other, device)
    tour = _Tour(offload.clock if offload else partial(_now, device))
    handles = [nn.modules.module.register_module_forward_hook(tour.note)]
    for name, block in blocks.items():
        if offload:
            handles.append(block.register_forward_pre_hook(lambda *_, name=name: offload.hold(name)))
        handles.append(block.register_forward_pre_hook(partial(tour.enter, name)))
        handles.append(block.register_forward_hook(tour.leave))
    try:
        with torch.no_grad(), Watch(layers, capture, tour.record):
            try:
                tour.run(model, call, other)
            except ValueError as error:  # how transformers refuses pixels of another size
                raise UsageError(REFUSED.format(first_line(error))) from error
            shapes = tour.shapes
            with tour.made:
                tours = [tour.run(model, call, batch)]
            working = tour.working
            tours += [tour.run(model, call, batch) for _ in range(TOURS - 1)]
    finally:
        for handle in handles:
            handle.remove()
    seconds, reading, stops = min(tours, key=lambda timed: timed[0])
    axes, faults = _axes(shapes, tour.shapes, other, batch)
    faults |= tour.faults
    shapes = {name: shape for name, shape in tour.shapes.items() if name not in faults}
    for stop in stops:
        stop.layers = [name for name in stop.layers if name in shapes]
    unwalkable = _unwalkable(stops, shapes, layers)
    changed = frozenset(tour.changed)
    return Trace(size_of(batch), stops, shapes, axes, seconds, unwalkable, faults, changed, working, reading)


class _Tour:
    """What one forward pass meets."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._inside: list[Stop] = []
        self.alive, self.made = _Alive(), MadeBytes()
        # bytes of the block that needs most, or without one of the whole pass
        self.working = 0
        # for each block that runs, the bytes that were there before it, and the most
        self._before: list[tuple[int, int]] = []
        self.faults: dict[str, str] = {}
        self.changed: set[str] = set()
        # (layer, its tensor, the tensor's version), while the tensor is referenced
        self._passed: list[tuple[str, weakref.ref, int]] = []

    def run(self, model: nn.Module, call: Call, batch: dict[str, Tensor]) -> tuple[float, float, list[Stop]]:
        """Seconds, those besides that the clock leaves out, and stops of one pass; `shapes` are its."""
        self.alive.inputs = sum(value.nbytes for value in batch.values())
        self.stops: list[Stop] = []
        self.shapes: dict[str, list[torch.Size]] = {}
        start, began = self._clock(), time.perf_counter()
        call(model, batch)
        seconds = self._clock() - start
        self.working = self.working if self.stops else self.made.most
        return seconds, time.perf_counter() - began - seconds, self.stops

    def enter(self, name: str, module: nn.Module, args: Any) -> None:
        self.stops.append(Stop(name, alive=self.alive.bytes()))
        self._inside.append(self.stops[-1])
        self._before.append((self.made.bytes, self.made.most))
        self.made.most = self.made.bytes
        self.stops[-1].seconds -= self._clock()

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside.pop().seconds += self._clock()
        base, most = self._before.pop()
        self.working = max(self.working, self.made.most - base)
        self.made.most = max(self.made.most, most)

    def note(self, module: nn.Module, args: Any, output: Any) -> None:
        """After every module: what is alive, and which layers' tensors it found changed."""
        self.alive.note(module, args, output)
        self._passed = [(name, ref, version) for name, ref, version in self._passed if ref() is not None]
        self.changed |= {name for name, ref, version in self._passed if ref()._version != version}

    def record(self, name: str, tensor: Any) -> None:
        if not isinstance(tensor, Tensor):
            self.faults[name] = f"it passes on a {type(tensor).__name__}, not a tensor"
            return
        self.shapes.setdefault(name, []).append(tensor.shape)
        self._passed.append((name, weakref.ref(tensor), tensor._version))
        if self._inside:
            self._inside[-1].layers.append(name)


def _axes(
    before: dict[str, list[torch.Size]],
    shapes: dict[str, list[torch.Size]],
    other: dict[str, Tensor],
    batch: dict[str, Tensor],
) -> tuple[dict[str, Axis], dict[str, str]]:
    """The axis of each layer's tensors that holds the samples, from its shapes for two batches, `other` and `batch`;
    and for the layers whose tensors have no such axis, why not.
    """
    axes, faults = {}, {}
    for name, many in shapes.items():
        one = before.get(name, [])
        candidates = {axis_of(*pair, other, batch) for pair in zip(one, many, strict=False)}
        if len(one) != len(many) or len(candidates) > 1 or None in candidates:
            sizes = ", ".join(str(tuple(shape)) for shape in many)
            faults[name] = f"its tensor {sizes} cannot be split between the {size_of(batch)} samples"
        else:
            axes[name] = candidates.pop()
    return axes, faults


def _unwalkable(stops: list[Stop], shapes: Mapping[str, Any], layers: Mapping[str, Layer]) -> str | None:
    """Why the model cannot be walked block by block, None if it can."""
    for name, count in Counter(stop.name for stop in stops).items():
        if count > 1:
            return f"block {name} runs {count} times in one forward pass"
    met = {layer for stop in stops for layer in stop.layers}
    for name in shapes:
        if name not in met:
            return f"layer {name} runs outside of its block {layers[name].block}"
    return None


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class MadeBytes(TorchDispatchMode):
    """The bytes of what operators made while this is entered, as long as it lives; `most` of them at any time."""

    def __init__(self):
        super().__init__()
        self.bytes = self.most = 0
        self._storages: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if new := self._storages_in(made):
            known = self._storages.keys() | self._storages_in((args, kwargs))
            for key, storage in new.items():
                if key not in known:
                    self._add(key, storage)
        return made

    def _storages_in(self, values: Any) -> dict[int, torch.UntypedStorage]:
        tensors = (value for value in tree_leaves(values) if isinstance(value, Tensor))
        return {storage._cdata: storage for tensor in tensors for storage in (tensor.untyped_storage(),)}

    def _add(self, key: int, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()

        def drop(_: Any) -> None:
            del self._storages[key]
            self.bytes -= size

        self._storages[key] = weakref.ref(storage, drop)
        self.bytes += size
        self.most = max(self.most, self.bytes)


class _Alive:
    """The bytes of the inputs and of all module outputs that are still referenced, less those in files."""

    def __init__(self):
        self.inputs = 0
        self._outputs: list[weakref.ref] = []

    def note(self, module: nn.Module, args: Any, output: Any) -> None:
        values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else (output,)
        self._outputs += [weakref.ref(value) for value in values if isinstance(value, Tensor)]

    def bytes(self) -> int:
        tensors = [tensor for ref in self._outputs if (tensor := ref()) is not None]
        self._outputs = [weakref.ref(tensor) for tensor in tensors]
        storages = {
            storage.data_ptr(): storage for tensor in tensors if not (storage := tensor.untyped_storage()).filename
        }
        return self.inputs + sum(storage.nbytes() for storage in storages.values())
