"""The statistics of what enters layers in a walk: one object for all layers that read the same tensors.

An accumulator (models.capture). q, k and v read one tensor, and so do the cross-attention keys and values of all
blocks; their sums are made once. It knows neither weights nor masks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from idvl.distributed import Team
from idvl.errors import RunError
from idvl.sparsity.statistics import InputStatistics


class _Seen:
    """A tensor that entered a layer, recognised as long as it lives, and not kept alive."""

    def __init__(self, tensor: Tensor, real: Tensor | None):
        self._storage = StorageWeakRef(tensor.untyped_storage())
        place = tensor.data_ptr(), tensor._version, tensor.shape, tensor.stride(), tensor.dtype
        self._key = place, None if real is None else real.cpu().numpy().tobytes()

    def is_seen_again(self, other: _Seen) -> bool:
        """Whether another call brought the same tensor, with the same padding."""
        return self._key == other._key and not self._storage.expired()

    @property
    def is_alive(self) -> bool:
        return not self._storage.expired()


@dataclass(eq=False)
class SharedInput:
    """The tensors that some layers read, in order, and their sums; `is_global` once those of all processes are in."""

    statistics: InputStatistics
    seen: list[_Seen] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    is_global: bool = False


class InputSums:
    """Sums over the tokens that enter layers; with `products` X^T X too.

    `samples`: for each batch the names of its samples, for messages. Layers are found to read the same tensors while
    batches run. RunError for layers that do so in some batches only, and for a value that is NaN or infinite.
    """

    def __init__(self, samples: Sequence[Sequence[str]], *, products: bool = False):
        self._samples, self._products = samples, products
        self._inputs: list[SharedInput] = []
        self._reads: dict[str, SharedInput] = {}
        # how many tensors of its input a layer has read
        self._position: dict[str, int] = {}

    def add(self, layer: str, batch: int, tensor: Tensor, real: Tensor | None) -> None:
        """Take in one call of a layer, unless another layer's call has brought the same tensor."""
        seen = _Seen(tensor, real)
        if layer not in self._reads:
            self._join(layer, seen, tensor)
        read, position = self._reads[layer], self._position[layer]
        self._position[layer] += 1
        if position == len(read.seen):
            read.seen.append(seen)
            self._count(read.statistics, layer, batch, tensor, real)
        elif not read.seen[position].is_seen_again(seen):
            raise RunError(
                f"{layer} and {read.layers[0]} read the same tensor in some batches only, which calibration cannot "
                "follow: leave one of them out of the scope"
            )

    def groups(self, layers: Iterable[str]) -> list[tuple[list[str], SharedInput]]:
        """The layers among these that read one input, with that. RunError for one that missed a batch."""
        groups: dict[int, tuple[list[str], SharedInput]] = {}
        for name in layers:
            read = self._reads.get(name)
            if read is None or self._position[name] != len(read.seen):
                raise RunError(f"{name} does not run for every batch: leave it out of the scope")
            groups.setdefault(id(read), ([], read))[0].append(name)
        return list(groups.values())

    def forget(self, layers: Iterable[str], *, keep: Collection[str] = ()) -> None:
        """Drop the sums of layers that are done, but not those of layers in `keep` over tensors that still live."""
        for name in layers:
            self._reads.pop(name, None)
        read = {id(one) for one in self._reads.values()}
        self._inputs = [
            one
            for one in self._inputs
            if id(one) in read or (set(keep) & set(one.layers) and all(seen.is_alive for seen in one.seen))
        ]

    def _join(self, layer: str, seen: _Seen, tensor: Tensor) -> None:
        """Begin with a layer: with the sums that began with the same tensor, or with its own."""
        for read in self._inputs:
            if read.seen[0].is_seen_again(seen):
                break
        else:
            read = SharedInput(InputStatistics(tensor.shape[-1], products=self._products, device=tensor.device))
            self._inputs.append(read)
        read.layers.append(layer)
        self._reads[layer], self._position[layer] = read, 0

    def _count(self, statistics: InputStatistics, layer: str, batch: int, tensor: Tensor, real: Tensor | None) -> None:
        statistics.add(tensor.flatten(0, 1) if real is None else tensor[real])
        if not bool(statistics.total().squares.isfinite().all()):
            shown = tensor if real is None else tensor.masked_fill(~real.unsqueeze(2), 0)
            # of values whose squares are too large, the sample with the largest
            number = int(shown.float().square().flatten(1).sum(1).nan_to_num(float("inf")).argmax())
            raise RunError(f"what enters {layer} is NaN or too large for sample {self._samples[batch][number]}")


def totals(
    sums: InputSums, users: Mapping[str, Sequence[str]], team: Team
) -> Iterator[tuple[list[str], InputStatistics]]:
    """Layers that read one input, with its statistics over all processes, which they must ask for alike.

    `users`: the modules that hold each layer's weight; one of several modules has the sum of what enters them.
    """

    def everywhere(read: SharedInput) -> InputStatistics:
        if not read.is_global:
            for value in read.statistics.state_dict().values():
                team.reduce(value)
            read.is_global = True
        return read.statistics

    for names, read in sums.groups(name for name, modules in users.items() if len(modules) == 1):
        yield names, everywhere(read)
    for name, modules in users.items():
        if len(modules) > 1:
            yield [name], InputStatistics.added([everywhere(read).state_dict() for _, read in sums.groups(modules)])
