"""Taps: what enters or leaves the layers of a model in a walk, handed to an accumulator.

A tap does not know what the accumulator keeps; which run of which block feeds it is its caller's decision.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from idvl.errors import RunError
from idvl.models.joining import Axis, size_of, split
from idvl.models.layers import Layer, blocks_of
from idvl.models.walk import Call, Passes, Walk, restore_forward
from idvl.profile import Capture

if TYPE_CHECKING:
    from idvl.models.offload import Offload

# (layer name, number of tokens, model inputs) -> (batch, tokens) bool, False at padding; None when all count
TokenMask = Callable[[str, int, dict[str, Tensor]], Tensor | None]


class Accumulator(Protocol):
    """What a tap feeds: the points of the ID search, sums over tokens.

    A plan counts the bytes that it holds for each layer: `CaptureRun.layer_bytes`.
    """

    def add(self, layer: str, batch: int, tensor: Tensor, real: Tensor | None) -> None:
        """Take in one call of a layer for the batch with this index.

        `tensor` (samples, tokens, width) is the layer's own, not a copy. `real` (samples, tokens), on the same device,
        is False at padding, and None where every position counts.
        """
        ...


class Watch:
    """Calls `record(layer name, tensor)` for every watched layer that runs, with its input or output, whatever that is.

    It wraps each layer's forward rather than hooking it, so that it also sees layers that a walk stops at.
    """

    def __init__(self, layers: Mapping[str, Layer], capture: Capture, record: Callable[[str, Tensor], None]):
        self._layers, self._capture, self._record = layers, capture, record
        self._before: dict[str, Callable | None] = {}

    def __enter__(self) -> Watch:
        for name, layer in self._layers.items():
            self._before[name] = vars(layer.module).get("forward")
            layer.module.forward = self._watching(name, layer.module.forward)
        return self

    def __exit__(self, *_: object) -> None:
        for name, layer in self._layers.items():
            restore_forward(layer.module, self._before[name])

    def _watching(self, name: str, original: Callable) -> Callable:
        def forward(x: Tensor, *args, **kwargs):
            out = original(x, *args, **kwargs)
            self._record(name, x if self._capture == "input" else out)
            return out

        return forward


class Tap:
    """Feeds an accumulator with what layers pass on, split into samples and tokens, with their padding.

    `batch` is the index of the batch that runs. `axes`: layer -> the axis that holds the samples, the first by default.
    """

    def __init__(self, batches: Sequence[dict[str, Tensor]], token_mask: TokenMask, axes: Mapping[str, Axis]):
        self.batch = 0
        self._batches, self._token_mask, self._axes = batches, token_mask, axes
        self._accumulator: Accumulator | None = None
        self._layers: Collection[str] = ()

    @contextmanager
    def feeding(self, accumulator: Accumulator, layers: Collection[str]) -> Iterator[None]:
        """Inside, the accumulator gets what these layers pass on."""
        self._accumulator, self._layers = accumulator, frozenset(layers)
        try:
            yield
        finally:
            self._accumulator, self._layers = None, ()

    def record(self, name: str, tensor: Tensor) -> None:
        """Called with every tensor that a watched layer passes on."""
        if name not in self._layers:
            return
        inputs = self._batches[self.batch]
        parts = split(tensor.detach(), self._axes.get(name, (0, False)), inputs)
        if parts is None:
            size = size_of(inputs)
            raise RunError(f"layer {name}: its tensor {tuple(tensor.shape)} cannot be split between the {size} samples")
        samples, own = parts
        real = self._token_mask(name, samples.shape[1], inputs)
        if own is not None:
            real = own if real is None else own & real
        self._accumulator.add(name, self.batch, samples, real if real is None else real.to(tensor.device))


@contextmanager
def tapped_walk(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    call: Call,
    layers: Mapping[str, Layer],
    *,
    by_block: bool,
    capture: Capture,
    token_mask: TokenMask,
    device: torch.device,
    axes: Mapping[str, Axis] = MappingProxyType({}),
    ran: Callable[[str | None], None] = lambda block: None,
    offload: Offload | None = None,
) -> Iterator[tuple[Walk | Passes, Tap]]:
    """A walk over the blocks that hold `layers`, or over whole passes unless `by_block`, and the tap on its layers.

    `axes`: as in Tap. `ran(block)` is called for every run of a block for a batch. Each block of a model with `offload`
    is run for all batches, whether it holds layers or not.
    """
    tap = Tap(batches, token_mask, axes)

    def before(block: str | None, batch: int) -> None:
        tap.batch = batch
        ran(block)

    if by_block:
        blocks = blocks_of(model, layers) | (offload.blocks if offload else {})
        walk = Walk(model, batches, call, blocks, device=device, before=before)
    else:
        walk = Passes(model, batches, call, device=device, before=before)
    # the walk takes over forwards that are watched already
    with Watch(layers, capture, tap.record), walk:
        yield walk, tap
