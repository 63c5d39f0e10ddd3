"""What a dataset's documents may name: regular files, in its own folder."""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idvl.data.samples import select
from idvl.errors import UsageError
from tests.support.hub import jpeg

EVERYTHING = {"distinct": False, "force": True}


def dataset(folder: Path, name: object, n: int = 30) -> Path:
    """A folder of n images, a metadata.jsonl that names them, and one line more, which names `name`."""
    folder.mkdir()
    names = [f"{i:04d}.jpg" for i in range(n)]
    for i, file in enumerate(names):
        (folder / file).write_bytes(jpeg(i))
    lines = [json.dumps({"file_name": file}) for file in [*names, name]]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def reasons(folder: Path, **options: object) -> list[str]:
    """Why the one line more is not used; [] where it is."""
    found = select(str(folder), **EVERYTHING, **options)
    assert len(found.samples) + len(found.description["skipped"]) == 31
    return [skip["reason"] for skip in found.description["skipped"]]


@pytest.mark.parametrize("kind", ["..", "absolute"])
def test_images_outside_of_the_folder_are_refused_unless_allowed(kind: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg(99))
    named = {"..": "../secret.jpg", "absolute": str(secret)}
    folder = dataset(tmp_path / "data", named[kind])
    assert reasons(folder) == [f"needs allow_outside: {named[kind]!r} is outside of the dataset's folder"]
    assert reasons(folder, allow_outside=True) == []


def test_paths_that_stay_in_the_folder_are_read(tmp_path: Path) -> None:
    for name in ("../data/0000.jpg", str(tmp_path / "data" / "0001.jpg"), "link.jpg"):
        folder = dataset(tmp_path / "data", name)
        (folder / "link.jpg").symlink_to("0002.jpg")
        (tmp_path / "elsewhere").symlink_to(folder)
        assert reasons(folder) == reasons(tmp_path / "elsewhere") == []
        folder.rename(tmp_path / f"done-{name[-8:]}")
        (tmp_path / "elsewhere").unlink()


@pytest.mark.parametrize("form", ["linked metadata", "through a link"])
def test_no_path_leaves_by_the_folder_above_a_link(form: str, tmp_path: Path) -> None:
    """`test/..` is the dataset as written, and the folder above the link's target to the system."""
    shared, folder = tmp_path / "shared", tmp_path / "data"
    (shared / "test").mkdir(parents=True), folder.mkdir()
    (shared / "secret.jpg").write_bytes(jpeg(0))
    (folder / "test").symlink_to(shared / "test")
    at, name = (shared / "test", "../secret.jpg") if form == "linked metadata" else (folder, "test/../secret.jpg")
    (at / "metadata.jsonl").write_text(json.dumps({"file_name": name}))
    with pytest.raises(
        UsageError, match="needs allow_outside: 'test/../secret.jpg' is outside of the dataset's folder"
    ):
        select(str(folder), **EVERYTHING)
    assert len(select(str(folder), **EVERYTHING, allow_outside=True).samples) == 1


@pytest.mark.parametrize("form", ["plain", "metadata", "karpathy"])
def test_links_lead_wherever_they_lead(form: str, tmp_path: Path) -> None:
    disk, folder = tmp_path / "disk", tmp_path / "data"
    disk.mkdir(), folder.mkdir()
    (disk / "a.jpg").write_bytes(jpeg(0))
    if form == "plain":
        (folder / "a.jpg").symlink_to(disk / "a.jpg")
    elif form == "metadata":
        (folder / "images").symlink_to(disk)
        (folder / "annotations").mkdir()
        (folder / "annotations" / "metadata.jsonl").write_text('{"file_name": "../images/a.jpg"}')
    else:
        (folder / "val2014").symlink_to(disk)
        image = {"filepath": "val2014", "filename": "a.jpg", "split": "val", "sentences": [{"raw": "a"}]}
        (folder / "dataset_coco.json").write_text(json.dumps({"images": [image]}))
    assert len(select(str(folder), **EVERYTHING).samples) == 1


@pytest.mark.parametrize("form", ["csv", "parquet", "karpathy", "second image"])
def test_no_table_names_files_outside(form: str, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(jpeg(0))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "in.jpg").write_bytes(jpeg(1))
    if form == "csv":
        (folder / "metadata.csv").write_text("file_name\n../secret.jpg\n")
    elif form == "parquet":
        pq.write_table(pa.table({"image": ["../secret.jpg"]}), folder / "a.parquet")
    elif form == "karpathy":
        image = {"filename": "../secret.jpg", "split": "val", "sentences": [{"raw": "a"}]}
        (folder / "dataset_coco.json").write_text(json.dumps({"images": [image]}))
    else:
        (folder / "a.jsonl").write_text('{"left_image": "in.jpg", "right_image": "../secret.jpg"}')
    message = r"^set allow_outside .*needs allow_outside: '\.\./secret.jpg' is outside .*; else repair"
    with pytest.raises(UsageError, match=message):
        select(str(folder), **EVERYTHING)
    assert len(select(str(folder), allow_outside=True, **EVERYTHING).samples) == 1


