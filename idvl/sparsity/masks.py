"""Which weights are kept: named masks of one bit a weight, enforced, hashed, verified, and their file.

Masks are kept objects; only those of a model that others pruned are inferred from its zeros. They know nothing
of scores or schedules.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from idvl import arguments
from idvl.errors import RunError, UsageError, quoted
from idvl.files import open_regular, write_bytes
from idvl.sparsity.structure import parse

FORMAT = "idvl/masks/1"
# the file of a run folder
MASKS = "masks.safetensors"
# the fraction of a layer below which its zeros are taken for accidental
ACCIDENTAL = 0.01
# weights at a time: on a CPU their unpacked masks stay in a core's cache; multiples of 8
CHUNK, CHUNK_ON_GPU = 1 << 18, 1 << 24

# With eight bytes of 0 or 1 as one integer, byte i lands on bit 56 + i of the product with this
GATHER = 0x0102040810204080
# bytes of an element -> an integer as wide
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def pack(kept: Tensor) -> Tensor:
    """(n,) bool -> (ceil(n / 8),) uint8: weight i is bit i % 8 of byte i // 8, the lowest first; the rest is 0."""
    if spare := -len(kept) % 8:
        kept = torch.cat((kept, kept.new_zeros(spare)))
    return (kept.contiguous().view(torch.int64) * GATHER >> 56).to(torch.uint8)


def unpack(packed: Tensor, n: int, dtype: torch.dtype = torch.bool) -> Tensor:
    """The inverse of `pack`: (n,) bool, or integers with all bits set where a weight is kept and none elsewhere."""
    return _spread(dtype, packed.device).index_select(0, packed.int()).view(-1)[:n]


