"""Recall and re-ranking against what a loop over all pairs gives."""

import numpy as np
import pytest
import torch

from idvl.data.samples import Sample
from idvl.models.families.base import Skill
from idvl.models.generation import Generation
from idvl.tasks import TaskSettings, retrieval

IMAGES, WIDTH = 12, 6


class Loaded:
    """A model with embeddings and a matching head that are given."""

    def __init__(self, seed=0, captions=3, vectors=None):
        generator = torch.Generator().manual_seed(seed)
        self.samples = [
            Sample(id=f"{i}", source=b"", texts=tuple(f"{i}/{k}" for k in range(1 + (i + captions) % captions)))
            for i in range(IMAGES)
        ]
        names = [text for sample in self.samples for text in sample.texts]
        draw = torch.nn.functional.normalize(torch.randn(IMAGES + len(names), WIDTH, generator=generator), dim=-1)
        several = torch.nn.functional.normalize(torch.randn(IMAGES, vectors or 1, WIDTH, generator=generator), dim=-1)
        self.images = {sample.id: several[i] if vectors else draw[i] for i, sample in enumerate(self.samples)}
        self.texts = {name: draw[IMAGES + i] for i, name in enumerate(names)}
        self.scores = {(i, t): torch.randn((), generator=generator) for i in self.images for t in self.texts}
        self.asked = []
        self.family = self

    @property
    def skills(self):
        def matched(loaded, pairs, settings):
            ((sample, texts),) = pairs
            self.asked += [(sample.id, text) for text in texts]
            return torch.stack([self.scores[sample.id, text] for text in texts])

        def same(loaded, items, settings):
            return items

        return {
            "embed_images": Skill(
                prepare=same, perform=lambda _, some, settings: torch.stack([self.images[each.id] for each in some])
            ),
            "embed_texts": Skill(
                prepare=same, perform=lambda _, some, settings: torch.stack([self.texts[each] for each in some])
            ),
            "match": Skill(prepare=same, perform=matched),
        }


def walked(done, size):
    parts = [done.items[start : start + size] for start in range(0, len(done.items), size)]
    return [record for part in parts for record in done.perform(part, done.prepare(part))]


def naive(loaded, k=0):
    """(best rank for each image, rank for each caption), by loops; k candidates are looked at again."""
    pairs = [(sample.id, text) for sample in loaded.samples for text in sample.texts]
    owner = {text: image for image, text in pairs}
    cosine = {
        (i, t): float(np.dot(loaded.images[i].numpy(), loaded.texts[t].numpy()).max())
        for i in loaded.images
        for t in owner
    }

    def order(query, keys):
        def key(other):
            pair = (query, other) if query in loaded.images else (other, query)
            near = sorted(keys, key=lambda o: -cosine[(query, o) if query in loaded.images else (o, query)])[:k]
            if not k:
                return -cosine[pair]
            return -(cosine[pair] + float(loaded.scores[pair])) if other in near else 1e9

        ranked = sorted(keys, key=key)
        near = [other for other in ranked if key(other) < 1e9] if k else ranked
        return near

    images = []
    for sample in loaded.samples:
        near = order(sample.id, list(owner))
        images.append(next((r for r, t in enumerate(near, 1) if owner[t] == sample.id), None))
    texts = []
    for text, image in owner.items():
        near = order(text, list(loaded.images))
        texts.append(next((r for r, i in enumerate(near, 1) if i == image), None))
    return images, texts


def recall(ranks, k):
    return 100 * sum(rank is not None and rank <= k for rank in ranks) / len(ranks)


@pytest.mark.parametrize("vectors", [None, 3])
@pytest.mark.parametrize("size", [1, 5, 12])
@pytest.mark.parametrize("k", [0, 4])
def test_recall_is_that_of_a_loop_over_all_pairs(size, k, vectors):
    loaded = Loaded(vectors=vectors)
    asked = TaskSettings(generation=Generation(), rerank=k)
    records = walked(retrieval.predict(loaded, loaded.samples, asked), size)
    again = retrieval.refine(loaded, loaded.samples, asked, records)
    refined = walked(again, 1) if again else []
    scores = retrieval.score(records, refined)
    images, texts = naive(loaded, k)
    for best in (1, 5, 10):
        assert scores.measures[f"image-to-text R@{best}"].value == pytest.approx(recall(images, best))
        assert scores.measures[f"text-to-image R@{best}"].value == pytest.approx(recall(texts, best))


def test_a_model_that_only_matches_scores_every_pair(monkeypatch):
    loaded, settings = Loaded(), TaskSettings(generation=Generation(), rerank=4)
    matching = {"match": loaded.skills["match"]}
    monkeypatch.setattr(Loaded, "skills", matching)
    whole = retrieval.predict(loaded, loaded.samples, settings)
    records = walked(whole, 5)
    assert retrieval.refine(loaded, loaded.samples, settings, records) is None
    assert all(whole.fits(sample, record) for sample, record in zip(loaded.samples, records, strict=True))
    assert not whole.fits(loaded.samples[0], {**records[0], "scores": records[0]["scores"][:8]})
    scores = retrieval.score(records)
    loaded.images = {name: torch.zeros(WIDTH) for name in loaded.images}
    images, texts = naive(loaded, IMAGES * 3)
    for best in (1, 5, 10):
        assert scores.measures[f"image-to-text R@{best}"].value == pytest.approx(recall(images, best))
        assert scores.measures[f"text-to-image R@{best}"].value == pytest.approx(recall(texts, best))
    with pytest.raises(ValueError, match="'scores' are of "):
        retrieval.score(records[1:])


def test_the_head_looks_at_each_pair_once():
    loaded = Loaded()
    asked = TaskSettings(generation=Generation(), rerank=4)
    records = walked(retrieval.predict(loaded, loaded.samples, asked), 4)
    walked(retrieval.refine(loaded, loaded.samples, asked, records), 1)
    assert len(loaded.asked) == len(set(loaded.asked)) < len(loaded.images) * len(loaded.texts)


@pytest.mark.parametrize("k", [4, 128])
def test_no_more_is_reranked_than_there_is(k):
    loaded, asked = Loaded(), TaskSettings(generation=Generation(), rerank=k)
    records = walked(retrieval.predict(loaded, loaded.samples, asked), 4)
    refined = walked(retrieval.refine(loaded, loaded.samples, asked, records), 1)
    assert k > len(loaded.texts) or k < len(loaded.images)
    assert retrieval.score(records, refined).details["reranked"] == min(k, len(loaded.texts))


def test_without_a_head_nothing_is_looked_at_again():
    loaded = Loaded()
    records = walked(retrieval.predict(loaded, loaded.samples, TaskSettings(generation=Generation(), rerank=0)), 4)
    assert retrieval.refine(loaded, loaded.samples, TaskSettings(generation=Generation(), rerank=0), records) is None


def test_records_keep_every_bit_of_an_embedding():
    loaded = Loaded()
    records = walked(retrieval.predict(loaded, loaded.samples, TaskSettings(generation=Generation())), 4)
    embedded = retrieval._unpacked(records)
    assert torch.equal(embedded.images, torch.stack(list(loaded.images.values())))
    assert torch.equal(embedded.texts, torch.stack(list(loaded.texts.values())))
