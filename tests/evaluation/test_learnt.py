from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from idvl.evaluation.learnt import learnt_from, measured_on, overlap
from idvl.profile import published
from idvl.recipe import DataSection
from idvl.runs import RunFile


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a dataset images/ of the splits train and test."""
    for name in ("train/cat", "test/cat", "train_extra"):
        (tmp_path / "images" / name).mkdir(parents=True)
    for name in ("train.csv", "birds_train.csv", "birds_train_test.csv"):
        (tmp_path / "images" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("one", "other", "which"),
    [
        ({"dataset": "images"}, {"dataset": "./images/../images"}, "this split, test"),
        ({"dataset": "images"}, {"dataset": "coco", "data_dir": "images"}, "this split, test"),
        ({"dataset": "coco"}, {"dataset": "coco", "data_dir": "images"}, None),
        (
            {"dataset": "flickr30k"},
            {"dataset": "flickr30k", "dataset_id": "umaru97/flickr30k_train_val_test"},
            "this split, test",
        ),
        ({"dataset": "flickr30k"}, {"dataset": "umaru97/flickr30k_train_val_test"}, "this split, test"),
        ({"dataset": "flickr30k"}, {"dataset": "flickr30k", "dataset_id": "lmms-lab-encoder/flickr30k"}, None),
        ({"dataset": "shapes"}, {"dataset": "shapes"}, "this split, test"),
        ({"dataset": "shapes"}, {"dataset": "digits"}, None),
        ({"dataset": "shapes", "split": "train"}, {"dataset": "shapes"}, None),
        ({"dataset": "images", "split": "all"}, {"dataset": "images"}, "all, which overlaps with test"),
        (
            {"dataset": "images", "split": "test"},
            {"dataset": "images", "split": "all"},
            "test, which overlaps with all",
        ),
    ],
)
def test_one_dataset_may_be_named_in_several_ways(
    folder: Path, one: dict[str, str], other: dict[str, str], which: str | None
) -> None:
    one, other = ({"split": "test", **section} for section in (one, other))
    assert overlap(DataSection(**one), DataSection(**other), other["split"]) == which


@pytest.mark.parametrize(
    ("part", "split", "overlapping"),
    [
        ("images/train", "train", True),
        ("images/train", "TRAIN", True),
        ("images/train/cat", "train", True),
        ("images/train.csv", "train", True),
        ("images/train", "all", True),
        ("images/train", "test", False),
        ("images/test", "train", False),
        ("images/birds_train.csv", "train", True),
        ("images/birds_train_test.csv", "train", False),
        ("images/train_extra", "train", False),
    ],
)
def test_a_part_of_a_folder_is_part_of_its_split(folder: Path, part: str, split: str, overlapping: bool) -> None:
    inner, outer = DataSection(dataset=part, split="all"), DataSection(dataset="images", split=split)
    paths = (os.path.realpath(part), os.path.realpath("images"))
    within = f"all of '{paths[0]}', which overlaps with {split} of '{paths[1]}'"
    assert overlap(inner, outer, split) == (within if overlapping else None)
    around = f"{split} of '{paths[1]}', which overlaps with all of '{paths[0]}'"
    assert overlap(outer, inner, "all") == (around if overlapping else None)


def test_a_split_that_is_a_link_is_the_folder_it_links_to(folder: Path) -> None:
    images, train = (os.path.realpath(path) for path in ("images", "images/train"))
    Path("links").mkdir()
    for link in ("images/val", "links/test"):
        Path(link).symlink_to(train)
    for dataset, split in (("images", "val"), ("links", "test")):
        linked = DataSection(dataset=dataset)
        for used in ("images", "images/train"):
            of = DataSection(dataset=used, split="train" if used == "images" else "all")
            assert overlap(of, linked, split), (used, dataset)
    told = f"train of '{images}', which overlaps with all of '{train}'"
    assert overlap(DataSection(dataset="images", split="train"), DataSection(dataset="links"), "test") == told
    assert overlap(DataSection(dataset="images", split="test"), DataSection(dataset="links"), "test") is None
    assert overlap(DataSection(dataset="images", split="test"), DataSection(dataset="images"), "val") is None


def test_a_built_in_model_is_no_test_of_what_it_was_trained_on() -> None:
    learnt = learnt_from("builtin/vit", DataSection(dataset="digits"), {"split": "train", "fingerprint": "a"})
    assert learnt and learnt.purpose == "training"
    assert learnt.warning.startswith("builtin/vit was trained on this split, train: these scores are not a test")
    for dataset, split in (("digits", "test"), ("shapes", "train")):
        evaluated = {"split": split, "fingerprint": "a"}
        assert learnt_from("builtin/vit", DataSection(dataset=dataset), evaluated) is None


def test_a_profile_tells_where_its_samples_came_from(folder: Path) -> None:
    profile = published("blip-coco")
    coco, images = DataSection(dataset="coco"), DataSection(dataset="images")
    assert overlap(measured_on(profile, "published:blip-coco"), coco, "train") == "this split, train"
    for dataset in ("coco", "me/images"):
        local = replace(profile, dataset={**profile.dataset, "dataset": dataset, "path": "images"})
        assert overlap(measured_on(local, "profile.json"), coco, "train") is None
        assert overlap(measured_on(local, "profile.json"), images, "train") == "this split, train"
    for unknown in ({"dataset": None, "ids": []}, {"dataset": "coco"}):
        assert measured_on(replace(profile, dataset=unknown), "profile.json") is None


def test_the_path_in_a_profile_starts_from_where_it_was_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = replace(published("blip-coco"), dataset={"dataset": "images", "path": "images", "split": "train"})
    for name, directory in (("measured", folder), ("elsewhere/pruned", folder / "elsewhere")):
        (folder / name).mkdir(parents=True)
        record = {"schema": RunFile.NAME, "signature": {}, "files": [], "resumed": [], "directory": str(directory)}
        (folder / name / "run.json").write_text(json.dumps(record))
    (folder / "elsewhere" / "images").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    run = Path("pruned")
    for named, where in (("../measured", folder), ("../measured/profile.json", folder), ("auto", folder / "elsewhere")):
        measured = measured_on(profile, named, run)
        assert os.path.realpath(measured.data_dir) == str(where / "images"), named