def test_a_table_in_a_folder_may_name_images_beside_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "in.jpg").write_bytes(jpeg(0))
    pq.write_table(pa.table({"image": ["../in.jpg"]}), tmp_path / "data" / "a.parquet")
    assert len(select(str(tmp_path), **EVERYTHING).samples) == 1


def test_metadata_never_has_a_device_or_a_fifo_read(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "data", "pipe.png")
    os.mkfifo(folder / "pipe.png")
    assert reasons(folder) == ["a FIFO, not a regular file"]
    folder = dataset(tmp_path / "other", "/dev/zero")
    assert reasons(folder, allow_outside=True) == ["a device, not a regular file"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a"])
def test_a_dataset_that_is_a_fifo(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match="cannot be read: a FIFO, not a regular file; pass a folder or a file"):
        select(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "columns", "asked"),
    [
        ("file_name", {"file_name": "{}"}, {}),
        ("File_Name", {"File_Name": "{}"}, {}),
        ("path of a struct", {"image": {"bytes": None, "path": "{}"}}, {}),
        ("guessed", {"img_path": "{}"}, {}),
        ("guessed pair", {"left_image": "{}", "right_image": "second-{}"}, {}),
        ("known pair", {"left_image": "{}", "right_image": "second-{}"}, {"dataset": "nlvr2"}),
        ("named pair", {"one": "{}", "two": "second-{}"}, {"image_column": "one", "second_image_column": "two"}),
    ],
)
def test_images_start_from_the_folder_of_the_table_that_names_them(
    name: str, columns: dict, asked: dict, tmp_path: Path
) -> None:
    """Folders a and b, and the root, hold different images under the same names."""
    for form in ("jsonl", "parquet"):
        pictures = count()
        for folder in (tmp_path / form / "b", tmp_path / form / "a", tmp_path / form):
            folder.mkdir(parents=True, exist_ok=True)
            files = [f"{prefix}{i}.jpg" for prefix in ("", "second-") for i in range(3)]
            for file in files:
                (folder / file).write_bytes(jpeg(next(pictures)))
            rows = [json.loads(json.dumps({**columns, "n": i}).replace("{}", f"{i}.jpg")) for i in range(3)]
            if folder.name == form:
                break
            if form == "jsonl":
                (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
            else:
                pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")

    def read(form: str, **order: object) -> dict:
        place = {"data_dir": tmp_path / form, **asked} if "dataset" in asked else {"dataset": str(tmp_path / form)}
        found = select(**place | {**asked, **EVERYTHING, **order})
        for sample in found.samples:
            folder = sample.source.parent.name
            assert sample.source.name[0] in "012" and folder in "ab"
            if len(columns) == 2:
                assert sample.second == sample.source.with_name(f"second-{sample.source.name}")
        assert len({sample.source for sample in found.samples}) == len({sample.id for sample in found.samples}) == 6
        named = f"'a/metadata.{form}', 'b/metadata.{form}'"
        assert found.description["warnings"] == [
            f"several tables are read together ({named}): to read one alone, name it"
        ]
        return {key: found.description[key] for key in ("fingerprint", "ids")}

    for order in ({}, {"n": 6}):
        assert read("jsonl", **order) == read("parquet", **order)


def test_parquet_in_a_folder_may_name_images_from_the_root_and_none_outside(tmp_path: Path) -> None:
    for folder in ("data/a", "data/b", "data/pictures"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("secret.jpg", "data/pictures/0.jpg"):
        (tmp_path / file).write_bytes(jpeg(len(file)))
    for folder, file in (("a", "pictures/0.jpg"), ("b", "../pictures/0.jpg"), ("b/..", "../secret.jpg")):
        pq.write_table(pa.table({"image": [file] * 30}), tmp_path / "data" / folder / "a.parquet")
    with pytest.raises(UsageError, match=r"needs allow_outside: '\.\./secret.jpg' is outside"):
        select(str(tmp_path / "data"), **EVERYTHING)
    found = select(str(tmp_path / "data"), allow_outside=True, **EVERYTHING).samples
    assert {sample.source.resolve() for sample in found} == {
        tmp_path / file for file in ("secret.jpg", "data/pictures/0.jpg")
    }


def test_all_images_of_metadata_start_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    for i, name in enumerate(("left.jpg", "right.jpg", "only-at-root.jpg")):
        (tmp_path / "pairs" / name).write_bytes(jpeg(i))
    (tmp_path / "pairs" / "only-at-root.jpg").rename(tmp_path / "only-at-root.jpg")
    rows = [{"left_image": "left.jpg", "right_image": name} for name in ("right.jpg", "only-at-root.jpg")]
    (tmp_path / "pairs" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = select(str(tmp_path), **EVERYTHING).samples
    assert [sample.source for sample in found] == [tmp_path / "pairs" / "left.jpg"] * 2
    assert [sample.second for sample in found] == [tmp_path / "pairs" / "right.jpg", tmp_path / "only-at-root.jpg"]
