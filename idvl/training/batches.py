"""Which samples a step learns from, and these as model inputs: the same for any number of processes.

Everything follows from a seed and a position, counted in steps from the start of the run, so that a resumed run goes
on exactly where it was.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from idvl.data.augmentation import augmented
from idvl.data.sample import decoded
from idvl.errors import UsageError, worker_errors
from idvl.models.processors import image_processor_of

if TYPE_CHECKING:
    from idvl.data.samples import Sample
    from idvl.models.families.base import Family
    from idvl.models.loading import Loaded


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of `samples` samples. Each epoch is a permutation of its own; what fills no whole step is dropped.

    A step's samples are consecutive in the permutation. Each of its `accumulate` parts is `batch_size` samples of
    rank 0, then of rank 1, and so on.
    """

    samples: int
    batch_size: int
    accumulate: int
    ranks: int
    seed: int

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return self.samples // (self.batch_size * self.accumulate * self.ranks)

    def parts(self, rank: int, position: int) -> Iterator[list[tuple[int, int]]]:
        """The batches of `rank` from the step at `position` on, without end: (epoch, index) of each sample."""
        while True:
            epoch, step = divmod(position, self.steps)
            generator = torch.Generator().manual_seed(_number(self.seed, epoch))
            permutation = torch.randperm(self.samples, generator=generator).tolist()
            for part in range(step * self.accumulate, self.steps * self.accumulate):
                start = (part * self.ranks + rank) * self.batch_size
                yield [(epoch, index) for index in permutation[start : start + self.batch_size]]
            position = (epoch + 1) * self.steps


class Reading(Dataset):
    """Samples by (epoch, index), each with the one text, and the one answer, that it is read with in that epoch.

    Of texts that say the same, and of answers, a choice seeded by epoch and sample takes one. With `size`, width and
    height, images are augmented to it, seeded likewise, and half of the samples `swapped`, as in `TrainingTask`;
    UsageError for an image that cannot be decoded.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        seed: int,
        size: tuple[int, int] | None = None,
        swapped: Callable[[Sample], Sample] | None = None,
    ):
        self._samples, self._seed, self._size, self._swapped = samples, seed, size, swapped

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        sample, number = self._samples[index], _number(self._seed, epoch, index)
        if self._size:
            generator = random.Random(number)
            sample = _augmented(sample, self._size, generator)
            if self._swapped and generator.random() < 0.5:
                sample = self._swapped(sample)
        if len(sample.texts) < 2 and len(sample.answers) < 2:
            return sample
        return replace(sample, texts=_single(sample.texts, number), answers=_single(sample.answers, number))

    def __len__(self) -> int:
        return len(self._samples)


@dataclass(frozen=True)
class Collate:
    """Samples -> model inputs with labels on the CPU, texts padded to the longest of the batch."""

    family: Family
    processor: Any
    config: Any

    def __call__(self, samples: list[Sample]) -> dict[str, Tensor]:
        length = self.family.text_length(self.processor, samples)
        return self.family.training_task.inputs(self.processor, samples, length, self.config)


def augmented_size(loaded: Loaded) -> tuple[int, int]:
    """Width and height to which a model's images are augmented.

    UsageError where it does not read one size alone, or where its processor crops images of that size again.
    """
    images, shapes = image_processor_of(loaded.processor), set()

    def pixels(image: Image.Image) -> Any:
        return images(images=[image], return_tensors="pt").get("pixel_values")

    for size in ((96, 64), (64, 96)) if images else ():
        values = pixels(Image.new("RGB", size))
        shapes.add(tuple(values.shape) if isinstance(values, Tensor) else ())
    shape = shapes.pop() if len(shapes) == 1 else ()
    if loaded.family.shape or len(shape) != 4:
        raise UsageError(
            f"augmentation crops images to the one size that a model reads, and {loaded.name} reads "
            f"{'images of several sizes' if images else 'no images'}: leave augmentation out"
        )
    whole = Image.new("RGB", (shape[3], shape[2]))
    if torch.equal(pixels(whole), pixels(ImageOps.expand(ImageOps.crop(whole, 1), 1, "white"))):
        raise UsageError(
            f"the image processor of {loaded.name} crops images, which augmentation has cropped already: leave "
            "augmentation out"
        )
    return whole.size


def load(
    loaded: Loaded,
    samples: Sequence[Sample],
    order: Order,
    *,
    rank: int,
    position: int,
    workers: int,
    size: tuple[int, int] | None,
) -> Iterator[dict[str, Tensor]]:
    """The batches of `order.parts` as model inputs, prepared by `workers` processes ahead of time (0: by this one).

    `size` is that of `Reading`.
    """
    loader = DataLoader(
        Reading(samples, order.seed, size, loaded.family.training_task.swapped),
        batch_sampler=_Endless(order, rank, position),
        collate_fn=Collate(loaded.family, loaded.processor, loaded.model.config),
        num_workers=workers,
        pin_memory=loaded.model.device.type == "cuda",
        # without one of its own it would draw from the generator of dropout
        generator=torch.Generator().manual_seed(order.seed),
    )
    log, once = logging.getLogger("idvl.models.inputs"), _Once()
    log.addFilter(once)
    try:
        with worker_errors():
            yield from loader
    finally:
        # what comes after in this process, as an estimate, says its own
        log.removeFilter(once)


@dataclass(frozen=True)
class _Endless:
    order: Order
    rank: int
    position: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.order.parts(self.rank, self.position)


class _Once(logging.Filter):
    """Lets one message of each wording through: every batch may have texts that are cut."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        new = record.msg not in self._seen
        self._seen.add(record.msg)
        return new


def _augmented(sample: Sample, size: tuple[int, int], generator: random.Random) -> Sample:
    """The sample with its image, and its second one, each augmented by itself."""
    try:
        first, second = (
            None if source is None else augmented(decoded(source), size, generator)
            for source in (sample.source, sample.second)
        )
    except OSError as error:
        raise UsageError(f"an image of sample {sample.id} cannot be decoded: {error}") from error
    return replace(sample, source=first, second=second)


def _single(choices: tuple[str, ...], number: int) -> tuple[str, ...]:
    return (choices[number % len(choices)],) if choices else ()


def _number(*of: int) -> int:
    """A number below 2**63 that depends on all of `of`, and on nothing else."""
    digest = hashlib.blake2b("/".join(map(str, of)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
