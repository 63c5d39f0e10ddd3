"""The processes that train together: sums and rows over all of them, agreement, and failing together.

Alone, everything is the identity. It does not know what is summed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from idvl.distributed import lost, patient
from idvl.errors import RunError, UsageError, first_line

FAILURE = "idvl/failure"


def sums(values: list[float], device: torch.device) -> list[float]:
    """Each value added up over all processes, in float64."""
    if not _several():
        return values
    box = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(box)
    return box.tolist()


def rows(tensor: Tensor) -> tuple[Tensor, int]:
    """(the rows of all processes, differentiable; where this process's begin). All hold equally many."""
    if not _several():
        return tensor, 0
    return _Rows.apply(tensor), PartialState().process_index * len(tensor)


def objects(value: Any) -> list[Any]:
    """Every process's value, in the processes' order."""
    return gather_object([value])


def follow_first(tensors: Iterable[Tensor]) -> None:
    """Give these tensors the values of the first process, on all."""
    for tensor in tensors if _several() else ():
        dist.broadcast(tensor, src=0)


def meet() -> None:
    """Wait for all processes, as long as it takes: some of them have worked alone."""
    if _several():
        with patient():
            PartialState().wait_for_everyone()


def agree(digest: str, what: str, details: Callable[[], Mapping[str, str]] | None = None) -> None:
    """Raise RunError on all processes unless all have the same digest of `what` ("the masks at step 30").

    `details` gives a digest for each part, a layer say; it is asked only to name the first part that differs.
    """
    everyone = objects(digest)
    if len(set(everyone)) == 1:
        return
    where = ""
    if details is not None:
        parts = objects(dict(details()))
        differing = [name for name in parts[0] if len({part.get(name) for part in parts}) > 1]
        where = f", first in {differing[0]}" if differing else ""
    other = next(rank for rank, other_digest in enumerate(everyone) if other_digest != everyone[0])
    raise RunError(
        f"{what} differ between processes 0 and {other}{where}: they no longer train the same model; "
        "resume from the last checkpoint, with the same software and kind of device on every process"
    )


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Whatever one process fails of is what the others say too, instead of a broken connection.

    The first to fail leaves its reason in the store through which the processes found each other. When it ends, the
    others' next exchange breaks, and they look there.
    """
    try:
        yield
    except Exception as error:
        if not _several():
            raise
        if (reason := _first_failure(error)) is None:
            raise
        raise RunError(reason) from error


def _first_failure(error: Exception) -> str | None:
    """What another process failed of; None if this one failed by itself, and its reason is in the store now."""
    store = dist.distributed_c10d._get_default_store()
    rank = PartialState().process_index
    broken = None if isinstance(error, (UsageError, RunError)) else lost(error)
    try:
        if broken is None:
            reason = first_line(error)
            store.compare_set(FAILURE, "", f"{rank} {reason}")
            return None
        if store.check([FAILURE]):
            first, _, reason = store.get(FAILURE).decode().partition(" ")
            return f"process {first} failed: {reason}"
    except RuntimeError:
        pass  # the store is gone as well
    return f"{broken}; checkpoints that were written stay"


class _Rows(torch.autograd.Function):
    """The rows of all processes; backwards, what all of them want of this one's."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def _several() -> bool:
    return PartialState().num_processes > 1
