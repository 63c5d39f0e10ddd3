"""The order of samples: the same for any number of processes, and from any position on."""

import dataclasses
import itertools
import logging
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessorPil

from idvl.errors import UsageError
from idvl.models.loading import wrap
from idvl.models.skills import clean_caption
from idvl.training.batches import Collate, Order, Reading, augmented_size, load
from tests.support import tiny

SIZES = [(12, 1, 1), (6, 2, 1), (6, 1, 2), (3, 2, 2), (1, 4, 3)]


def order(batch_size=12, accumulate=1, ranks=1, samples=100, seed=5):
    return Order(samples=samples, batch_size=batch_size, accumulate=accumulate, ranks=ranks, seed=seed)


def steps(order, n, position=0):
    """The samples of each of n steps, over all ranks."""
    readers = [order.parts(rank, position) for rank in range(order.ranks)]
    taken = [[next(reader) for _ in range(order.accumulate) for reader in readers] for _ in range(n)]
    return [list(itertools.chain(*parts)) for parts in taken]


@pytest.mark.parametrize(("batch_size", "accumulate", "ranks"), SIZES)
def test_a_step_learns_from_the_same_samples_however_it_is_split(batch_size, accumulate, ranks):
    assert steps(order(batch_size, accumulate, ranks), 20) == steps(order(), 20)


def test_an_epoch_takes_no_sample_twice_and_drops_the_rest():
    first, second = (
        [index for step in steps(order(), 8, position) for _, index in step] for position in (0, 8)
    )  # fmt: skip
    for epoch in (first, second):
        assert len(epoch) == len(set(epoch)) == 96
    assert first != second
    assert {epoch for step in steps(order(), 8, 8) for epoch, _ in step} == {1}


@pytest.mark.parametrize("position", [1, 7, 8, 21])
def test_any_position_can_be_gone_on_from(position):
    assert steps(order(3, 2, 2), 30)[position:] == steps(order(3, 2, 2), 30 - position, position)


def test_another_seed_is_another_order():
    assert steps(order(), 1) != steps(order(seed=6), 1)


def test_each_epoch_reads_one_of_a_samples_captions():
    sample = dataclasses.replace(tiny.samples(1)[0], texts=("a", "b", "c"))
    reading = Reading([sample] * 40, seed=1)
    chosen = [reading[(epoch, index)].texts for epoch in range(3) for index in range(40)]
    assert set(chosen) == {("a",), ("b",), ("c",)}
    assert chosen == [reading[(epoch, index)].texts for epoch in range(3) for index in range(40)]
    assert chosen[:40] != chosen[40:80]


def test_a_question_stays_beside_the_answer_chosen():
    sample = dataclasses.replace(tiny.samples(1)[0], texts=("q",), answers=("x", "y"))
    reading = Reading([sample] * 40, seed=1)
    read = [reading[(0, index)] for index in range(40)]
    assert {(sample.texts, sample.answers) for sample in read} == {(("q",), ("x",)), (("q",), ("y",))}


def test_images_are_augmented_alike_wherever_and_whenever_they_are_read():
    """By seed, epoch and sample alone; the processor leaves the size as it is."""
    loaded = wrap(*tiny.vit())
    size = augmented_size(loaded)
    assert size == (tiny.SIDE, tiny.SIDE)
    samples = [dataclasses.replace(sample, label=1) for sample in tiny.samples(4)]
    first, again, other = Reading(samples, 1, size), Reading(samples, 1, size), Reading(samples, 2, size)
    keys = [(epoch, index) for epoch in range(2) for index in range(4)]
    images = [first[key].image for key in keys]
    assert [again[key].image for key in reversed(keys)] == images[::-1]
    assert not any(other[key].image in images for key in keys)
    assert all(one != two for one, two in itertools.combinations(images, 2))
    assert first[0, 0].second.size == size and first[0, 0].second != images[0]
    inputs = Collate(loaded.family, loaded.processor, loaded.model.config)([first[key] for key in keys])
    assert torch.equal(inputs["pixel_values"][0], torch.from_numpy(np.array(images[0])).permute(2, 0, 1) / 127.5 - 1)


