"""The processes and the device of a run, as the launcher set them up. It does not know what they will do."""

from __future__ import annotations

import atexit
import ctypes
import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

# its functions keep whatever group there is when it is first imported, and with it the group's threads
import torch.distributed.nn.functional
from accelerate import PartialState

from idvl.errors import UsageError, quoted
from idvl.models.loading import find_device
from idvl.models.team import Team, wait, waiting
from idvl.recipe import Recipe

# how long processes wait for each other at the start
MEETING = timedelta(seconds=90)
# settings that may differ between machines
PLACES = {"model": {"device", "cache_dir"}, "estimate": {"spill"}}
# peaks of memory before the last one that was reset
_EARLIER_PEAKS: dict[torch.device, int] = {}


def join_team(device: str | None, recipe: Recipe | None = None, **asked: Any) -> tuple[torch.device, Team]:
    """This process's device, and the team of all processes that were launched together.

    `device` None takes a CUDA GPU if there is one. Raises UsageError for a device that is not there, where several
    processes were launched that do not know of each other, and where their `recipe` or what else is `asked` differs.
    """
    # distances need float64, which Apple's GPUs lack
    cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    said = os.environ.get("WORLD_SIZE", "1")
    if not said.isdecimal():
        raise UsageError(f"WORLD_SIZE is the number of processes that a launcher started, not {quoted(said)}: unset it")
    launched = int(said)
    try:
        state = PartialState(cpu=cpu, timeout=MEETING)
    except ValueError as error:
        raise UsageError(_relaunch(launched, cpu, f"they cannot find each other ({error})")) from error
    except dist.DistError as error:
        raise UsageError(_relaunch(launched, cpu, f"not all came within {MEETING.seconds} s")) from error
    if launched > 1 and state.num_processes == 1:
        raise UsageError(_relaunch(launched, cpu, "Accelerate sees one, so each would do all the work"))
    if state.num_processes == 1:
        # Accelerate's state outlives a call, and keeps the device of the first one
        return find_device(device, torch.float64), Team()
    wait(waiting())
    if state.device.type == "cpu":
        # a thread of the group that outlives the interpreter aborts the process
        atexit.register(state.destroy_process_group)
    team = Team(state.process_index, state.num_processes)
    settings = recipe.model_dump(mode="json", exclude=PLACES) if recipe else {}
    team.agree({**settings, **asked})
    return state.device, team


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


def _relaunch(launched: int, cpu: bool, cause: str) -> str:
    environment = "ACCELERATE_USE_CPU=true " if cpu else ""
    command = f"{environment}accelerate launch --multi_gpu --num_processes {launched} -m idvl ..."
    return f"{launched} processes were launched, but {cause}: use `{command}`, or unset WORLD_SIZE for one process"


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most: on a GPU its tensors, on a CPU all of it."""
    return max(_peak(device), _EARLIER_PEAKS.get(device, 0))


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


def free_memory(device: torch.device, team: Team) -> int:
    """Bytes free on the device; on a CPU, this process's share of what the machine or its container has free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        free = min(free, max(int(text) - int(used.read_text()), 0))
    return free // team.size
