"""The model walked block by block over all batches, so that only what flows between blocks is kept.

One forward pass per batch, each in a thread of its own, is suspended wherever it calls a block; the main thread runs
that block for every batch, as often as asked, and lets the forwards go on to the next one. Nothing is replayed, and
live references alone decide what stays in memory. `Passes` offers the same interface for models that cannot be walked
(their blocks cannot be told apart, or run more than once): its only segment is the whole forward pass.

It does not know what is done with a block's activations: hooks on modules are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from idvl.errors import RunError
from idvl.models.suspended import SuspendedForward, forwarding

Call = Callable[[nn.Module, dict[str, Tensor]], Any]
# called before a block (None: the whole forward pass) runs for a batch, with the block's name and the batch's index
Before = Callable[[str | None, int], None]


class Segment:
    """One block, waiting with its inputs for every batch."""

    def __init__(self, name: str, forwards: Sequence[SuspendedForward], before: Before):
        self.name = name
        self._forwards = forwards
        self._before = before
        self._left = False

    @torch.no_grad()
    def run(self, *, last: bool) -> None:
        """Run the block for every batch. The last run lets each forward go on, which frees the block's input."""
        for index, forward in enumerate(self._forwards):
            self._before(self.name, index)
            # no name may keep the result: it has to be free as soon as the forward has used it
            if last:
                forward.resume(forward.request.run())
            else:
                forward.request.run_again()
        self._left = self._left or last

    def calls(self) -> list[Callable[[], Any]]:
        """A run of the block for each batch, not the last, whose result is returned, with gradients if enabled."""

        def call(index: int, forward: SuspendedForward) -> Any:
            self._before(self.name, index)
            return forward.request.run_again()

        return [partial(call, index, forward) for index, forward in enumerate(self._forwards)]

    def leave(self) -> None:
        """Go on to the next block, running this one if its last run has not been."""
        if not self._left:
            self.run(last=True)


class Walk:
    """Iterates over the blocks of a model in the order in which they run.

    `blocks`: the modules to stop at, by qualified name. `before(name, index)` is called before a block runs for a
    batch. A context manager: leaving it ends the suspended forwards and puts the model back as it was. Raises RunError
    when batches reach different blocks.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[dict[str, Tensor]],
        call: Call,
        blocks: Mapping[str, nn.Module],
        *,
        device: torch.device,
        before: Before = lambda name, index: None,
    ):
        self._model, self._batches, self._call, self._blocks = model, batches, call, blocks
        self._device, self._before = device, before
        self._forwards: list[SuspendedForward] = []
        self._patched: list[tuple[nn.Module, Callable | None]] = []
        self._threads = torch.get_num_threads()

    def __enter__(self) -> Walk:
        self._patch()
        return self

    def __exit__(self, *_: object) -> None:
        for forward in self._forwards:
            forward.abandon()
        self._forwards.clear()
        for module, before in self._patched:
            restore_forward(module, before)
        self._patched.clear()
        torch.set_num_threads(self._threads)

    def _patch(self) -> None:
        inside = {id(part) for block in self._blocks.values() for part in block.modules()}
        stops = [(name, block, True) for name, block in self._blocks.items()]
        # weights outside of blocks run in the main thread too: a worker has one core, and its own pool would be lost
        stops += [
            (name, module, False)
            for name, module in self._model.named_modules()
            if id(module) not in inside and next(module.parameters(recurse=False), None) is not None
            if next(module.children(), None) is None
        ]
        for name, module, is_block in stops:
            self._patched.append((module, vars(module).get("forward")))
            module.forward = forwarding(name, module, is_block)

    def _body(self, batch: dict[str, Tensor]) -> None:
        torch.set_num_threads(1)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            self._call(self._model, to_device(batch, self._device))

    @torch.no_grad()
    def __iter__(self) -> Iterator[Segment]:
        for batch in self._batches:
            forward = SuspendedForward(lambda batch=batch: self._body(batch))
            self._forwards.append(forward)
            forward.start()
        while name := self._common_stop():
            segment = Segment(name, self._forwards, self._before)
            yield segment
            segment.leave()

    def _common_stop(self) -> str | None:
        stops = {forward.request.name if forward.request else None for forward in self._forwards}
        if len(stops) > 1:
            raise RunError(
                f"batches take different paths through the model ({', '.join(sorted(map(str, stops)))}): "
                "it cannot be walked block by block"
            )
        return stops.pop() if stops else None


class Passes:
    """The same interface for a model that cannot be walked: one segment, the whole forward pass over all batches."""

    name = None

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[dict[str, Tensor]],
        call: Call,
        *,
        device: torch.device,
        before: Before = lambda name, index: None,
    ):
        self._model, self._batches, self._call = model, batches, call
        self._device, self._before = device, before

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Passes]:
        yield self

    @torch.no_grad()
    def run(self, *, last: bool) -> None:
        """One forward pass over every batch; `last` makes no difference, since nothing waits behind it."""
        for index, batch in enumerate(self._batches):
            self._before(self.name, index)
            self._call(self._model, to_device(batch, self._device))

    def leave(self) -> None:
        """Nothing waits behind the only segment."""


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch's tensors on the device."""
    return {key: value.to(device) for key, value in batch.items()}


def restore_forward(module: nn.Module, before: Callable | None) -> None:
    """Put a module's forward back: its own attribute of before, or its class's method where it had none."""
    if before is None:
        del module.forward
    else:
        module.forward = before
