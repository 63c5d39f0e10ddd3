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


@pytest.mark.parametrize(
    ("asked", "available", "found"),
    [
        (EVALUATION, ["Train", "Test"], "Test"),
        (TRAINING, ["Test", "TRAINING"], "TRAINING"),
        (None, ["Train", "Test", "Dev"], "Dev"),
        ("TEST", ["train", "Testing"], "Testing"),
        ("Test", ["test", "Test", "TEST"], "Test"),
        ("TeSt", ["test", "Test"], "test"),
        (EVALUATION, ["train", "eval"], "eval"),
        ("validation", ["train", "Evaluation"], "Evaluation"),
        ("eval", ["train", "val"], "val"),
        (EVALUATION, ["train"], "train"),
        (TRAINING, ["holdout", "test_public"], "holdout"),
    ],
)
def test_splits_are_found_in_any_case_and_spelled_as_the_dataset_spells_them(
    asked: str | None, available: list[str], found: str
) -> None:
    assert choose_split(asked, available, where="x") == found


@pytest.mark.parametrize("available", [["train", "holdout"], ["Train", "test_public"], ["a", "b"]])
def test_an_evaluation_does_not_guess_among_several_splits(available: list[str]) -> None:
    said = f"x has the splits {', '.join(available)}, none of them called test or validation: name the one to evaluate "
    with pytest.raises(UsageError, match=f"^{said}on with eval.split \\(idvl eval --split\\)$"):
        choose_split(EVALUATION, available, where="x")
    assert choose_split(available[1], available, where="x") == available[1]
