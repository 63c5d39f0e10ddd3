"""The samples of one process as batches, with echoes: samples computed a second time in a batch of another size.

The distance between the two computations of a sample is the noise of the computation itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from idvl.distributed import Team
from idvl.errors import UsageError
from idvl.models.inputs import encode
from idvl.reporter import Progress

if TYPE_CHECKING:
    from idvl.data.samples import Sample
    from idvl.models.loading import Loaded

MOST_ECHOES = 16
MOST_BATCHES = 4096


def encode_part(
    loaded: Loaded,
    samples: Sequence[Sample],
    echoes: Sequence[int],
    *,
    batch_size: int,
    team: Team,
    fixed: bool,
    progress: Progress | None,
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """This process's batches of model inputs on the CPU, on the last process one of the echoes last; and another batch.

    That other batch holds some of the samples, but not as many as the first one. `fixed`: as in `encode`. Raises
    UsageError for no samples, fewer batches than processes, or more batches than threads can be had.
    """
    if not samples:
        raise UsageError("no samples to measure on")
    count = -(-len(samples) // batch_size)
    part = team.part(count)
    if count < team.size:
        raise UsageError(
            f"{len(samples)} samples in batches of {batch_size} are too few for {team.size} processes: "
            "use a smaller batch_size or fewer processes"
        )
    if len(part) > MOST_BATCHES:
        raise UsageError(
            f"{len(part)} batches are too many, each takes a thread: "
            f"give a batch_size of {-(-len(samples) // MOST_BATCHES)} or more"
        )
    also = [[samples[row] for row in echoes]] if team.rank == team.size - 1 else []
    also.append(samples[: 1 if batch_size > 1 else 2])
    options = {"batch_size": batch_size, "part": part, "fixed": fixed}
    *batches, other = encode(loaded, samples, also=also, progress=progress, **options)
    return batches, other


def draws_of(n: int, echoes: Sequence[int], *, batch_size: int, team: Team, seed: int) -> list[Tensor]:
    """For each batch of `encode_part` its samples' draws in [0, 1)."""
    draws = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    part = [draws[k * batch_size : (k + 1) * batch_size] for k in team.part(-(-n // batch_size))]
    return [*part, draws[echoes]] if team.rank == team.size - 1 else part


def echo_rows(n: int, batch_size: int, processes: int) -> list[int]:
    """The last MOST_ECHOES rows of the last process, in reverse order, to be computed again in a batch of another size.

    They are the same whatever the batch size, as long as the last process has as many.
    """
    batches = -(-n // batch_size)
    first = batches * (processes - 1) // processes * batch_size
    rows = list(range(n - 1, first - 1, -1))[:MOST_ECHOES]
    sizes = {batch_size, n - (batches - 1) * batch_size}
    again = itertools.cycle(rows)
    while len(rows) in sizes:
        rows.append(next(again))
    return rows
