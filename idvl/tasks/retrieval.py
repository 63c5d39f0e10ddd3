"""Retrieval: each image looks for its captions among those of all images, and each caption for its image.

Images and captions are embedded; Recall@K counts how often one that belongs is among the K most similar. A model with a
matching head then looks again at the most similar ones, as BLIP does (Li et al. 2022): the head's score is added to the
similarity, and what it has not looked at comes after. One that only matches, as ViLT, scores every pair.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idvl.data.samples import Sample
from idvl.metrics import retrieval
from idvl.models.loading import Loaded
from idvl.tasks import Pass, Record, Task, TaskScores, TaskSettings, column, numbers, performed

SKILLS = (frozenset({"embed_images", "embed_texts"}), frozenset({"match"}))
# queries whose candidates are compared together
AT_ONCE = 128


@dataclass(frozen=True)
class Embedded:
    """images (n, d) or (n, q, d), captions (m, d), and which image each caption belongs to (m,)."""

    images: Tensor
    texts: Tensor
    owner: Tensor


def unusable_reason(sample: Sample) -> str | None:
    """An image and its captions."""
    return "no image" if sample.source is None else None if sample.texts else "no captions"


def predict(loaded: Loaded, samples: Sequence[Sample], settings: TaskSettings) -> Pass:
    """The embeddings of each image and of its captions, or the matching head's scores of each with all captions."""
    if "embed_images" not in loaded.family.skills:
        return _every_pair(loaded, samples, settings)
    prompt = settings.generation.prompt or ""
    of_images, of_texts = (loaded.family.skills[name] for name in ("embed_images", "embed_texts"))

    def prepare(some: Sequence[Sample]) -> dict[str, Any]:
        texts = [f"{prompt}{text}" for sample in some for text in sample.texts]
        return {
            "images": of_images.prepare(loaded, some, settings.generation),
            "texts": of_texts.prepare(loaded, texts, settings.generation),
        }

    def perform(some: Sequence[Sample], inputs: Any) -> list[Record]:
        images = performed(of_images, loaded, inputs["images"], settings, [sample.id for sample in some])
        owners = [sample.id for sample in some for _ in sample.texts]
        texts = performed(of_texts, loaded, inputs["texts"], settings, owners).split(
            [len(sample.texts) for sample in some]
        )
        return [
            {"captions": list(sample.texts), "image": _packed(image), "texts": [_packed(text) for text in own]}
            for sample, image, own in zip(some, images, texts, strict=True)
        ]

    def fits(sample: Sample, line: Record) -> bool:
        texts = line.get("texts")
        if line.get("captions") != list(sample.texts) or not isinstance(texts, list) or len(texts) != len(sample.texts):
            return False
        try:
            embedded = _unpacked([line])
        except (KeyError, TypeError, ValueError):
            return False
        return bool(embedded.images.isfinite().all() and embedded.texts.isfinite().all())

    return Pass(items=samples, ids=[sample.id for sample in samples], prepare=prepare, perform=perform, fits=fits)


def _every_pair(loaded: Loaded, samples: Sequence[Sample], settings: TaskSettings) -> Pass:
    """The matching head's scores of each image with the captions of all."""
    skill, prompt = loaded.family.skills["match"], settings.generation.prompt or ""
    captions = [f"{prompt}{text}" for sample in samples for text in sample.texts]

    def prepare(some: Sequence[Sample]) -> list[Any]:
        return [skill.prepare(loaded, [(sample, captions)], settings.generation) for sample in some]

    def perform(some: Sequence[Sample], inputs: list[Any]) -> list[Record]:
        scored = [
            performed(skill, loaded, batch, settings, [sample.id] * len(captions))
            for sample, batch in zip(some, inputs, strict=True)
        ]
        return [
            {"captions": list(sample.texts), "scores": _packed(scores)}
            for sample, scores in zip(some, scored, strict=True)
        ]

    def fits(sample: Sample, line: Record) -> bool:
        try:
            scores = _rows([line["scores"]])
        except (KeyError, TypeError, ValueError):
            return False
        sound = scores.shape[1] == len(captions) and bool(scores.isfinite().all())
        return sound and line.get("captions") == list(sample.texts)

    return Pass(items=samples, ids=[sample.id for sample in samples], prepare=prepare, perform=perform, fits=fits)


