"""A pass of a task over a dataset, its records on disk as they come: shared by processes, resumed where it stopped.

It does not know what a record says.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from idvl import predictions
from idvl.device import free_memory, held_memory, peak_within
from idvl.distributed import Team
from idvl.errors import RunError, UsageError, first_line, worker_errors
from idvl.models.load_errors import REFUSED
from idvl.predictions import Record
from idvl.tasks import Pass

# processes that prepare batches ahead for a GPU; on a CPU they would take the cores from the model
WORKERS = 4
# the largest batch that is tried, by kind of device
MOST = {"cpu": 16, "cuda": 256}
# the share of free memory that a batch may take
USED = 0.8


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What a pass did: items predicted now and found, lines that had to be redone, and the seconds.

    `seconds` is None where items were found, as it is not known what they took; `seconds_per_sample` where none was
    predicted.
    """

    predicted: int
    found: int
    redone: int
    seconds: float | None
    seconds_per_sample: float | None

    def __add__(self, other: Totals) -> Totals:
        """Two passes over the same items: an item counts as found where either had it."""
        return Totals(
            predicted=min(self.predicted, other.predicted),
            found=max(self.found, other.found),
            redone=self.redone + other.redone,
            seconds=_sum(self.seconds, other.seconds, 3),
            seconds_per_sample=_sum(self.seconds_per_sample, other.seconds_per_sample, 6),
        )


def _sum(one: float | None, other: float | None, digits: int) -> float | None:
    return None if one is None or other is None else round(one + other, digits)


def predict(
    task_pass: Pass,
    *,
    folder: Path,
    name: str,
    batch_size: int,
    team: Team,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> Totals:
    """Predict what is missing in FOLDER/NAME.jsonl, which then holds a record for every item, in order.

    Batches are the same whatever was there and however many processes share them, so a batch that is not whole is done
    again. RunError where a batch does not fit into memory.
    """
    total = len(task_pass.items)
    batches = [range(start, min(start + batch_size, total)) for start in range(0, total, batch_size)]
    complete, redone = team.first(lambda: _complete(folder, name, task_pass, batches))
    missing_batches = [batch for batch in batches if batch[0] not in complete]
    mine = missing_batches[team.rank :: team.size]
    start = time.perf_counter()

    def work() -> None:
        path = predictions.file_of(folder, name, team.rank)
        count = total - sum(map(len, missing_batches))
        progress(count, total)
        for batch, records in _predicted(task_pass, mine, device):
            named = zip(batch, records, strict=True)
            predictions.append(path, [{"number": n, "id": task_pass.ids[n], **record} for n, record in named])
            count += len(batch) * team.size
            progress(min(count, total), total)

    team.each(work)
    seconds = time.perf_counter() - start
    if missing_batches:
        team.first(lambda: predictions.merge(folder, name, predictions.collect(folder, name, task_pass.ids)[0]))
    predicted = sum(map(len, missing_batches))
    return Totals(
        predicted=predicted,
        found=total - predicted,
        redone=redone,
        seconds=round(seconds, 3) if predicted == total else None,
        seconds_per_sample=round(seconds / predicted, 6) if predicted else None,
    )


def _complete(folder: Path, name: str, task_pass: Pass, batches: Sequence[range]) -> tuple[set[int], int]:
    """The first numbers of the batches that are whole on disk, which then holds nothing else; lines given up."""

    def fits(number: int, record: Record) -> bool:
        return task_pass.fits(task_pass.items[number], record)

    records, dropped = predictions.collect(folder, name, task_pass.ids, fits)
    whole = [batch for batch in batches if all(number in records for number in batch)]
    complete = {number: records[number] for batch in whole for number in batch}
    if records or dropped:
        predictions.merge(folder, name, complete)
    return {batch[0] for batch in whole}, dropped + len(records) - len(complete)


class _Prepared(Dataset):
    """The inputs of each batch."""

    def __init__(self, task_pass: Pass, batches: Sequence[range]):
        self._pass, self._batches = task_pass, batches

    def __getitem__(self, number: int) -> Any:
        return self._pass.prepare([self._pass.items[i] for i in self._batches[number]])

    def __len__(self) -> int:
        return len(self._batches)


def _predicted(task_pass: Pass, batches: Sequence[range], device: torch.device) -> Iterator[tuple[range, list[Record]]]:
    cuda = device.type == "cuda"
    # batches are whole already, and stay as `prepare` made them
    loader = DataLoader(
        _Prepared(task_pass, batches),
        batch_size=None,
        num_workers=WORKERS if cuda else 0,
        collate_fn=_as_it_is,
        pin_memory=cuda,
        generator=torch.Generator(),
    )
    with worker_errors():
        for batch, inputs in zip(batches, loader, strict=True):
            with fitting(len(batch)):
                records = task_pass.perform([task_pass.items[i] for i in batch], inputs)
            yield batch, records


def _as_it_is(inputs: Any) -> Any:
    return inputs


@contextlib.contextmanager
def fitting(size: int) -> Iterator[None]:
    """Turn a lack of memory for a batch of this size, and pixels that the model refuses, into a line with a way out."""
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:  # how transformers refuses pixels of another size
        raise UsageError(REFUSED.format(first_line(error))) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        smaller = f"a smaller eval.batch_size ({size // 2} or auto)" if size > 1 else "another device"
        raise RunError(f"evaluating a batch of {size} does not fit into memory: --resume with {smaller}") from error


def largest_batch(task_pass: Pass, device: torch.device, team: Team) -> int:
    """The largest batch, a power of two, that fits into what is free on every process; tried out on the first items.

    Doubling ends at MOST, at the number of items, or where twice what the last one took would be more than USED of what
    is free. Memory that a trial does not show (a longer text, a larger image) is what the rest is for.
    """
    most = min(MOST.get(device.type, MOST["cpu"]), len(task_pass.items))
    return min(team.counts(team.each(lambda: _largest(task_pass, device, most, team))))


def _largest(task_pass: Pass, device: torch.device, most: int, team: Team) -> int:
    size, baseline = 1, held_memory(device)
    while True:
        items = task_pass.items[:size]
        try:
            took = peak_within(device, lambda some=items: task_pass.perform(some, task_pass.prepare(some))) - baseline
        except (torch.OutOfMemoryError, MemoryError):
            if size == 1:
                raise
            return size // 2
        if 2 * size > most or 2 * took > USED * free_memory(device, team.size):
            return size
        size *= 2
