"""The device of a run and its memory. It does not know what is computed."""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from idvl.errors import UsageError, quoted

# peaks of memory before the last one that was reset
_EARLIER_PEAKS: dict[torch.device, int] = {}


def find_device(name: str | torch.device | None, dtype: torch.dtype = torch.float32) -> torch.device:
    """The device of a name; None is the first GPU, or the CPU where there is none.

    Raises UsageError for one that is not there or does not compute in `dtype`.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UsageError(
            f"unknown device {quoted(str(name))}: use cpu, or cuda, cuda:0, ... on a machine with a GPU"
        ) from error
    try:
        torch.empty(1, dtype=dtype, device=device)
        if device.type == "meta" or (device.type == "cpu" and device.index):
            raise RuntimeError("there is one CPU, and meta computes nothing")
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        there = "cpu, cuda, cuda:0 ..." if torch.cuda.is_available() else "cpu"
        what = str(dtype).removeprefix("torch.")
        raise UsageError(
            f"device {quoted(str(name))} is not there or does not compute in {what} on this machine: use {there}"
        ) from error
    return device


def give_back_freed_memory() -> None:
    """Have the C library return every freed block of a MiB or more to the system, for the rest of the process.

    By default glibc keeps blocks of up to 32 MiB for later, and small tensors that live on among them pin hundreds of
    MiB. Giving them back costs a forward pass some 15 % of its time. Elsewhere than on glibc this does nothing.
    """
    mmap_threshold = -3  # M_MMAP_THRESHOLD of malloc.h
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(mmap_threshold, 2**20)
    _trim()


def _trim() -> None:
    """Have the C library return what it can of the freed memory that it holds."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most: on a GPU its tensors, on a CPU all of it."""
    return max(_peak(device), _EARLIER_PEAKS.get(device, 0))


def cost_since(start: float, device: torch.device) -> dict[str, float]:
    """The seconds since `start`, a time of `time.perf_counter`, and the peak of memory in bytes."""
    return {"seconds": time.perf_counter() - start, "peak_memory": peak_memory(device)}


def held_memory(device: torch.device) -> int:
    """Bytes that this process holds now: on a GPU its tensors, on a CPU all of it, freed blocks given back first."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    _trim()
    return psutil.Process().memory_info().rss


def peak_within(device: torch.device, work: Callable[[], object]) -> int:
    """The most bytes that this process holds while `work` runs.

    Where the system cannot forget a peak (other than Linux, on a CPU) an earlier and higher one is returned.
    """
    _EARLIER_PEAKS[device] = peak_memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    work()
    return _peak(device)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory(device: torch.device, processes: int) -> int:
    """Bytes free on the device; on a CPU, of the machine or its container, shared by `processes`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        free = min(free, max(int(text) - int(used.read_text()), 0))
    return free // processes