def refine(loaded: Loaded, samples: Sequence[Sample], settings: TaskSettings, records: Sequence[Record]) -> Pass | None:
    """The matching head's scores of each image with its most similar captions, and with those most similar to it.

    Pairs of both directions are taken together by image, so that each image is encoded once.
    """
    if not settings.rerank or not {"match", "embed_images"} <= set(loaded.family.skills):
        return None
    skill = loaded.family.skills["match"]
    embedded = _unpacked(records)
    prompt = settings.generation.prompt or ""
    captions = [f"{prompt}{caption}" for record in records for caption in record["captions"]]
    pairs = _candidate_pairs(embedded, settings.rerank)
    texts = len(embedded.texts)
    counts = torch.bincount(pairs // texts, minlength=len(embedded.images)).tolist()
    partners = [some.tolist() for some in (pairs % texts).split(counts)]
    items = list(zip(samples, partners, strict=True))

    def prepare(some: Sequence[tuple[Sample, list[int]]]) -> list[Any]:
        return [
            skill.prepare(loaded, [(sample, [captions[number] for number in numbers])], settings.generation)
            for sample, numbers in some
        ]

    def perform(some: Sequence[tuple[Sample, list[int]]], inputs: list[Any]) -> list[Record]:
        return [
            {
                "rerank": settings.rerank,
                "captions": numbers,
                "scores": performed(skill, loaded, batch, settings, [sample.id] * len(numbers)).tolist(),
            }
            for (sample, numbers), batch in zip(some, inputs, strict=True)
        ]

    def fits(item: tuple[Sample, list[int]], line: Record) -> bool:
        same = line.get("rerank") == settings.rerank and line.get("captions") == item[1]
        return same and numbers(line.get("scores"), len(item[1]))

    return Pass(items=items, ids=[sample.id for sample in samples], prepare=prepare, perform=perform, fits=fits)


def _candidate_pairs(embedded: Embedded, k: int) -> Tensor:
    """The pairs (p,) of an image with a text that is among its k most similar ones or has it among its own.

    A pair's number is image x texts + text; ascending.
    """
    images, texts = len(embedded.images), len(embedded.texts)
    by_image = torch.arange(images)[:, None] * texts + _nearest(embedded.images, embedded.texts, k)
    by_text = _nearest(embedded.texts, embedded.images, k) * texts + torch.arange(texts)[:, None]
    return torch.cat([by_image.flatten(), by_text.flatten()]).unique()


def score(records: Sequence[Record], refined: Sequence[Record] = ()) -> TaskScores:
    """Recall@1, 5 and 10 in both directions."""
    if records and "scores" in records[0]:
        return _scored(records)
    embedded = _unpacked(records)
    retrieval.check(embedded.images, embedded.texts, embedded.owner)
    if refined:
        ranks = _reranked(embedded, refined)
    else:
        ranks = retrieval.ranks(embedded.images, embedded.texts, embedded.owner)
    # of an image no more captions than there are, and of a caption no more images
    most = max(len(embedded.images), len(embedded.texts))
    details = {"captions": len(embedded.texts), "reranked": min(refined[0]["rerank"], most) if refined else 0}
    return TaskScores(measures=retrieval.recalls(*ranks, embedded.owner), details=details)


def _scored(records: Sequence[Record]) -> TaskScores:
    """Recalls of a model that only matches."""
    own = column(records, "captions", [str])
    scores = _rows(column(records, "scores", str))
    owner = torch.tensor([image for image, texts in enumerate(own) for _ in texts])
    if not scores.isfinite().all():
        raise ValueError("'scores' are not finite")
    if scores.shape[1] != len(owner):
        raise ValueError(f"'scores' are of {scores.shape[1]:,} captions, and the images have {len(owner):,}")
    ranks = retrieval.ranks_of_scores(scores, owner)
    return TaskScores(measures=retrieval.recalls(*ranks, owner), details={"captions": len(owner), "reranked": 0})


def _reranked(embedded: Embedded, refined: Sequence[Record]) -> tuple[Tensor, Tensor]:
    """Ranks (n,) and (m,) by similarity plus the head's score, of the candidates of each direction."""
    images, texts = len(embedded.images), len(embedded.texts)
    k, *more = set(column(refined, "rerank", int))
    numbered, scored = column(refined, "captions", [int]), column(refined, "scores", [float])
    if more or k < 1 or any(not 0 <= number < texts for row in numbered for number in row):
        raise ValueError("'rerank' or 'captions' of the matches are of other predictions")
    if list(map(len, numbered)) != list(map(len, scored)):
        raise ValueError("the matches have other numbers of captions than of scores")
    # a pair's number is image x texts + text
    pairs = torch.cat([image * texts + torch.tensor(row) for image, row in enumerate(numbered)])
    scores = torch.tensor([score for row in scored for score in row])
    order = pairs.argsort()
    pairs, scores = pairs[order], scores[order]

    def looked_at(queries: Tensor) -> Tensor:
        """The scores of pairs, -inf where there is none: another machine may round to other candidates."""
        position = torch.searchsorted(pairs, queries).clamp(max=len(pairs) - 1)
        return torch.where(pairs[position] == queries, scores[position], -torch.inf)

    near = _nearest(embedded.images, embedded.texts, k)
    own = torch.arange(images)[:, None]
    total = _cosines(embedded.images, embedded.texts, near) + looked_at(own * texts + near)
    image_ranks = _best(total, embedded.owner[near] == own, texts)
    near = _nearest(embedded.texts, embedded.images, k)
    total = _cosines(embedded.texts, embedded.images, near) + looked_at(near * texts + torch.arange(texts)[:, None])
    return image_ranks, _best(total, near == embedded.owner[:, None], images)


def _best(total: Tensor, belongs: Tensor, last: int) -> Tensor:
    """The best rank (n,) among candidates (n, k) of one that belongs, equal ones before it; `last` without one."""
    best = total.where(belongs, -torch.inf).amax(1)
    ranks = 1 + ((total >= best[:, None]) & ~belongs).sum(1)
    return ranks.where(best > -torch.inf, last)


def _cosines(queries: Tensor, keys: Tensor, near: Tensor) -> Tensor:
    """Of each query with its candidates (n, k) among the keys; of several vectors the most similar counts."""
    queries, keys = (rows.view(len(rows), -1, rows.shape[-1]) for rows in (queries, keys))
    size = max(1, AT_ONCE // keys.shape[1])
    parts = zip(queries.split(size), near.split(size), strict=True)
    return torch.cat(
        [torch.einsum("nad,nkbd->nkab", some, keys[candidates]).amax((2, 3)) for some, candidates in parts]
    )


def _nearest(queries: Tensor, keys: Tensor, k: int) -> Tensor:
    return retrieval.nearest(queries, keys, min(k, len(keys)))


def _packed(vector: Tensor) -> str:
    """float32, little-endian, base64."""
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()


def _rows(packed: Sequence[str]) -> Tensor:
    """What `_packed` made of vectors."""
    decoded = (base64.b64decode(row, validate=True) for row in packed)
    return torch.from_numpy(np.stack([np.frombuffer(row, "<f4") for row in decoded]).copy())


def _unpacked(records: Sequence[Record]) -> Embedded:
    own = column(records, "texts", [str])
    owner = [image for image, texts in enumerate(own) for _ in texts]
    images, texts = _rows(column(records, "image", str)), _rows([text for some in own for text in some])
    width = texts.shape[1]
    if width and images.shape[1] > width and images.shape[1] % width == 0:
        images = images.unflatten(1, (-1, width))
    return Embedded(images, texts, torch.tensor(owner))


TASK = Task(
    headline="image-to-text R@1",
    skills=SKILLS,
    unusable_reason=unusable_reason,
    predict=predict,
    score=score,
    refine=refine,
    reads={"rerank": (frozenset({"embed_images", "match"}),), "prompt": SKILLS},
    gathered=True,
)
