"""Ranks and recalls against a naive reference, ties and blocks included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from idvl.errors import UsageError
from idvl.metrics import retrieval
from idvl.metrics.retrieval import nearest, ranks, recalls


def naive(images: Tensor, texts: Tensor, owner: Tensor) -> tuple[list[int], list[int]]:
    """Ranks from all similarities at once, one by one; cosines that differ by ROUNDING are equal."""
    images, texts = images.double().view(len(images), -1, images.shape[-1]), texts.double()
    table = (images @ texts.T).amax(1).tolist()
    slack = (retrieval.ROUNDING * images.norm(dim=-1).amax(1)[:, None] * texts.norm(dim=1)).tolist()
    own = owner.tolist()
    found_images, found_texts = [], []
    for image, row in enumerate(table):
        best = max(value - slack[image][text] for text, value in enumerate(row) if own[text] == image)
        found_images.append(1 + sum(value >= best for text, value in enumerate(row) if own[text] != image))
    for text, image in enumerate(own):
        column = [row[text] for row in table]
        least = column[image] - slack[image][text]
        found_texts.append(1 + sum(value >= least for other, value in enumerate(column) if other != image))
    return found_images, found_texts


def embeddings(n: int, d: int, seed: int, *, whole: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """n images with one to five captions each, in a shuffled order; whole numbers make many ties."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(n).repeat_interleave(torch.randint(1, 6, (n,), generator=generator))
    owner = owner[torch.randperm(len(owner), generator=generator)]
    if whole:
        images, noise = (torch.randint(-1, 2, (rows, d), generator=generator).float() for rows in (n, len(owner)))
    else:
        images, noise = (torch.randn(rows, d, generator=generator) for rows in (n, len(owner)))
    return images, images[owner] + noise, owner


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("block", [1, 300, 2**23])
def test_ranks_are_those_of_the_naive_reference(whole: bool, block: int, monkeypatch) -> None:
    monkeypatch.setattr(retrieval, "BLOCK", block)
    images, texts, owner = embeddings(90, 4, seed=1, whole=whole)
    found = ranks(images, texts, owner)
    assert [side.tolist() for side in found] == list(map(list, naive(images, texts, owner)))


@pytest.mark.parametrize("block", [1, 300, 2**23])
def test_of_an_image_with_several_vectors_the_most_similar_counts(block: int, monkeypatch) -> None:
    monkeypatch.setattr(retrieval, "BLOCK", block)
    first, texts, owner = embeddings(90, 4, seed=1, whole=True)
    images = torch.stack([first, *(embeddings(90, 4, seed=seed, whole=True)[0] for seed in (2, 3))], 1)
    found = ranks(images, texts, owner)
    assert [side.tolist() for side in found] == list(map(list, naive(images, texts, owner)))
    assert not torch.equal(found[0], ranks(first, texts, owner)[0])
    table = (images @ texts.T).amax(1)
    assert torch.equal(table.gather(1, nearest(images, texts, 7)), table.sort(dim=1, descending=True)[0][:, :7])
    assert torch.equal(table.T.gather(1, nearest(texts, images, 7)), table.T.sort(dim=1, descending=True)[0][:, :7])


def test_scores_of_every_pair_have_the_same_ranks() -> None:
    images, texts, owner = embeddings(90, 4, seed=1, whole=True)
    assert all(map(torch.equal, retrieval.ranks_of_scores(images @ texts.T, owner), ranks(images, texts, owner)))


def test_equal_similarities_count_against_the_model() -> None:
    images, owner = torch.ones(4, 3), torch.arange(4)
    assert [side.tolist() for side in ranks(images, torch.ones(4, 3), owner)] == [[4] * 4] * 2


@pytest.mark.parametrize("n", [2, 66, 130])
def test_a_model_that_finds_everything_alike_scores_nothing(n: int) -> None:
    one = torch.randn(1, 64, generator=torch.Generator().manual_seed(n))
    owner = torch.arange(n).repeat_interleave(5)
    images, texts = ranks(one.expand(n, -1), one.expand(5 * n, -1), owner)
    assert (images > 1).all() and (texts == n).all()


def test_captions_of_the_same_image_do_not_compete() -> None:
    images, texts = torch.eye(2), torch.tensor([[1.0, 0], [1, 0], [0.5, 0], [0, 1]])
    found = ranks(images, texts, torch.tensor([0, 0, 0, 1]))
    assert [side.tolist() for side in found] == [[1, 1], [1, 1, 1, 1]]


def test_images_shown_twice_and_captions_written_twice_are_ties() -> None:
    images, texts, owner = embeddings(70, 16, seed=2)
    doubled = ranks(images.repeat(2, 1), texts.repeat(2, 1), torch.cat([owner, owner + 70]))
    once = ranks(images, texts, owner)
    assert doubled[1].tolist() == (2 * once[1]).tolist() * 2
    assert (doubled[0] >= 2 * once[0].repeat(2)).all()


def test_half_precision_is_compared_as_float32() -> None:
    images, texts, owner = embeddings(20, 8, seed=3, whole=True)
    expected = ranks(images, texts, owner)
    assert all(map(torch.equal, ranks(images.half(), texts.half(), owner), expected))


def test_recalls_by_hand() -> None:
    owner = torch.tensor([0, 0, 1, 2])
    found = recalls(torch.tensor([1, 6, 11]), torch.tensor([1, 2, 5, 10]), owner)
    assert {name: measured.value for name, measured in found.items()} == pytest.approx(
        {
            "image-to-text R@1": 100 / 3,
            "image-to-text R@5": 100 / 3,
            "image-to-text R@10": 200 / 3,
            "text-to-image R@1": 25,
            "text-to-image R@5": 75,
            "text-to-image R@10": 100,
        }
    )
    assert found["text-to-image R@1"].parts.tolist() == [[1, 2], [0, 1], [0, 1]]


def test_nearest_are_those_of_a_full_sort(monkeypatch) -> None:
    monkeypatch.setattr(retrieval, "BLOCK", 500)
    images, texts, _ = embeddings(40, 8, seed=4)
    order = (images @ texts.T).argsort(dim=1, descending=True)
    assert torch.equal(nearest(images, texts, 7), order[:, :7])


@pytest.mark.parametrize(
    ("images", "texts", "owner", "told"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), [0, 1], "not \\(2, 3\\), \\(2, 4\\)"),
        (torch.ones(2, 3), torch.ones(2, 3), [0], "owned by"),
        (torch.ones(2, 3), torch.ones(2, 3), [0, 0], "image 1 has no caption"),
        (torch.ones(2, 3), torch.ones(2, 3), [0, 2], "images 0 to 1, not 0 to 2"),
        (torch.ones(2, 3), torch.full((2, 3), torch.nan), [0, 1], "of captions are not finite"),
        (torch.full((2, 3), torch.inf), torch.ones(2, 3), [0, 1], "of images are not finite"),
        (torch.ones(0, 3), torch.ones(0, 3), [], "no predictions"),
        (torch.ones(2, 3), torch.ones(0, 3), [], "image 0 has no caption"),
    ],
)
def test_what_cannot_be_ranked_is_refused(images: Tensor, texts: Tensor, owner: list[int], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        ranks(images, texts, torch.tensor(owner, dtype=torch.long))
