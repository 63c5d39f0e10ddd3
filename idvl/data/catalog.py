"""The datasets that idvl knows by name: where they live, what their columns hold, and how much of them a run takes.

It neither opens nor downloads anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Join:
    """A split that another repository lists: rows of `images_split` whose `key` is in `list_key` of the list's split.

    The texts are the list's, from its column `texts`.
    """

    ids: tuple[str, ...]
    split: str
    images_split: str
    key: str
    list_key: str
    texts: str


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One known dataset, either on the Hub (`ids`, tried in order) or built in (`module`, which makes its samples).

    `splits` are named as the Hub spells them, with the number of their samples where it is known; `aliases` are
    spellings beside those of `splits.SAME_SPLIT`, `joins` splits that are put together from two repositories.
    `default_split` and `default_samples` are what an estimate takes, `eval_split` what an evaluation
    does: it is the one that published numbers are of, where its labels are public. `tasks` are those it can be used
    for. `classes` are the names of the classes, for files that hold numbers alone. `evaluator`: whose rules compare
    its answers with those of people, a word of `metrics.vqa`.
    """

    name: str
    holds: str
    splits: dict[str, int | None]
    default_split: str
    default_samples: int
    eval_split: str
    tasks: tuple[str, ...]
    licence: str
    ids: tuple[str, ...] = ()
    module: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    answers_column: str | None = None
    second_image_column: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    joins: dict[str, Join] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    evaluator: str = "vqa"
    gated: bool = False
    notes: str = ""


