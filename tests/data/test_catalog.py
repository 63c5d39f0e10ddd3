"""The catalogue says of every dataset all that an evaluation needs, and its splits go by their usual names."""

from __future__ import annotations

import json

import pytest

from idvl.data.catalog import CATALOG, listing
from idvl.data.splits import EVALUATION, TRAINING, choose_split
from idvl.errors import UsageError
from tests.support.hub import KINDS

TASKS = {"caption", "retrieval", "reasoning", "classification", "vqa"}


@pytest.mark.parametrize("name", CATALOG)
def test_entries_are_complete(name: str) -> None:
    entry = CATALOG[name]
    assert bool(entry.module) != bool(entry.ids)
    assert {entry.default_split, entry.eval_split, *entry.joins, *entry.aliases.values()} <= set(entry.splits)
    assert entry.tasks and set(entry.tasks) <= TASKS and entry.licence
    size = entry.splits[entry.default_split]
    assert size is None or entry.default_samples <= size
    if entry.ids:
        about = KINDS[name]
        columns = {entry.image_column, entry.second_image_column} - {None}
        assert columns == set(about.images)
        read = {entry.text_column, entry.label_column, entry.answers_column, entry.id_column} - {None}
        assert read - {"question_id"} <= set(about.row(0)) | set(about.classes)
        assert ("classification" in entry.tasks) == bool(about.classes)
        assert ("vqa" in entry.tasks) == (entry.answers_column is not None)


def test_every_task_has_a_dataset() -> None:
    assert {task for entry in CATALOG.values() for task in entry.tasks} == TASKS


def test_the_listing_is_plain() -> None:
    rows = {row["name"]: row for row in json.loads(json.dumps(listing()))}
    assert list(rows) == list(CATALOG)
    assert rows["imagenet-1k"]["gated"] and rows["imagenet-1k"]["id"] == "ILSVRC/imagenet-1k"
    assert rows["coco"]["splits"] == {"val": 40_504, "test": 5_000} and rows["digits"]["id"] is None


@pytest.mark.parametrize(
    ("name", "asked", "found"),
    [
        ("nlvr2", "test", "unbalanced_test_public"),
        ("nlvr2", "dev", "unbalanced_dev"),
        ("nlvr2", EVALUATION, "unbalanced_test_public"),
        ("nlvr2", TRAINING, "unbalanced_dev"),
        ("flickr30k", None, "val"),
        ("flickr30k", "validation", "val"),
        ("flickr30k", TRAINING, "train"),
        ("textvqa", EVALUATION, "validation"),
        ("coco", EVALUATION, "test"),
    ],
)
def test_splits_by_their_usual_names(name: str, asked: str | None, found: str) -> None:
    entry = CATALOG[name]
    assert choose_split(asked, entry.splits, where=name, entry=entry) == found


def test_splits_of_what_is_not_catalogued() -> None:
    assert choose_split(EVALUATION, ["train", "val", "test"], where="x") == "test"
    assert choose_split(EVALUATION, ["train", "dev"], where="x") == "dev"
    assert choose_split(EVALUATION, ["all"], where="x") == "all"
    with pytest.raises(UsageError, match="no split 'tets'; did you mean 'test'"):
        choose_split("tets", ["train", "test"], where="x")