@torch.no_grad()
def zero_(weight: Tensor, packed: Tensor) -> None:
    """Write +0 into a contiguous tensor wherever its packed mask has a zero, over infinities and NaN too."""
    # bit by bit, which costs a fifth of masked_fill_
    bits = weight.detach().view(-1).view(INTEGERS[weight.element_size()])
    chunk = CHUNK if weight.device.type == "cpu" else CHUNK_ON_GPU
    for piece, mask in zip(bits.split(chunk), packed.split(chunk // 8), strict=True):
        piece.bitwise_and_(unpack(mask, len(piece), bits.dtype))


def _all_kept(n: int, device: torch.device | str | None) -> Tensor:
    packed = torch.full((-(-n // 8),), 255, dtype=torch.uint8, device=device)
    if n % 8:
        packed[-1] = 2 ** (n % 8) - 1
    return packed


def count(packed: Tensor) -> int:
    """The set bits of a packed mask: the weights that it keeps."""
    return int((torch.bincount(packed, minlength=256) * _spread(torch.bool, packed.device).sum(1)).sum())


def _in_order(file: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: safetensors writes them in the order of a random hash."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + file[end:]


def unmasked_zeros(
    weights: Mapping[str, Tensor], *, masked: Mapping[str, int] | None = None, least: float = ACCIDENTAL
) -> dict[str, int]:
    """How many zeros each of these weights holds beside those `masked`, where they are that share of it or more.

    By default those few that may be accidental are left out.
    """
    found = {}
    for name, weight in weights.items():
        zeros = weight.numel() - int(weight.count_nonzero()) - (masked or {}).get(name, 0)
        if zeros and zeros >= least * weight.numel():
            found[name] = zeros
    return found


@lru_cache
def _spread(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(256, 8): the eight masks of every byte."""
    bits = torch.arange(256, device=device).unsqueeze(1) >> torch.arange(8, device=device) & 1
    return bits.bool() if dtype == torch.bool else -bits.to(dtype)


class Masks:
    """One mask a weight, keyed by layer name in the model's order; all kept to begin with."""

    def __init__(self, shapes: Mapping[str, Sequence[int]], device: torch.device | str | None = None) -> None:
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.zeros = dict.fromkeys(self.shapes, 0)
        self._packed = {name: _all_kept(math.prod(shape), device) for name, shape in self.shapes.items()}
        self._hash: str | None = None

    @classmethod
    def from_zeros(cls, weights: Mapping[str, Tensor]) -> Masks:
        """Masks that keep what is not zero, on the device of the first weight.

        Kept weights that happen to be zero are taken for pruned.
        """
        device = next((weight.device for weight in weights.values()), None)
        masks = cls({name: weight.shape for name, weight in weights.items()}, device)
        for name, weight in weights.items():
            masks.set(name, weight.detach().bool())
        return masks

    def accidental(self) -> list[str]:
        """Layers that were hardly pruned: their zeros, if inferred, may be there by accident."""
        return [name for name, zeros in self.zeros.items() if 0 < zeros < ACCIDENTAL * math.prod(self.shapes[name])]

    @property
    def total(self) -> int:
        """Weights that have a mask."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def kept(self, name: str) -> Tensor:
        """The mask in its weight's shape, True where the weight is kept."""
        shape = self.shapes[name]
        return unpack(self._packed[name], math.prod(shape)).view(shape)

    def packed(self, name: str) -> Tensor:
        """The mask as `pack` makes it, one bit a weight."""
        return self._packed[name]

    def set(self, name: str, kept: Tensor) -> None:
        """Replace a mask by a bool tensor of as many elements."""
        size = math.prod(self.shapes[name])
        if kept.numel() != size:
            raise ValueError(f"the mask of {name} has {size} elements, not {kept.numel()}")
        self._packed[name].copy_(pack(kept.reshape(-1)))
        self.zeros[name] = size - count(self._packed[name])
        self._hash = None

    @torch.no_grad()
    def enforce_(self, weights: Mapping[str, Tensor]) -> None:
        """Write zeros wherever a mask has them."""
        for name in self.shapes:
            if self.zeros[name]:
                zero_(weights[name], self._packed[name])

    @contextmanager
    def applied(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, masked weights are zero; afterwards all of them are as they were before, to the bit.

        Holds a copy of every weight that has a mask.
        """
        before = {name: weights[name].detach().clone() for name in self.shapes if self.zeros[name]}
        self.enforce_(weights)
        try:
            yield
        finally:
            for name, weight in before.items():
                weights[name].detach().copy_(weight)

    def hash(self) -> str:
        """SHA-256 of all names, shapes and masks: equal on all ranks that hold equal masks."""
        if self._hash is None:
            digest = hashlib.sha256(json.dumps(self.shapes).encode())
            for packed in self._packed.values():
                digest.update(packed.cpu().numpy())
            self._hash = digest.hexdigest()
        return self._hash

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each mask, by layer name."""
        return {name: hashlib.sha256(packed.cpu().numpy()).hexdigest() for name, packed in self._packed.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The packed masks by name."""
        return dict(self._packed)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over packed masks; ValueError unless they are of these layers."""
        if list(state) != list(self.shapes) and sorted(state) != sorted(self.shapes):
            raise ValueError("these masks are of other layers")
        for name, shape in self.shapes.items():
            if state[name].shape != self._packed[name].shape:
                raise ValueError(f"the mask of {name} is of another size")
            self._packed[name].copy_(state[name])
            self.zeros[name] = math.prod(shape) - count(self._packed[name])
        self._hash = None

    def save(self, path: Path | str) -> None:
        """Write the packed masks as safetensors, atomically; the shapes are in the file's metadata.

        Equal masks give equal bytes. UsageError for what is no path.
        """
        path = arguments.path("the masks' file", path)
        metadata = {"format": FORMAT, "shapes": json.dumps(self.shapes)}
        tensors = {name: packed.cpu() for name, packed in self._packed.items()}
        write_bytes(path, _in_order(safetensors.torch.save(tensors, metadata)))

    @classmethod
    def load(cls, path: Path | str) -> Masks:
        """The masks of a file, or of a run folder, on the CPU. UsageError for none, or for a file that holds others."""
        path = arguments.path("masks", path)
        path = path / MASKS if os.path.isdir(path) else path
        try:
            open_regular(path).close()
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise UsageError(f"{quoted(path)} holds no masks of idvl")
                masks = cls(json.loads(metadata["shapes"]))
                masks.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except FileNotFoundError:
            raise UsageError(f"there are no masks {quoted(path)}") from None
        except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"cannot read the masks {quoted(path)}: {error}") from error
        return masks

    def verify(self, weights: Mapping[str, Tensor], structure: str = "unstructured") -> None:
        """RunError for the first of the `defects`."""
        for defect in self.defects(weights, structure):
            raise RunError(defect)

    def defects(self, weights: Mapping[str, Tensor], structure: str = "unstructured") -> Iterator[str]:
        """A line for each layer with a masked weight that is not zero, a NaN, or a group that is not N:M."""
        nm = parse(structure)
        for name, shape in self.shapes.items():
            weight = weights[name].detach() if name in weights else None
            if weight is None or tuple(weight.shape) != shape:
                actual = "nothing" if weight is None else tuple(weight.shape)
                yield f"the mask of {name} is {shape}, the model has {actual}"
                continue
            packed = self._packed[name].to(weight.device)
            # a tenth of the time of isnan
            if weight.numel() and bool(weight.amax().isnan()):
                yield f"{name} holds NaN"
            elif wrong := count(pack(weight.reshape(-1).bool()) & ~packed):
                yield f"{wrong} masked weights of {name} are not zero"
            if shape[-1] % nm.group:
                yield f"{name} has {shape[-1]} inputs, which {structure} does not divide"
            elif nm.grouped and not nm.holds(self.kept(name)):
                yield f"the mask of {name} does not keep {nm.keep} of every {nm.group} inputs"