_ENTRIES = (
    CatalogEntry(
        name="shapes",
        holds="images of two coloured shapes, four captions each, drawn by program",
        module="idvl.data.shapes",
        splits={"train": None, "validation": None, "test": None},
        default_split="validation",
        default_samples=2_000,
        eval_split="test",
        tasks=("caption", "retrieval"),
        licence="Apache-2.0",
    ),
    CatalogEntry(
        name="digits",
        holds="1,797 handwritten digits of 8 x 8 pixels with their labels, from scikit-learn",
        module="idvl.data.digits",
        splits={"train": 898, "test": 899},
        default_split="test",
        default_samples=899,
        eval_split="test",
        tasks=("classification",),
        licence="CC-BY-4.0",
    ),
    CatalogEntry(
        name="coco",
        holds="photographs, five captions each",
        ids=("lmms-lab-encoder/COCO-Caption", "lmms-lab/COCO-Caption"),
        image_column="image",
        text_column="answer",
        id_column="question_id",
        splits={"val": 40_504, "test": 5_000},
        default_split="val",
        default_samples=2_000,
        eval_split="test",
        tasks=("caption", "retrieval"),
        joins={
            "test": Join(
                ids=("yerevann/coco-karpathy",),
                split="test",
                images_split="val",
                key="file_name",
                list_key="filename",
                texts="sentences",
            )
        },
        licence="CC-BY-4.0 (captions); the images under their owners' Flickr terms",
        notes="val is COCO val2014, 40,504 images; test is Karpathy's, 5,000 of them, as yerevann/coco-karpathy lists "
        "them. For the Karpathy train split set data_dir to a folder with the images and dataset_coco.json",
    ),
    CatalogEntry(
        name="flickr30k",
        holds="photographs, five captions each",
        ids=("umaru97/flickr30k_train_val_test",),
        image_column="image",
        text_column="caption",
        id_column="img_id",
        splits={"train": 29_000, "val": 1_014, "test": 1_000},
        default_split="val",
        default_samples=1_000,
        eval_split="test",
        tasks=("caption", "retrieval"),
        licence="non-commercial research, as the Flickr terms of the images say",
        notes="the splits are Karpathy's; lmms-lab-encoder/flickr30k has all 31,783 images in one split that it calls "
        "test",
    ),
    CatalogEntry(
        name="nlvr2",
        holds="pairs of photographs and a sentence that is true of them or not",
        ids=("lmms-lab/NLVR2", "lmms-lab-encoder/NLVR2"),
        image_column="left_image",
        second_image_column="right_image",
        text_column="question",
        label_column="answer",
        splits={
            "balanced_dev": 2_300,
            "balanced_test_public": None,
            "balanced_test_unseen": None,
            "unbalanced_dev": 6_982,
            "unbalanced_test_public": 6_967,
            "unbalanced_test_unseen": None,
        },
        aliases={"validation": "unbalanced_dev", "test": "unbalanced_test_public"},
        default_split="unbalanced_dev",
        default_samples=2_000,
        eval_split="unbalanced_test_public",
        tasks=("reasoning",),
        licence="CC-BY-4.0 (sentences); the images as agreed with the authors of NLVR2",
        notes="there is no train; the balanced and unbalanced splits are parts of dev, test-P and test-U, of whose "
        "whole the published numbers are",
    ),
    CatalogEntry(
        name="cifar100",
        holds="images of 32 x 32 pixels in 100 classes",
        ids=("uoft-cs/cifar100",),
        image_column="img",
        label_column="fine_label",
        splits={"train": 50_000, "test": 10_000},
        default_split="test",
        default_samples=2_000,
        eval_split="test",
        tasks=("classification",),
        licence="unknown",
        notes="label_column coarse_label for its 20 superclasses",
    ),
    CatalogEntry(
        name="fashion-mnist",
        holds="photographs of clothes, 28 x 28 grey pixels, in 10 classes",
        ids=("zalando-datasets/fashion_mnist",),
        image_column="image",
        label_column="label",
        splits={"train": 60_000, "test": 10_000},
        default_split="test",
        default_samples=2_000,
        eval_split="test",
        tasks=("classification",),
        classes=(
            *("T - shirt / top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        licence="MIT",
        notes="the authors' four idx files in a folder are read as well: set data_dir to it, with Debian's package "
        "dataset-fashion-mnist to /usr/share/datasets/fashion-mnist",
    ),
    CatalogEntry(
        name="imagenet-1k",
        holds="photographs in 1,000 classes",
        ids=("ILSVRC/imagenet-1k",),
        image_column="image",
        label_column="label",
        splits={"train": 1_281_167, "validation": 50_000, "test": 100_000},
        default_split="validation",
        default_samples=2_000,
        eval_split="validation",
        tasks=("classification",),
        licence="non-commercial research and education, as the terms of its page on the Hub say",
        gated=True,
        notes="the labels of test are not public",
    ),
    CatalogEntry(
        name="textvqa",
        evaluator="textvqa",
        holds="photographs with writing, a question and ten answers each",
        ids=("lmms-lab-encoder/textvqa", "lmms-lab/textvqa"),
        image_column="image",
        text_column="question",
        answers_column="answers",
        id_column="question_id",
        splits={"train": 34_602, "validation": 5_000, "test": 5_734},
        default_split="validation",
        default_samples=2_000,
        eval_split="validation",
        tasks=("vqa",),
        licence="CC-BY-4.0",
        notes="several questions share an image, of which an estimate takes one; the answers of test are not public",
    ),
    CatalogEntry(
        name="vqav2",
        holds="photographs of COCO, a question and ten answers each",
        ids=("lmms-lab/VQAv2", "lmms-lab-encoder/VQAv2"),
        image_column="image",
        text_column="question",
        answers_column="answers",
        id_column="question_id",
        splits={"validation": 214_354, "testdev": 107_394, "test": 447_793},
        default_split="validation",
        default_samples=2_000,
        eval_split="validation",
        tasks=("vqa",),
        licence="CC-BY-4.0 (questions and answers); the images under their owners' Flickr terms",
        notes="there is no train; several questions share an image, of which an estimate takes one; the answers of "
        "testdev and test are not public",
    ),
)
CATALOG: dict[str, CatalogEntry] = {entry.name: entry for entry in _ENTRIES}


def listing() -> list[dict[str, Any]]:
    """What is known of each dataset, JSON-ready; `id` is the Hub's, `columns` are those that hold what."""
    keys = ("name", "holds", "tasks", "splits", "eval_split", "licence", "gated", "notes")
    kinds = ("image", "second_image", "text", "label", "answers")
    return [
        {
            **{key: getattr(entry, key) for key in keys},
            "tasks": list(entry.tasks),
            "id": next(iter(entry.ids), None),
            "columns": {kind: column for kind in kinds if (column := getattr(entry, f"{kind}_column"))},
        }
        for entry in _ENTRIES
    ]


def evaluator_of(*names: str | None) -> str:
    """Whose rules compare answers on a dataset that goes by these names or Hub ids, of which the first counts."""
    evaluators = (entry.evaluator for name in names if name for entry in _ENTRIES if name in (entry.name, *entry.ids))
    return next(evaluators, "vqa")


def unlike_published(about: Mapping[str, Any]) -> str | None:
    """A warning where a whole split of the Hub has another number of rows than the one that is published.

    `about` describes the samples, as a selection does.
    """
    name, split = about.get("dataset"), about.get("split")
    entry = CATALOG.get(name)
    published = entry.splits.get(split) if entry else None
    if published is None or not about.get("dataset_id") or about.get("looked_at") in (None, published):
        return None
    return (
        f"{name} (split {split}) has {about['looked_at']:,} rows in {about['dataset_id']}, {published:,} as published: "
        "results do not compare"
    )