def swapped_as_blip_does(sentence):
    """The words of data/nlvr_dataset.py, of a sentence that pre_caption has cleaned."""
    return " ".join({"left": "right", "right": "left"}.get(word, word) for word in sentence.split(" "))


def test_augmentation_swaps_a_pair_half_of_the_time_and_left_with_right_in_its_sentence():
    loaded = wrap(*tiny.blip_nlvr2())
    red, blue = (Image.new("RGB", (40, 32), color) for color in ("red", "blue"))
    texts = ("The left one is red.", "Right (left): the leftmost; LEFT", "left, right-hand or left", "two dogs")
    pair = dataclasses.replace(tiny.samples(1)[0], source=red, second=blue, label=1)
    samples = [dataclasses.replace(pair, texts=(text,)) for text in texts * 12]
    task, read = loaded.family.training_task, []
    for number, text in enumerate(texts * 12):
        sample = Reading(samples, 1, augmented_size(loaded), task.swapped)[0, number]
        first, second = (np.asarray(image, int).sum((0, 1)) for image in sample.images)
        as_given = first[0] > first[2]
        assert as_given == (second[0] < second[2]) and sample.label == 1
        cleaned = clean_caption(text, words=40)
        expected = cleaned if as_given else swapped_as_blip_does(cleaned)
        assert clean_caption(sample.texts[0], words=40) == expected
        read.append(bool(as_given))
    assert 16 < sum(read) < 32

    place = {"rank": 0, "position": 0, "workers": 0, "size": augmented_size(loaded)}
    batch = next(load(loaded, samples, order(batch_size=48, samples=48, seed=1), **place))
    sums = batch["pixel_values"].sum((-1, -2))
    assert sorted(read) == sorted((sums[:, 0, 0] > sums[:, 0, 2]).tolist())
    # a model that reads one image reads the first
    assert all(wrap(*tiny.KINDS[kind]()).family.training_task.swapped is None for kind in ("blip", "vit"))


@pytest.mark.parametrize(("kind", "said"), [("vilt", "reads images of several sizes"), ("gpt2", "reads no images")])
def test_augmentation_needs_images_of_one_size(kind, said):
    with pytest.raises(UsageError, match=f"{said}: leave augmentation out"):
        augmented_size(wrap(*tiny.KINDS[kind]()))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded_is_told_in_one_line(workers):
    loaded = wrap(*tiny.blip())
    samples = [dataclasses.replace(sample, source=b"no image") for sample in tiny.samples(4)]
    place = {"rank": 0, "position": 0, "workers": workers, "size": None}
    with pytest.raises(UsageError, match=r"\Athe image of sample \S+ cannot be decoded: [^\n]+\Z"):
        next(load(loaded, samples, order(batch_size=2, samples=4), **place))


def test_augmented_images_are_not_cropped_again():
    model, _ = tiny.KINDS["vit"]()
    side = {"height": tiny.SIDE, "width": tiny.SIDE}
    for edge, refused in ((tiny.SIDE, False), (2 * tiny.SIDE, True)):
        processor = BitImageProcessorPil(size={"shortest_edge": edge}, crop_size=side)
        with pytest.raises(UsageError, match="crops images") if refused else nullcontext():
            assert augmented_size(wrap(model, processor)) == (tiny.SIDE, tiny.SIDE)


def test_an_image_that_cannot_be_augmented_is_named():
    sample = dataclasses.replace(tiny.samples(1)[0], source=b"GIF89a")
    with pytest.raises(UsageError, match="image of sample tiny-0 cannot be decoded"):
        Reading([sample], 1, (32, 32))[0, 0]


def test_warnings_of_inputs_are_told_again_after_a_training(caplog):
    loaded, log = wrap(*tiny.blip()), logging.getLogger("idvl.models.inputs")
    batches = load(loaded, tiny.samples(4), order(batch_size=2, samples=4), rank=0, position=0, workers=0, size=None)
    next(batches)
    log.warning("cut"), log.warning("cut")
    batches.close()
    log.warning("cut")
    assert caplog.messages == ["cut", "cut"]
