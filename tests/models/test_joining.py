"""Samples joined into a batch come apart again as they were."""

from __future__ import annotations

import pytest
import torch

from idvl.models.joining import IGNORED, SHARES, axis_of, joined, size_of, split

# patches, tokens of text
SAMPLES = [(8, 3), (16, 5), (4, 2)]


def parts():
    for patches, tokens in SAMPLES:
        yield {
            "pixel_values": torch.randn(patches, 6),
            "input_ids": torch.full((1, tokens), 7),
            "labels": torch.full((1, tokens), 7),
            "attention_mask": torch.ones(1, tokens, dtype=torch.long),
            "cross_attention_mask": torch.ones(1, tokens, 1, 4, dtype=torch.long),
            "image_grid_thw": torch.tensor([[1, 2, patches // 2]]),
        }


def test_text_is_padded_and_patches_are_packed():
    each = list(parts())
    batch = joined(each, pad=9, length=6)
    assert size_of(batch) == 3 and torch.equal(
        batch["pixel_values"], torch.cat([part["pixel_values"] for part in each])
    )
    assert batch["input_ids"].tolist() == [[7] * n + [9] * (6 - n) for _, n in SAMPLES]
    assert batch["labels"].tolist() == [[7] * n + [IGNORED] * (6 - n) for _, n in SAMPLES]
    assert batch["attention_mask"].sum(1).tolist() == [3, 5, 2]
    assert batch["cross_attention_mask"].shape == (3, 6, 1, 4) and batch["cross_attention_mask"].sum() == 40
    assert batch["image_grid_thw"].shape == (3, 3)


def test_text_is_padded_on_the_left_to_the_longest():
    batch = joined(list(parts()), pad=9, side="left")
    assert batch["input_ids"].tolist() == [[9] * (5 - n) + [7] * n for _, n in SAMPLES]
    assert batch["cross_attention_mask"][2, :, 0, 0].tolist() == [0, 0, 0, 1, 1]


def test_pictures_of_other_sizes_are_padded_with_zeros():
    pictures = [torch.rand(1, 2, 3, 4, 6) + 1, torch.rand(1, 5, 3, 8, 4) + 1]
    batch = joined([{"pixel_values": p, "input_ids": torch.ones(1, 2).long()} for p in pictures], pad=0)
    assert batch["pixel_values"].shape == (2, 5, 3, 8, 6)
    assert torch.equal(batch["pixel_values"][1, :, :, :, :4], pictures[1][0])
    assert batch["pixel_values"][0, 2:].abs().sum() == 0
    assert batch[SHARES].tolist() == [picture.numel() for picture in pictures]


@pytest.mark.parametrize("merged", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_packed_tensor_is_split_by_the_shares_of_its_samples(merged, axis):
    """As Qwen-VL packs patches along the first axis, and Pixtral along the second; the merger joins some."""
    each = list(parts())
    own = [torch.randn(patches // merged, 5) for patches, _ in SAMPLES]
    first, batch = joined(each[:1], pad=0), joined(each, pad=0)
    packed = torch.cat(own) if axis == 0 else torch.cat(own)[None]
    one = own[0].shape if axis == 0 else own[0][None].shape
    found = axis_of(one, packed.shape, first, batch)
    assert found == (axis, True)
    samples, real = split(packed, found, batch)
    for number, points in enumerate(own):
        assert torch.equal(samples[number][real[number]], points)


def test_equal_samples_need_no_mask_and_no_copy():
    each = [{**part, "pixel_values": torch.randn(4, 6)} for part in parts()]
    batch = joined(each, pad=0)
    packed = torch.randn(12, 5)
    samples, real = split(packed, axis_of(torch.Size([4, 5]), packed.shape, joined(each[:1], pad=0), batch), batch)
    assert real is None and samples.data_ptr() == packed.data_ptr() and torch.equal(samples, packed.view(3, 4, 5))


def test_a_row_a_sample_is_no_packed_tensor():
    each = list(parts())
    assert axis_of(torch.Size([1, 9, 5]), torch.Size([3, 9, 5]), joined(each[:1], pad=0), joined(each, pad=0)) == (
        0,
        False,
    )


def test_what_cannot_be_divided_is_not_split():
    batch = joined(list(parts()), pad=0)
    assert split(torch.randn(15, 5), (0, True), batch) is None
    assert axis_of(torch.Size([3, 5]), torch.Size([3, 5]), joined(list(parts())[:1], pad=0), batch) is None
