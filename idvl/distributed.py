"""The processes that share a run: each holds the rows of its samples, and works on its part of the features.

Alone, every method is the identity. It does not know what the rows are.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist

# its functions keep whatever group there is when it is first imported, and with it the group's threads
import torch.distributed.nn.functional
from accelerate import PartialState
from torch import Tensor

from idvl.device import find_device
from idvl.errors import RunError, UsageError, quoted

# how long processes wait for each other where all come at about the same time, in seconds, unless TIMEOUT says so; and
# where each works alone before: it reads a dataset, saves, or evaluates its share
WAITING, ALONE = 600.0, 12 * 3600.0
TIMEOUT = "IDVL_TIMEOUT"
# how long they wait for each other at the start
MEETING = timedelta(seconds=90)
# what torch says of an exchange that another process has left
BROKEN = re.compile(r"onnection|gloo|NCCL|ProcessGroup|pair closure")


class Team:
    """`rank` of `size` processes; with size > 1 torch.distributed must be initialised."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    def part(self, count: int) -> range:
        """This process's contiguous part of `count` things."""
        return range(*self._bounds(count)[self.rank])

    def share(self, local: Tensor, counts: list[int]) -> Tensor:
        """All processes' rows, this process's columns.

        `local`: (counts[rank], c), the same c everywhere. Returns (sum(counts), about c / size).
        """
        if self.size == 1:
            return local
        columns = self._bounds(local.shape[1])
        start, stop = columns[self.rank]
        sent = torch.cat([local[:, a:b].reshape(-1) for a, b in columns])
        received = sent.new_empty(sum(counts) * (stop - start))
        dist.all_to_all_single(
            received,
            sent,
            [count * (stop - start) for count in counts],
            [local.shape[0] * (b - a) for a, b in columns],
        )
        return received.view(sum(counts), stop - start)

    def reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def agree(self, settings: Mapping[str, Any]) -> None:
        """UsageError on all processes, naming the first that differs, unless all were given the same settings."""
        if self.size == 1:
            return
        everyone: list = [None] * self.size
        dist.all_gather_object(everyone, json.loads(json.dumps(settings, default=str)))
        for rank, other_settings in enumerate(everyone):
            for path, first, other in _differences(everyone[0], other_settings):
                raise UsageError(
                    f"processes 0 and {rank} were given different settings: {path} is {quoted(first)} and "
                    f"{quoted(other)}; give all processes the same command line and files"
                )

    def counts(self, local: int) -> list[int]:
        """Every process's number."""
        if self.size == 1:
            return [local]
        gathered: list = [None] * self.size
        dist.all_gather_object(gathered, local)
        return gathered

    def first(self, make: Callable[[], Any]) -> Any:
        """What `make` gives on the first process, on all; an error there is raised on all."""
        if self.size == 1:
            return make()
        box = [self.each(make if self.rank == 0 else lambda: None)]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def each(self, make: Callable[[], Any]) -> Any:
        """What `make` gives on each process; an error on any is raised on all. `make` must not communicate."""
        if self.size == 1:
            return make()
        result = failure = None
        try:
            result = make()
        except Exception as error:
            failure = error
        errors: list = [None] * self.size
        shared = failure
        if failure is not None and not isinstance(failure, UsageError | RunError):
            shared = RunError(f"process {self.rank}: {type(failure).__name__}: {failure}")
        with patient():
            dist.all_gather_object(errors, shared)
        if failure is not None:
            raise failure
        for error in filter(None, errors):
            raise error
        return result

    def _bounds(self, count: int) -> list[tuple[int, int]]:
        return list(pairwise(count * rank // self.size for rank in range(self.size + 1)))


def waiting() -> float:
    """Seconds that processes wait for each other in an exchange. UsageError for a TIMEOUT that is no such number."""
    text = os.environ.get(TIMEOUT, str(WAITING))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= ALONE:
        raise UsageError(f"{TIMEOUT} takes seconds, above 0 and at most {ALONE:g}, not {quoted(text)}")
    return seconds


def wait(seconds: float) -> None:
    """Let processes wait so long for each other from now on; torch then breaks the connection."""
    # the name until torch 2.13
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    set_timeout(timedelta(seconds=seconds), dist.group.WORLD)


@contextmanager
def patient() -> Iterator[None]:
    """Inside, processes wait for others that work alone."""
    wait(ALONE)
    try:
        yield
    except BaseException:
        # where the exchange broke, this fails too, and would hide what broke it
        with suppress(Exception):
            wait(waiting())
        raise
    wait(waiting())


def lost(error: BaseException) -> str | None:
    """What an exchange with the other processes broke of, in words; None for an error of another kind."""
    if not isinstance(error, RuntimeError) or not BROKEN.search(str(error)):
        return None
    if re.search(r"[Tt]imed? ?out", str(error)):
        silent = f"another process has not answered for {waiting():g} s"
        return f"{silent}: it is stuck, stopped or slow ({TIMEOUT} sets how many seconds to wait)"
    return "another process ended without a word, killed or out of memory"


def _differences(first: Any, second: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, value, other value) of what differs in two JSON values."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in [*first, *(key for key in second if key not in first)]:
            yield from _differences(first.get(key), second.get(key), f"{path}.{key}".lstrip("."))
    elif first != second:
        yield path, first, second


def join_team(
    device: str | None, settings: Mapping[str, Any] | None = None, **arguments: Any
) -> tuple[torch.device, Team]:
    """This process's device, and the team of all processes that were launched together.

    `device` None takes a CUDA GPU if there is one. Raises UsageError for a device that is not there, where several
    processes were launched that do not know of each other, and where their `settings` or other `arguments` differ.
    """
    # distances need float64, which Apple's GPUs lack
    cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal():
        raise UsageError(f"WORLD_SIZE is the number of processes that a launcher started, not {quoted(size)}: unset it")
    launched = int(size)
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
    team.agree({**(settings or {}), **arguments})
    return state.device, team


def _relaunch(launched: int, cpu: bool, cause: str) -> str:
    environment = "ACCELERATE_USE_CPU=true " if cpu else ""
    command = f"{environment}accelerate launch --multi_gpu --num_processes {launched} -m idvl ..."
    return f"{launched} processes were launched, but {cause}: use `{command}`, or unset WORLD_SIZE for one process"
