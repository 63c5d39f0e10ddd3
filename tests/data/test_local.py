"""Local datasets of every form: what is read, in which order, and what is refused."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idvl import runs
from idvl.data.folder import _listing, table_at
from idvl.data.formats import karpathy, records
from idvl.data.samples import select
from idvl.data.splits import EVALUATION, TRAINING, spelling_of
from idvl.errors import UsageError
from tests.support.hub import caption, class_name, jpeg, write_dataset


def images(folder: Path, n: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        (folder / f"{i:04d}.jpg").write_bytes(jpeg(i))
    return folder


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, rows: int) -> None:
    pq.write_table(pa.Table.from_pylist([{"image": jpeg(i), "text": caption(i)} for i in range(rows)]), path)


def saved_splits(path: Path, *names: str) -> None:
    """Two samples of each split, as save_to_disk writes them."""
    from datasets import Dataset, DatasetDict

    rows = [{"image": jpeg(i), "text": caption(i)} for i in range(2)]
    DatasetDict({name: Dataset.from_list(rows) for name in names}).save_to_disk(path)


def captioned(n: int, key: str = "file_name", text: str = "text") -> list[dict]:
    return [{key: f"{i:04d}.jpg", text: caption(i)} for i in range(n)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images(tmp_path_factory.mktemp("plain"), 130)


def test_folder_of_images_alone(folder: Path) -> None:
    selection = select(str(folder), n=120)
    assert len({sample.id for sample in selection.samples}) == 120
    assert selection.samples[0].texts == () and selection.samples[0].image.size == (48, 40)
    about = selection.description
    assert about["ids"] == [sample.id for sample in selection.samples]
    assert (about["method"], about["split"], about["requested"], about["warnings"]) == ("uniform", "all", 120, [])
    json.dumps(about)


def test_seed_decides(folder: Path) -> None:
    first, again, other = (select(str(folder), n=100, seed=seed).description for seed in (3, 3, 4))
    assert first == again
    assert first["ids"] != other["ids"] and first["fingerprint"] != other["fingerprint"]


def test_smaller_draw_is_the_beginning_of_a_larger_one(folder: Path) -> None:
    assert select(str(folder), n=100).samples == select(str(folder), n=125).samples[:100]


def _imagefolder(path: Path) -> str:
    jsonl(images(path / "deep", 110) / "metadata.jsonl", captioned(110))
    return str(path)


def _csv(path: Path) -> str:
    lines = ["file_name,caption", *(f'{i:04d}.jpg,"{caption(i)}"' for i in range(110))]
    (images(path, 110) / "metadata.csv").write_text("\n".join(lines))
    return str(path)


def _jsonl(path: Path) -> str:
    images(path / "pictures", 110)
    rows = [{"image": f"pictures/{i:04d}.jpg", "captions": [caption(i), caption(i, 1)]} for i in range(110)]
    return str(jsonl(path / "list.jsonl", rows))


def _parquet_bytes(path: Path) -> str:
    return str(write_dataset("coco", path / "repo", 110, shards=2, row_group=25))


def _parquet_paths(path: Path) -> str:
    images(path, 110)
    pq.write_table(pa.Table.from_pylist(captioned(110, "image")), path / "table.parquet", row_group_size=40)
    return str(path / "table.parquet")


def _saved(path: Path) -> str:
    from datasets import Dataset, Image

    rows = [{"image": {"bytes": jpeg(i), "path": None}, "text": caption(i)} for i in range(110)]
    Dataset.from_list(rows).cast_column("image", Image()).save_to_disk(path / "saved")
    return str(path / "saved")


def _karpathy(path: Path) -> str:
    images(path / "val2014", 110)
    listed = [
        {"filename": f"{i:04d}.jpg", "filepath": "val2014", "split": "val", "sentences": [{"raw": caption(i)}]}
        for i in range(110)
    ]
    (path / "dataset_coco.json").write_text(json.dumps({"images": listed, "dataset": "coco"}))
    return str(path)


FORMS = [_imagefolder, _csv, _jsonl, _parquet_bytes, _parquet_paths, _saved, _karpathy]


@pytest.mark.parametrize("make", FORMS, ids=[make.__name__[1:] for make in FORMS])
def test_every_form_gives_images_with_their_captions(make, tmp_path: Path) -> None:
    text_column = "answer" if make is _parquet_bytes else None
    selection = select(make(tmp_path), n=105, text_column=text_column)
    assert len(selection.samples) == 105
    number = {jpeg(i): i for i in range(110)}
    for sample in selection.samples:
        encoded = sample.source if isinstance(sample.source, bytes) else sample.source.read_bytes()
        assert sample.texts[0] == caption(number[encoded])


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("other", ["thumbs/{}", "{}"], ids=["another image", "a number"])
def test_metadata_names_its_images_by_file_name(form: str, other: str, tmp_path: Path) -> None:
    images(tmp_path, 3), images(tmp_path / "thumbs", 3)
    rows = [
        {"image": other.format(row["file_name"] if "/" in other else i), **row} for i, row in enumerate(captioned(3))
    ]

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.{form}"
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif form == "csv":
            lines = [",".join(f'"{cell}"' for cell in cells) for cells in (rows[0], *map(dict.values, rows))]
            path.write_text("\n".join(lines))
        else:
            jsonl(path, rows)
        return path

    metadata = write("metadata")
    for given in (
        {"dataset": str(tmp_path)},
        {"dataset": str(metadata)},
        {"dataset": "flickr30k", "data_dir": tmp_path},
    ):
        found = select(**given, **EVERYTHING)
        assert [sample.source for sample in found.samples] == [tmp_path / row["file_name"] for row in rows]
        columns = found.description["columns"]
        assert columns["image"] == "file_name" and columns["unread"] == ["image"]
    if "/" in other:
        named = [
            select(str(metadata), image_column="image", **EVERYTHING),
            select(str(write("captions")), **EVERYTHING),
        ]
        for found in named:
            assert [sample.source for sample in found.samples] == [tmp_path / row["image"] for row in rows]


def test_a_pair_of_images_of_a_known_dataset_goes_before_file_name(tmp_path: Path) -> None:
    images(tmp_path, 3)
    pair = {"left_image": "0001.jpg", "right_image": "0002.jpg", "question": "?", "answer": "True"}
    jsonl(tmp_path / "metadata.jsonl", [{"file_name": "0000.jpg", **pair}])
    (sample,) = select("nlvr2", data_dir=tmp_path, **EVERYTHING).samples
    assert (sample.source, sample.second) == (tmp_path / "0001.jpg", tmp_path / "0002.jpg")


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_capitals_in_the_names_of_tables_change_nothing(form: str, tmp_path: Path) -> None:
    rows = [{"image": "thumb.jpg", **row} for row in captioned(3)]
    mark = {"csv": ",", "tsv": "\t"}.get(form)

    def write(name: str) -> Path:
        path = images(tmp_path / f"with {name}", 3) / name
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif form == "jsonl":
            jsonl(path, rows)
        else:
            cells = (rows[0], *map(dict.values, rows))
            path.write_text("\n".join(mark.join(f'"{cell}"' for cell in line) for line in cells))
        return path

    def read(path: Path, **options: str) -> tuple[str, dict]:
        found = select(str(path), **EVERYTHING, **options).description
        return found["fingerprint"], found["columns"]

    lower, upper, other = write(f"metadata.{form}"), write(f"Metadata.{form.upper()}"), write(f"TRAIN.{form.upper()}")
    named = {"image_column": "file_name"} if form == "tsv" else {}
    assert read(upper, **named) == read(lower, **named)
    if form == "tsv":
        return
    assert read(upper.parent) == read(lower.parent) == read(lower)
    if form == "csv":
        (told,) = select(str(other.parent), **EVERYTHING).description["warnings"]
        assert told.endswith(f"to read a table, name it in place of the folder, as '{other}'")
    else:
        assert read(other.parent, image_column="file_name")[0] == read(lower)[0]


def test_text_alone(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "lines.jsonl", [{"text": caption(i)} for i in range(120)])
    selection = select(str(path), n=100)
    assert selection.samples[0].image is None and len({sample.texts for sample in selection.samples}) == 100


def test_karpathy_splits_under_a_catalogue_name(tmp_path: Path) -> None:
    images(tmp_path, 240)
    splits = ["train"] * 60 + ["restval"] * 60 + ["val"] * 120
    listed = [
        {"filename": f"{i:04d}.jpg", "filepath": "val2014", "split": split, "sentences": [{"raw": caption(i)}]}
        for i, split in enumerate(splits)
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": listed}))
    default = select("coco", n=110, data_dir=tmp_path).description
    assert default["split"] == "val" and min(default["ids"]) >= "0120.jpg"
    assert select("coco", n=110, data_dir=tmp_path, split="validation").description["ids"] == default["ids"]
    train = select("coco", n=120, data_dir=tmp_path, split="train").description
    assert sorted(train["ids"]) == [f"{i:04d}.jpg" for i in range(120)]
    with pytest.raises(UsageError, match=r"no split 'tran'; did you mean 'train'\? \(there is train, restval, val\)"):
        select("coco", n=100, data_dir=tmp_path, split="tran")


@pytest.mark.parametrize("names", ["birds_train birds_test", "coco-train coco-val", "train_0 test_0", "Train00 test00"])
def test_a_word_of_a_tables_name_tells_its_split(names: str, tmp_path: Path) -> None:
    for rows, name in enumerate(names.split(), 2):
        parquet(tmp_path / f"{name}.parquet", rows=rows)
    found = select(str(tmp_path), **EVERYTHING, split=EVALUATION).description
    assert found["split"] in ("test", "val") and found["rows"] == 3 and not found["warnings"]
    assert select(str(tmp_path), **EVERYTHING, split="train").description["rows"] == 2


def test_splits_told_by_file_names(tmp_path: Path) -> None:
    write_dataset("coco", tmp_path, 110)
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"")
    assert select("coco", n=100, data_dir=tmp_path).description["split"] == "val"


def test_two_lists_of_the_same_images_are_refused(tmp_path: Path) -> None:
    jsonl(images(tmp_path, 3) / "metadata.jsonl", captioned(3))
    (tmp_path / "metadata.csv").write_text("file_name,text\n0000.jpg,a dog\n")
    with pytest.raises(UsageError, match=r"both metadata.csv and metadata.jsonl in a folder: remove one"):
        select(str(tmp_path), **EVERYTHING)


def test_undivided_data_has_no_split(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no split 'train' \(there is all\)"):
        select(str(folder), n=100, split="train")


@pytest.mark.parametrize(("given", "near"), [({"image_column": "imag"}, "image"), ({"text_column": "anser"}, "answer")])
def test_unknown_column_names_the_nearest(given: dict[str, str], near: str, tmp_path: Path) -> None:
    write_dataset("coco", tmp_path, 5)
    with pytest.raises(UsageError, match=f"did you mean '{near}'.*question_id"):
        select("coco", n=100, data_dir=tmp_path, **given)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no dataset"):
        select(str(tmp_path))
    with pytest.raises(UsageError, match="holds no rows"):
        select(str(jsonl(tmp_path / "empty.jsonl", [])))
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "empty.parquet")
    with pytest.raises(UsageError, match="holds no rows"):
        select(str(tmp_path / "empty.parquet"))
    pq.write_table(pa.table({"width": [1, 2]}), tmp_path / "numbers.parquet")
    with pytest.raises(UsageError, match=r"no column of images or text.*it has width.*--image-column"):
        select(str(tmp_path / "numbers.parquet"))


def test_lists_written_as_text_are_lists(tmp_path: Path) -> None:
    rows = [
        {"file_name": f"{i:04d}.jpg", "question": f"what {i}", "answers": str(["yes"] * 9 + [f"no {i}"])}
        for i in range(4)
    ]
    jsonl(images(tmp_path, 4) / "metadata.jsonl", rows)
    found = select(str(tmp_path), n=4, force=True, distinct=False).samples
    assert {sample.answers for sample in found} == {("yes",) * 9 + (f"no {i}",) for i in range(4)}


def test_columns_that_are_not_read_are_told(tmp_path: Path) -> None:
    rows = [
        {"file_name": f"{i:04d}.jpg", "text": f"a {i}", "question": f"what {i}", "answers": ["yes"], "split": split}
        for i, split in enumerate(("train", "train", "test"))
    ]
    jsonl(images(tmp_path, 3) / "metadata.jsonl", rows)
    told = select(str(tmp_path), n=3, force=True, distinct=False).description["warnings"]
    assert "the text is the column 'text': to read 'question' and its 'answers'" in told[0]
    assert "'split' is not read: rows of all its values (test, train) are one split" in told[1]
    asked = select(str(tmp_path), n=3, force=True, distinct=False, text_column="question")
    assert asked.samples[0].answers == ("yes",) and len(asked.description["warnings"]) == 1


@pytest.mark.parametrize(
    ("column", "cells", "named"),
    [
        ("data set", ["train", "train", "test"], "test, train"),
        ("Phase", ["Train", " VAL", ""], " VAL, Train"),
        ("partition", [None, "dev", "training"], "dev, training"),
        ("phase", ["train", "training", "Train"], None),
        ("phase", ["train", "", None], None),
        ("phase", ["train", "test", "moon"], None),
        ("set", [0, 1, 2], None),
        ("set", [["train"], ["test"], []], None),
        ("split", ["train", "training", "train"], "train, training"),
        ("split", ["one", "two", "two"], "one, two"),
        ("split", ["train", "train", "train"], None),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_columns_of_splits_are_told_whatever_they_are_called(
    form: str, column: str, cells: list, named: str | None, tmp_path: Path
) -> None:
    rows = [{**row, column: cell} for row, cell in zip(captioned(3), cells, strict=True)]
    path = images(tmp_path, 3) / f"table.{form}"
    jsonl(path, rows) if form == "jsonl" else pq.write_table(pa.Table.from_pylist(rows), path)
    told = (
        f"the column {column!r} is not read: rows of all its values ({named}) are one split; to keep them apart, put "
    )
    warnings = select(str(path), **EVERYTHING).description["warnings"]
    assert warnings == ([f"{told}each into a folder train, validation or test"] if named else [])
    if named and all(cells):
        assert select(str(path), **EVERYTHING, label_column=column).description["warnings"] == []


def test_a_column_of_splits_that_one_parquet_file_lacks_is_told(tmp_path: Path) -> None:
    rows = [{"image": jpeg(i), "split": split} for i, split in enumerate(("train", "test"))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part-0.parquet")
    pq.write_table(pa.table({"image": [jpeg(2)]}), tmp_path / "part-1.parquet")
    (told,) = select(str(tmp_path), **EVERYTHING).description["warnings"]
    assert "rows of all its values (test, train) are one split" in told


def test_caption_str_is_the_text_before_a_question_and_a_guessed_question_is_doubtful(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i:04d}.jpg", "question": "describe it", "caption_str": [f"a {i}"]} for i in range(3)]
    jsonl(images(tmp_path, 3) / "metadata.jsonl", rows)
    found = select(str(tmp_path), n=3, force=True, distinct=False)
    assert found.description["columns"]["text"] == "caption_str" and found.doubtful_captions is None
    jsonl(
        tmp_path / "metadata.jsonl", [{key: row[key] for key in ("file_name", "question")} | {"b": 1} for row in rows]
    )
    doubted = select(str(tmp_path), n=3, force=True, distinct=False)
    assert "'question' is read as captions" in doubted.doubtful_captions and "not read: b" in doubted.doubtful_captions
    named = select(str(tmp_path), n=3, force=True, distinct=False, text_column="question")
    assert named.doubtful_captions is None


def test_a_line_says_what_is_read_from_which_column_and_what_is_not(tmp_path: Path) -> None:
    rows = [{"image": f"{i:04d}.jpg", "title": "a", "alt_text": f"b {i}", "label": "xy"[i % 2]} for i in range(4)]
    jsonl(images(tmp_path, 4) / "metadata.jsonl", rows)
    options = {"n": 4, "force": True, "distinct": False}
    told = f"4 samples of {tmp_path}, split all; image from image, text from title"
    assert select(str(tmp_path), **options).line == f"{told} (not read: alt_text, label)"
    named = {"image_column": "image", "text_column": "title", "label_column": "label"}
    assert select(str(tmp_path), **options, **named).line == f"{told}, label from label; 2 classes: x, y"
    assert select("shapes", n=1, force=True).line == "1 sample of shapes, split validation"
    assert select("shapes", n=4, force=True).line == "4 samples of shapes, split validation"


@pytest.mark.parametrize("text", [None, "text"])
def test_questions_and_answers_are_paired_in_any_case(text: str | None, tmp_path: Path) -> None:
    rows = [
        {"file_name": f"{i:04d}.jpg", "Question": f"what {i}", "Answers": ["yes"], **({text: "a"} if text else {})}
        for i in range(3)
    ]
    jsonl(images(tmp_path, 3) / "metadata.jsonl", rows)
    found = select(str(tmp_path), n=3, force=True, distinct=False)
    assert {sample.answers for sample in found.samples} == {() if text else ("yes",)}
    said = "to read 'Question' and its 'Answers' instead, set text_column (--text-column Question)"
    assert [warning.partition(": ")[2] for warning in found.description["warnings"]] == [said] * (text is not None)


def test_csv_as_spreadsheets_and_people_write_it(tmp_path: Path) -> None:
    long = "x" * 200_000
    lines = [
        "file_name,text,,",
        'a.jpg,"hello" she said,,',
        "",
        'b.jpg,"two\nlines, ""quoted""",,,',
        f"c.jpg,{long}",
        "d.jpg",
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    texts = ["hello she said", 'two\nlines, "quoted"', long, None]
    rows = [{"file_name": f"{name}.jpg", "text": text} for name, text in zip("abcd", texts, strict=True)]
    assert records.records(tmp_path / "a.csv") == rows
    (tmp_path / "a.csv").write_text("file_name, caption ,\t\na.jpg, a dog,\n")
    assert records.records(tmp_path / "a.csv") == [{"file_name": "a.jpg", "caption": " a dog"}]
    (tmp_path / "a.csv").write_text("question; or note\nyes; no\n")
    assert records.records(tmp_path / "a.csv") == [{"question; or note": "yes; no"}]
    (tmp_path / "a.tsv").write_text('file_name\ttext\na.jpg\ta dog, "brown"\nb.jpg\t"two\twords"\n')
    assert [row["text"] for row in records.records(tmp_path / "a.tsv")] == ['a dog, "brown"', "two\twords"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text"', "line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", "line 1 is a list"),
        ("a.jsonl", b"\xff\xfe\x00", "cannot be read as text"),
        ("a.parquet", b"PAR1 no", "parquet file that cannot be read"),
        ("dataset_coco.json", b"{}", "not a Karpathy annotation"),
        ("a.zip", b"", "is not a dataset"),
        ("a.json", b'{"text": "x"}\n{"text": "y"}\n', "if each of its lines is an object, rename it to .jsonl"),
        ("A.CSV", b"text;label\na;1\n", "separates its columns by semicolons: save it with commas"),
        ("nlvr_dev.json", b"[]", "annotations of NLVR2: name its folder instead, '/"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, "line 1 is not JSON that can be read"),
        ("dataset_coco.json", b"[" * 100_000, "not a Karpathy annotation"),
        ("a.jsonl", b'{"text": "x", "text": "y"}', "it has the key 'text' twice"),
        ("a.jsonl", b"x" * 101, "has a line of more than 100 characters: it is not a list of samples"),
        ("dataset_coco.json", b"x" * 101, "cannot be read: more than 100 bytes"),
        ("a.csv", b"text,label\na dog, brown,1\n", "line 2 has 3 cells for 2 columns: put quotation marks"),
        ("a.csv", b'text,label\n"a dog,1\na cat,2\n', "line 3 is not CSV: unexpected end of data"),
        ("a.csv", b'text,label\n"a dog,1\n"a cat",2\na cow,3\n', "line 3 is not CSV: ',' expected after"),
        ("a.csv", b'text,label\na cat,2\n"a dog', "line 3 is not CSV: unexpected end of data"),
        (
            "a.csv",
            b'text,label\n"so" she said,1\n"a sign \\"stop 0\\" here",2\n',
            "line 3 writes .. in a cell: double the quotation marks inside cells .* instead of escaping them",
        ),
        ("a.csv", b'text,label\na,1\n"it says \\"",2\na cat,3\n', "line 3 writes .. in a cell: double"),
        ("a.csv", b"text,,\na,b,c\n", "has 2 columns without a name: give each a name"),
        ("a.csv", b"text,text\na,b\n", "names the column 'text' twice"),
        ("a.csv", b"text, text\na,b\n", "names the column 'text' twice"),
        ("a.csv", b"file_name;text\na.jpg;a dog, brown\n", "separates its columns by semicolons: save it with commas"),
        ("a.csv", b"file_name\ttext\na.jpg\ta dog\n", "by tabs: save it with commas, or rename it to .tsv"),
        ("a.tsv", b"file_name,text\na.jpg,a dog\n", "by commas: save it with tabs, or rename it to .csv"),
        ("a.tsv", b"file_name;text\na.jpg;a dog\n", "by semicolons: save it with tabs$"),
        (
            "a.tsv",
            b'text\tlabel\na\t1\n"open\t2\nq"\t3\n',
            "line 3 opens a quotation mark that the line does",
        ),
        ("a.csv", "file_name,text\n".encode("utf-16"), "cannot be read as text: it is UTF-16; save it as UTF-8"),
        ("a.csv", "text\nun caf\xe9".encode("latin-1"), "it is not UTF-8 .byte 0xe9.; save it as UTF-8"),
        ("a.tsv", b"text\tlabel\na dog\tbrown\t1\n", "line 2 has 3 cells for 2 columns: .* that hold tabs"),
        ("dataset_coco.json", b'{"images": [{"split": 5}]}', "'split' of images.0. is 5, expected a text"),
        ("dataset_coco.json", b'{"images": [{"split": "val", "filename": 5}]}', "'filename' of images.0. is 5"),
        (
            "dataset_coco.json",
            b'{"images": [{"split": "val", "filename": "a", "filepath": 5}]}',
            "'filepath' of images.0. is 5",
        ),
    ],
)
def test_damaged_tables(
    name: str, content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if len(content) == 101:
        monkeypatch.setattr(records, "LONGEST_LINE", 100)
        monkeypatch.setattr(karpathy, "LARGEST_ANNOTATIONS", 100)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        select(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_training_takes_every_usable_row_of_train(tmp_path: Path) -> None:
    images(tmp_path / "train", 110)
    images(tmp_path / "test", 5)
    for n in range(3):  # the same picture again
        (tmp_path / "train" / f"again-{n}.jpg").write_bytes(jpeg(0))
    (tmp_path / "train" / "broken.jpg").write_bytes(b"")
    training = select(str(tmp_path), split=TRAINING, distinct=False, force=True)
    assert training.description["split"] == "train"
    assert (len(training.samples), training.description["duplicates"]) == (113, 0)
    assert len(training.description["skipped"]) == 1
    assert len(select(str(tmp_path), split="train").samples) == 110


@pytest.mark.parametrize("split", ["test", None])
def test_training_without_a_split_for_it_takes_what_there_is(tmp_path: Path, split: str | None) -> None:
    images(tmp_path / split if split else tmp_path, 5)
    found = select(str(tmp_path), split=TRAINING, distinct=False, force=True)
    assert (found.description["split"], len(found.samples)) == (split or "all", 5)


def test_training_on_the_built_in_data() -> None:
    found = select("digits", split=TRAINING, distinct=False, force=True)
    assert (found.description["split"], len(found.samples)) == ("train", 898)
    assert len(select("shapes", split=TRAINING, n=30, distinct=False, force=True).samples) == 30


EVERYTHING = {"distinct": False, "force": True}


@pytest.mark.parametrize("name", ["coco", "flickr30k", "textvqa", "vqav2", "nlvr2", "cifar100", "imagenet-1k"])
def test_a_local_copy_reads_like_its_name(name: str, tmp_path: Path) -> None:
    write_dataset(name, tmp_path, 30, shards=2)
    by_name = select(name, data_dir=tmp_path, **EVERYTHING)
    assert [sample.image.size for sample in by_name.samples] == [(48, 40)] * 30
    assert by_name.description["method"] == "whole" and not by_name.description["columns"]["guessed"]
    columns = {"coco": {"text_column": "answer"}, "nlvr2": {"label_column": "answer"}}
    by_path = select(str(tmp_path), **EVERYTHING, **columns.get(name, {}))
    plain = [(s.source, s.texts, s.label, s.answers, s.second) for s in by_path.samples]
    assert plain == [(s.source, s.texts, s.label, s.answers, s.second) for s in by_name.samples]
    assert by_path.description["classes"] == by_name.description["classes"]


@pytest.mark.parametrize(
    ("cells", "labels"), [(range(1, 131), [1, 130]), ([-1, "", "2.0", *[7] * 127], [2, 7]), (["a", *["b"] * 129], None)]
)
def test_the_labels_of_all_rows_are_known_however_few_are_drawn(cells: list, labels: list | None, folder: Path) -> None:
    rows = [{"file_name": f"{i:04d}.jpg", "label": cell} for i, cell in enumerate(cells)]
    table = jsonl(folder / "numbers.jsonl", rows)
    found = select(str(table), n=2, force=True, distinct=False, label_column="label")
    table.unlink()
    assert found.description.get("labels") == labels and len(found.samples) == 2


def test_labels_and_classes_of_parquet(tmp_path: Path) -> None:
    write_dataset("cifar100", tmp_path, 130)
    found = select("cifar100", data_dir=tmp_path, **EVERYTHING)
    assert [sample.label for sample in found.samples] == [i % 100 for i in range(130)]
    assert found.description["classes"] == [class_name(i) for i in range(100)]
    coarse = select(str(tmp_path), label_column="coarse_label", **EVERYTHING)
    assert [sample.label for sample in coarse.samples] == [i % 100 // 5 for i in range(130)]
    assert len(coarse.description["classes"]) == 20
    assert coarse.description["fingerprint"] != found.description["fingerprint"]
    none = select(str(tmp_path), label_column="none", **EVERYTHING)
    assert {sample.label for sample in none.samples} == {None} and none.description["classes"] is None


def test_pairs_and_whether_a_sentence_is_true(tmp_path: Path) -> None:
    write_dataset("nlvr2", tmp_path, 30)
    write_dataset("nlvr2", tmp_path, 10, split="unbalanced_dev")
    found = select("nlvr2", data_dir=tmp_path, split=EVALUATION, **EVERYTHING)
    assert found.description["split"] == "unbalanced_test_public"
    assert found.description["classes"] == ["False", "True"]
    assert [sample.label for sample in found.samples] == [1, 0, 0] * 10
    assert found.samples[3].texts == (caption(3),) and found.samples[3].second == jpeg(5_003)
    for split in ("dev", "validation", None):
        assert len(select("nlvr2", data_dir=tmp_path, split=split, **EVERYTHING).samples) == 10
    assert len(select("nlvr2", data_dir=tmp_path, split="test", **EVERYTHING).samples) == 30


@pytest.mark.parametrize("spelt", [False, True])
def test_a_row_of_several_questions_with_answers_is_refused(spelt: bool, tmp_path: Path) -> None:
    questions, answers = ["is it red?", "how many?"], ["yes", "two"]
    cells = {"question": json.dumps(questions), "answers": json.dumps(answers)} if spelt else {}
    rows = [{"file_name": f"{i:04d}.jpg", "question": questions, "answers": answers} | cells for i in range(3)]
    jsonl(images(tmp_path, 3) / "metadata.jsonl", rows)
    with pytest.raises(UsageError, match=r"0000.jpg \(2 questions with answers in a row, which takes one\)"):
        select(str(tmp_path), **EVERYTHING)
    jsonl(tmp_path / "metadata.jsonl", [row | {"question": questions[:1]} for row in rows])
    assert {sample.answers for sample in select(str(tmp_path), **EVERYTHING).samples} == {("yes", "two")}


def test_hidden_answers_are_none(tmp_path: Path) -> None:
    for name in ("textvqa", "vqav2", "imagenet-1k"):
        write_dataset(name, tmp_path / name, 10, split="test", hidden=True)
        found = select(name, data_dir=tmp_path / name, split="test", **EVERYTHING).samples
        assert {(sample.label, sample.answers) for sample in found} == {(None, ())}


def test_a_limit_that_leaves_nothing_out_may_keep_the_order(tmp_path: Path) -> None:
    images(tmp_path, 9)
    whole, limited, part, drawn = (
        select(str(tmp_path), n=n, force=True, distinct=False, keep_order=kept).description
        for n, kept in ((None, True), (9, True), (8, True), (9, False))
    )
    assert limited == whole and part["method"] == drawn["method"] == "uniform"
    assert sorted(drawn["ids"]) == whole["ids"] != drawn["ids"]


def test_class_folders_are_numbered_as_datasets_does(tmp_path: Path) -> None:
    from datasets import load_dataset

    for split, names in (("train", ("zebra", "ant", "Bee")), ("test", ("zebra", "Bee"))):
        for place, name in enumerate(names):
            images(tmp_path / split / name, 2 + place)
    theirs = load_dataset("imagefolder", data_dir=str(tmp_path), split="test", cache_dir=str(tmp_path / ".cache"))
    found = select("cifar100", data_dir=tmp_path, split="test", **EVERYTHING)
    assert found.description["classes"] == theirs.features["label"].names == ["Bee", "ant", "zebra"]
    assert sorted(sample.label for sample in found.samples) == sorted(theirs["label"])
    assert {(sample.source.parent.name, sample.label) for sample in found.samples} == {("zebra", 2), ("Bee", 0)}


@pytest.mark.parametrize("folders", [("train", "test"), ("only",), ("a", "b/deeper"), ("val/one", "cats")])
def test_other_folders_are_no_classes(folders: tuple[str, ...], tmp_path: Path) -> None:
    for folder in folders:
        images(tmp_path / folder, 3)
    found = select(str(tmp_path), **EVERYTHING)
    assert found.description["classes"] is None and {sample.label for sample in found.samples} == {None}


@pytest.mark.parametrize("splits", [("",), ("train", "test")])
def test_a_class_may_be_called_like_a_split(splits: tuple[str, ...], tmp_path: Path) -> None:
    for split in splits:
        for name in ("bus", "car", "train"):
            images(tmp_path / split / name, 3)
    found = select(str(tmp_path), **{**EVERYTHING, "split": TRAINING})
    assert found.description["classes"] == ["bus", "car", "train"]
    assert found.description["split"] == (splits[0] or "all")
    assert sorted(sample.label for sample in found.samples) == [0] * 3 + [1] * 3 + [2] * 3
    noted = [note for note in found.description["warnings"] if "'train' is read as a class" in note]
    assert len(noted) == (splits == ("",))


@pytest.mark.parametrize(
    ("folders", "split"),
    [
        ("Train Test", "test"),
        ("TRAINING Testing", "testing"),
        ("train val Test", "val"),
        ("Train/a Train/b Test/a", "test"),
    ],
)
def test_splits_are_told_in_any_case(folders: str, split: str, tmp_path: Path) -> None:
    for count, name in enumerate(folders.split(), 1):
        images(tmp_path / name, count)
    found = select(str(tmp_path), **EVERYTHING)
    assert found.description["split"] == split and not found.description["warnings"]
    assert {name.split("/")[0].lower() for name in found.description["ids"]} == {split}
    assert found.description["classes"] == (["a", "b"] if "/" in folders else None)


@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize(
    ("folders", "unread"),
    [
        ("train_set test_set", 2),
        ("test train-2014", 1),
        ("trainset/a trainset/b valset/a", 2),
        ("seg_train/a seg_test/a", 2),
        ("images_train images-val2014", 2),
        ("CUB_train test", 1),
        ("myTrain traindir/a test.images", 3),
        ("official_train_v2 official_test", 2),
    ],
)
def test_folders_that_only_look_like_splits_are_told(folders: str, unread: int, metadata: bool, tmp_path: Path) -> None:
    for name in folders.split():
        images(tmp_path / name, 2)
        if metadata:
            jsonl(tmp_path / name / "metadata.jsonl", captioned(2))
    found = select(str(tmp_path), **EVERYTHING).description
    names = [name for name in sorted({name.split("/")[0] for name in folders.split()}) if name != "test"]
    told = found["warnings"][-1]
    assert found["split"] == "all" and len(names) == unread
    assert told.startswith(f"the {'folder' if unread == 1 else 'folders'} {', '.join(map(repr, names))} ")
    assert told.endswith("all data is one split, all; to keep it apart, name the folders train, validation or test")


@pytest.mark.parametrize(
    "folders",
    ["train_station bus", "test_tube pretest", "fast_train toy_train", "pretest fasttrain"],
)
def test_classes_that_contain_the_name_of_a_split_are_classes(folders: str, tmp_path: Path) -> None:
    for name in folders.split():
        images(tmp_path / name, 2)
    found = select(str(tmp_path), **EVERYTHING).description
    assert found["classes"] == sorted(folders.split()) and not found["warnings"]


def test_a_few_classes_that_look_like_several_splits_are_classes(tmp_path: Path) -> None:
    names = ["bus", "car", "dog", "test_tube", "train station"]
    for name in names:
        images(tmp_path / "more" / name, 2), images(tmp_path / "split" / "train" / name, 2)
    found = select(str(tmp_path / "more"), **EVERYTHING).description
    told = "the folders 'test_tube', 'train station' are not read as splits: all data is one split, all; "
    assert found["classes"] == names and found["warnings"][0].startswith(told)
    found = select(str(tmp_path / "split"), **EVERYTHING).description
    assert found["classes"] == names and not found["warnings"]


@pytest.mark.parametrize(
    ("folders", "above"),
    [
        ("benign/p1 benign/p2 malignant/p3", "'benign', 'malignant'"),
        ("images/a images/b masks/a masks/b", "'images', 'masks'"),
        ("train/cat/low train/cat/high train/dog/low test/dog/high", "'cat', 'dog'"),
        ("images/a images/b", None),
        ("train/x/a train/x/b test/x/a test/x/b", None),
    ],
)
def test_classes_in_several_folders_are_told(folders: str, above: str | None, tmp_path: Path) -> None:
    for name in folders.split():
        images(tmp_path / name, 2)
    found = select(str(tmp_path), **EVERYTHING).description
    assert found["classes"] == sorted({name.split("/")[-1] for name in folders.split()})
    told = [note for note in found["warnings"] if f"whichever folders above they lie in ({above})" in note]
    assert (len(told), len(found["warnings"])) == ((1, 1) if above else (0, 0))


@pytest.mark.parametrize(
    ("folders", "merged"),
    [
        ("images/training annotations/training images/validation annotations/validation", "annotations images"),
        ("images annotations/trimaps", "annotations/trimaps images"),
        ("fold0/train/a fold0/train/b fold1/train/a fold1/train/b fold0/val/a fold1/val/b", "fold0 fold1"),
        ("left/val/aachen right/val/aachen", "left/aachen right/aachen"),
        ("images/train images/val", ""),
        ("train/a train/b test", ""),
        ("test/a/x test/b/y/z", "a/x b/y/z"),
    ],
)
def test_images_of_several_folders_that_are_read_together_are_told(folders: str, merged: str, tmp_path: Path) -> None:
    for name in folders.split():
        images(tmp_path / name, 2)
    for purpose in (None, TRAINING, EVALUATION):
        told = select(str(tmp_path), **EVERYTHING, split=purpose).description["warnings"]
        named = f"({', '.join(map(repr, merged.split()))})"
        assert [named in note for note in told] == ([True] if merged else [])


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ("test predictions_test", "'predictions_test.parquet', 'test.parquet'"),
        ("coarse/test-00000-of-00001 fine/test-00000-of-00001", "'coarse/test-00000-of-00001.parquet', 'fine/test-"),
        ("v1 v2_backup", "'v1.parquet', 'v2_backup.parquet'"),
        ("0000 0001", None),
        ("data/test-00000-of-00002-0123456789abcdef data/test-00001-of-00002-fedcba9876543210", None),
        ("train predictions_train test", None),
    ],
)
def test_several_tables_that_are_read_together_are_told(tables: str, told: str | None, tmp_path: Path) -> None:
    for name in tables.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        parquet(tmp_path / f"{name}.parquet", rows=2)
    warnings = select(str(tmp_path), **EVERYTHING).description["warnings"]
    assert len(warnings) == bool(told)
    assert not told or warnings[0].startswith(f"several tables are read together ({told}")


@pytest.mark.parametrize("names", ["unknown", "Cats Dogs"])
def test_a_split_whose_folders_are_none_of_the_classes_has_no_labels(names: str, tmp_path: Path) -> None:
    of_classes(tmp_path / "train")
    for name in names.split():
        images(tmp_path / "test" / name, 2)
    train = select(str(tmp_path), **EVERYTHING, split="train")
    assert train.description["classes"] == ["a", "b"] and not train.description["warnings"]
    test = select(str(tmp_path), **EVERYTHING, split="test")
    assert {sample.label for sample in test.samples} == {None}
    named = ", ".join(map(repr, names.split()))
    assert test.description["warnings"] == [
        f"the folders of the split test ({named}) share no name with the classes of the training split: its images "
        "have no label"
    ]


def test_cats_and_dogs_as_they_are_given_out(tmp_path: Path) -> None:
    images(tmp_path / "train", 3), images(tmp_path / "test1", 2)
    found = select(str(tmp_path), **EVERYTHING, split=TRAINING).description
    assert (found["split"], found["rows"], found["classes"]) == ("train", 3, None)
    assert len(found["warnings"]) == 1 and "belong to no split, while train is one: 'test1'" in found["warnings"][0]


@pytest.mark.parametrize("one", ["metadata.jsonl", "test.parquet", "train.parquet"])
def test_images_of_a_split_without_a_table_beside_one_with_a_table_are_told(one: str, tmp_path: Path) -> None:
    of_classes(tmp_path / "train"), images(tmp_path / "test", 2)
    if one == "metadata.jsonl":
        jsonl(tmp_path / "test" / one, captioned(2))
    else:
        parquet(tmp_path / one, rows=2)
    of, other = ("train", "test") if one == "train.parquet" else ("test", "train")
    found = select(str(tmp_path), **EVERYTHING, split=TRAINING).description
    assert found["split"] in (of, "all")
    table = f"test/{one}" if one == "metadata.jsonl" else one
    assert found["warnings"] == [
        f"the images in '{other}' are not read: no table is of their split, as '{table}' is of another; put a table "
        "into each of the folders, or remove the tables"
    ]


def test_a_folder_beside_splits_does_not_make_them_classes(tmp_path: Path) -> None:
    for name in ("train", "test", "unlabeled"):
        images(tmp_path / name, 3)
    found = select(str(tmp_path), **{**EVERYTHING, "split": TRAINING})
    assert found.description["classes"] is None and len(found.samples) == 3


def of_classes(folder: Path, n: int = 1) -> Path:
    """Images of two classes."""
    images(folder / "a", n), images(folder / "b", n)
    return folder


@pytest.mark.parametrize(
    ("split", "beside"), [("train", "holdout"), ("test", "photos"), ("train", "cover"), ("Train", "test_public")]
)
def test_what_lies_beside_a_single_split_is_read_with_it_and_told(split: str, beside: str, tmp_path: Path) -> None:
    of_classes(tmp_path / split)
    if beside == "cover":
        (tmp_path / "cover.png").write_bytes(jpeg(9))
    else:
        of_classes(tmp_path / beside)
    kind, name = ("file", "cover.png") if beside == "cover" else ("folder", beside)
    told = f"the {kind} '{name}' is not read as a split, while {split.lower()} is: all data is one split, all; "
    for purpose in (None, TRAINING, EVALUATION):
        found = select(str(tmp_path), **EVERYTHING, split=purpose).description
        if spelling_of(purpose, [split]) and purpose:
            assert found["split"] == split.lower()
            assert found["warnings"][0].startswith("left out ") and f"'{name}" in found["warnings"][0]
        else:
            assert found["split"] == "all" and found["warnings"][0].startswith(told)


@pytest.mark.parametrize("stray", ["cover.png", "figures/1.png", "more/c/1.png", "metadata.jsonl", "extra.parquet"])
def test_a_stray_file_beside_splits_is_left_out_and_told(stray: str, tmp_path: Path) -> None:
    for name in ("train", "Test"):
        if stray.endswith(".parquet"):
            parquet(tmp_path / f"{name}-00000-of-00001.parquet", rows=2)
        elif stray == "metadata.jsonl":
            jsonl(images(tmp_path / name, 2) / "metadata.jsonl", captioned(2))
        else:
            of_classes(tmp_path / name)
    if stray.endswith(".parquet"):
        parquet(tmp_path / stray, rows=2)
    elif stray == "metadata.jsonl":
        jsonl(tmp_path / stray, [{**row, "file_name": f"train/{row['file_name']}"} for row in captioned(2)])
    else:
        (tmp_path / stray).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / stray).write_bytes(jpeg(9))
    files = 5 if "png" in stray else 3
    for purpose, split in ((None, "test"), (EVALUATION, "test"), (TRAINING, "train")):
        found = select(str(tmp_path), **EVERYTHING, split=purpose).description
        told = f"left out 1 of the {files} files in {tmp_path}, which belong to no split, while {split} is one: "
        told += repr(stray.split("/")[0])
        assert (found["split"], found["warnings"]) == (split, [told])
        assert found["classes"] == (["a", "b"] if "png" in stray else None)
    assert not select(str(tmp_path), **EVERYTHING, split="train").description["warnings"]
    everything = select(str(tmp_path), **EVERYTHING, split="all")
    assert len(everything.samples) == (5 if "png" in stray else 6)


def test_a_few_images_at_another_depth_that_keep_folders_from_being_classes_are_told(tmp_path: Path) -> None:
    for name in ("train", "test"):
        of_classes(tmp_path / name, 3)
    (tmp_path / "train" / "cover.png").write_bytes(jpeg(9))
    told = "folders of images are not read as classes, since 1 of 13 images lie higher or deeper than the others "
    for split in ("train", "test"):
        found = select(str(tmp_path), **EVERYTHING, split=split).description
        assert found["classes"] is None and found["warnings"] == [
            f"{told}('train/cover.png'): for classes, move or remove them"
        ]


def test_a_split_without_folders_is_unlabelled_and_leaves_the_others_their_classes(tmp_path: Path) -> None:
    of_classes(tmp_path / "train"), images(tmp_path / "test", 2)
    found = select(str(tmp_path), **EVERYTHING, split="train")
    assert found.description["classes"] == ["a", "b"] and not found.description["warnings"]
    assert sorted(sample.label for sample in found.samples) == [0, 1]
    found = select(str(tmp_path), **EVERYTHING, split="test")
    assert [sample.label for sample in found.samples] == [None, None]


def test_folders_that_look_like_splits_are_no_classes(tmp_path: Path) -> None:
    for name in ("train2017", "val2017"):
        images(tmp_path / name, 2)
    found = select(str(tmp_path), **EVERYTHING).description
    assert found["classes"] is None and "'train2017', 'val2017' are not read as splits" in found["warnings"][0]


@pytest.mark.parametrize("table", ["metadata.jsonl", "list.jsonl", "list.parquet"])
def test_a_table_beside_folders_of_splits_is_one_split_and_told(table: str, tmp_path: Path) -> None:
    for name in ("train", "test"):
        images(tmp_path / name, 2)
    rows = [{"file_name": f"{name}/000{i}.jpg", "text": caption(i)} for name in ("train", "test") for i in range(2)]
    if table.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / table)
    else:
        jsonl(tmp_path / table, rows)
    found = select(str(tmp_path), **EVERYTHING).description
    assert found["split"] == "all" and found["warnings"] == [
        f"the folders 'test', 'train' are not read as splits: the rows of '{table}' are one split, all; to keep them "
        "apart, put a table of its own into each of the folders"
    ]


def test_linked_folders_are_read(tmp_path: Path) -> None:
    data, elsewhere = of_classes(tmp_path / "data" / "train").parent, of_classes(tmp_path / "elsewhere", 2)
    (data / "test").symlink_to("../elsewhere")
    images(tmp_path / "third", 3)
    (elsewhere / "c").symlink_to("../third")
    found = select(str(data), **EVERYTHING)
    assert found.description["split"] == "test" and found.description["classes"] == ["a", "b", "c"]
    assert [sample.label for sample in found.samples] == [0, 0, 1, 1, 2, 2, 2] and not found.description["warnings"]
    (tmp_path / "link").symlink_to("data")
    assert select(str(tmp_path / "link"), **EVERYTHING).description["ids"] == found.description["ids"]


def test_links_without_an_end_are_not_followed(tmp_path: Path) -> None:
    data = of_classes(tmp_path / "data")
    for place, target in (("a/self", "."), ("a/up", ".."), ("b/above", "../.."), ("b/other", "../a"), ("x", "/")):
        (data / place).symlink_to(target)
    (data / "b" / "gone").symlink_to("nowhere")
    names = {file.relative_to(data).as_posix() for file in _listing(data)}
    assert names == {"a/0000.jpg", "b/0000.jpg", "b/other/0000.jpg", "b/gone"}


@pytest.mark.parametrize("with_images", [True, False])
def test_tables_beside_images_are_told(with_images: bool, tmp_path: Path) -> None:
    if with_images:
        images(tmp_path / "images", 2)
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text("image,label\nimages/0000.jpg,1\nimages/0001.jpg,0\n")
    way_out = f"; to read a table, name it in place of the folder, as '{tmp_path / 'test.csv'}'"
    if with_images:
        (told,) = select(str(tmp_path), **EVERYTHING).description["warnings"]
        assert told.endswith(f"which are not images: 'test.csv', 'train.csv'{way_out}")
        assert len(select(str(tmp_path / "test.csv"), **EVERYTHING).samples) == 2
    else:
        with pytest.raises(UsageError) as refused:
            select(str(tmp_path), **EVERYTHING)
        assert str(refused.value).endswith(f"nlvr_train.json{way_out}")


@pytest.mark.parametrize("kind", ["folders", "parquet", "saved"])
def test_eval_is_a_spelling_of_validation(kind: str, tmp_path: Path) -> None:
    for split in ("train", "eval"):
        if kind == "folders":
            of_classes(tmp_path / split)
        elif kind == "parquet":
            parquet(tmp_path / f"{split}.parquet", rows=2)
    if kind == "saved":
        saved_splits(tmp_path, "Train", "EVAL")
    for purpose, split in ((None, "eval"), (EVALUATION, "eval"), ("validation", "eval"), (TRAINING, "train")):
        found = select(str(tmp_path), **EVERYTHING, split=purpose).description
        if kind == "saved":
            split = {"eval": "EVAL", "train": "Train"}[split]
        assert found["split"] == split and not found["warnings"]


def test_splits_of_save_to_disk_without_one_to_evaluate_on_are_refused(tmp_path: Path) -> None:
    saved_splits(tmp_path, "train", "holdout")
    said = "has the splits train, holdout, none of them called test or validation: name the one to evaluate on"
    with pytest.raises(UsageError, match=said):
        select(str(tmp_path), **EVERYTHING, split=EVALUATION)
    assert select(str(tmp_path), **EVERYTHING, split="holdout").description["split"] == "holdout"


def test_run_folders_in_the_datasets_folder_are_left_out(tmp_path: Path) -> None:
    images(tmp_path / "ant", 3), images(tmp_path / "bee", 3)
    before = select(str(tmp_path), **EVERYTHING).description
    with runs.Run.open(tmp_path / "runs" / "a", recipe={}, signature={}) as run:
        images(run.folder / "model", 1), images(run.folder, 1)
    assert select(str(tmp_path), **EVERYTHING).description == before
    (run.folder / "run.json").write_text("{}")  # of another program
    assert len(select(str(tmp_path), **EVERYTHING).samples) == 8


def test_classes_that_differ_in_case_only_are_two_with_a_warning(tmp_path: Path) -> None:
    for name in ("Dog", "cat", "dog"):
        images(tmp_path / name, 1)
    found = select(str(tmp_path), **EVERYTHING)
    assert found.description["classes"] == ["Dog", "cat", "dog"] and [each.label for each in found.samples] == [0, 1, 2]
    (said,) = found.description["warnings"]
    assert said.startswith("the classes 'Dog' and 'dog' differ in case only, and are two classes: where they are one, ")


def test_metadata_takes_the_place_of_class_folders(tmp_path: Path) -> None:
    images(tmp_path / "ant", 2), images(tmp_path / "bee", 2)
    rows = [{"file_name": f"{name}/000{i}.jpg", "kind": f"kind {name}"} for name in ("bee", "ant") for i in range(2)]
    jsonl(tmp_path / "metadata.jsonl", [{**rows[0], "kind": None}, *rows[1:]])
    assert {sample.label for sample in select(str(tmp_path), **EVERYTHING).samples} == {None}
    found = select(str(tmp_path), label_column="kind", **EVERYTHING)
    assert found.description["classes"] == ["kind ant", "kind bee"]
    assert [sample.label for sample in found.samples] == [None, 1, 0, 0]


@pytest.mark.parametrize(
    ("column", "cells", "labels"),
    [
        ("label", [None, 3, "1", 2.0, -1, ""], [None, 3, 1, 2, None, None]),
        ("class", [True, False, "False", "true"], [1, 0, 0, 1]),
        ("label", ["words", "are not", "a class"], [None] * 3),
        ("label", [0.25, 0.5], [None] * 2),
        ("labels", [[1, 2], [3]], [None] * 2),
        ("score", [1, 2], [None] * 2),
    ],
)
def test_only_numbers_of_classes_are_guessed(column: str, cells: list, labels: list, tmp_path: Path) -> None:
    images(tmp_path, len(cells))
    path = jsonl(tmp_path / "list.jsonl", [{"image": f"{i:04d}.jpg", column: cell} for i, cell in enumerate(cells)])
    found = select(str(path), **EVERYTHING)
    assert [sample.label for sample in found.samples] == labels
    assert (column in found.description["columns"]["guessed"]) == any(label is not None for label in labels)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            ["cat", "dog"],
            "the column 'label' holds words ('cat'): to read them as classes, set label_column (--label-column label)",
        ),
        (
            ["cat", 1],
            "the column 'label' holds words ('cat'): to read them as classes, set label_column (--label-column label)",
        ),
        ([10**18, 1], f"the column 'label' is not read as labels: the class {10**18} is out of range"),
        ([10**30, 1], f"the column 'label' is not read as labels: the class {10**30} is out of range"),
        ([0.5, 1], "the column 'label' is not read as labels: the class 0.5 is not a whole number"),
        ([-2, 1], "the column 'label' is not read as labels: the class -2 is out of range"),
        ([3, 1], None),
    ],
)
def test_a_column_of_labels_that_is_not_read_says_why(cells: list, said: str | None, tmp_path: Path) -> None:
    images(tmp_path, len(cells))
    rows = [{"file_name": f"{i:04d}.jpg", "label": cell} for i, cell in enumerate(cells)]
    jsonl(tmp_path / "metadata.jsonl", rows)
    assert (said in select(str(tmp_path), **EVERYTHING).description["warnings"]) == (said is not None)
    assert select(str(tmp_path), label_column="none", **EVERYTHING).description["warnings"] == []


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_words_are_numbered_alike_in_all_splits(form: str, tmp_path: Path) -> None:
    words = {"train": ["cat", "dog", "owl"], "val": ["owl", "ant "], "test": ["owl", "dog", ""]}
    for split, cells in words.items():
        rows = [{"file_name": f"{i:04d}.jpg", "kind": cell} for i, cell in enumerate(cells)]
        if form == "jsonl":
            jsonl(images(tmp_path / split, len(cells)) / "metadata.jsonl", rows)
        else:
            rows = [{"image": jpeg(i), "kind": cell} for i, cell in enumerate(cells)]
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}-00000-of-00001.parquet")

    def read(split: str) -> tuple[list[str], list[int | None]]:
        found = select(str(tmp_path), split=split, label_column="kind", **EVERYTHING)
        return found.description["classes"], [sample.label for sample in found.samples]

    every = ["ant", "cat", "dog", "owl"]
    assert read("train") == (every, [1, 2, 3])
    assert read("val") == (every, [3, 0])
    assert read("test") == (every, [3, 2, None])
    # a split that cannot be read does not hinder the others
    at = tmp_path / ("val/metadata.jsonl" if form == "jsonl" else "val-00000-of-00001.parquet")
    at.write_text("{")
    assert read("test") == (every[1:], [2, 1, None])


def classes_and_labels(cells: list, folder: Path) -> tuple[list[str] | None, list[int | None]]:
    """What is read of a column of labels: the classes, and the label of each row."""
    images(folder, len(cells))
    rows = [{"image": f"{i:04d}.jpg", "kind": cell} for i, cell in enumerate(cells)]
    found = select(str(jsonl(folder / "list.jsonl", rows)), label_column="kind", **EVERYTHING)
    return found.description["classes"], [sample.label for sample in found.samples]


@pytest.mark.parametrize(
    ("cells", "classes", "labels"),
    [
        (["1", "0", "many", "10"], ["0", "1", "10", "many"], [1, 0, 3, 2]),
        (["many", "1", "0", "10"], ["0", "1", "10", "many"], [3, 1, 0, 2]),
        (["unsure", 2, 0.0, "none", "2", -1], ["0", "2", "none", "unsure"], [3, 1, 0, 2, 1, None]),
        (["cat", "nan", " ", "NaN", None, "dog"], ["cat", "dog"], [0, None, None, None, None, 1]),
        ([2, math.nan, "nan", "", "0"], None, [2, None, None, None, 0]),
        ([True, 1, "maybe"], ["1", "True", "maybe"], [1, 0, 2]),
    ],
)
def test_labels_are_numbers_where_all_are_and_otherwise_words(
    cells: list, classes: list[str] | None, labels: list[int | None], tmp_path: Path
) -> None:
    assert classes_and_labels(cells, tmp_path) == (classes, labels)


@pytest.mark.parametrize("form", ["jsonl", "parquet", "saved"])
def test_a_word_in_one_split_makes_the_numbers_of_the_others_words(form: str, tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    cells = {"train": ["2", "10", "nan"], "test": ["10", "many", "2"]}
    for split, some in cells.items() if form != "saved" else ():
        rows = [{"file_name": f"{i:04d}.jpg", "label": cell} for i, cell in enumerate(some)]
        folder = images(tmp_path / split, len(some))
        if form == "jsonl":
            jsonl(folder / "metadata.jsonl", rows)
        else:
            table = pa.table({"image": [jpeg(0), jpeg(1), jpeg(2)], "label": pa.array(some).dictionary_encode()})
            pq.write_table(table, tmp_path / f"{split}.parquet")
    if form == "saved":
        parts = {split: Dataset.from_dict({"image": [jpeg(0)] * 3, "label": some}) for split, some in cells.items()}
        DatasetDict(parts).save_to_disk(tmp_path)
    for split, labels in {"train": [1, 0, None], "test": [0, 2, 1]}.items():
        found = select(str(tmp_path), split=split, label_column="label", **EVERYTHING)
        assert found.description["classes"] == ["10", "2", "many"]
        assert [sample.label for sample in found.samples] == labels
        (said,) = select(str(tmp_path), split=split, **EVERYTHING).description["warnings"]
        assert said.startswith("the column 'label' holds words ('many'): to read them as classes")


def test_the_images_of_a_column_called_label_are_not_all_read(tmp_path: Path) -> None:
    masks = [{"bytes": jpeg(i), "path": None} for i in range(2)]
    pq.write_table(pa.table({"image": [jpeg(0), jpeg(1)], "label": [None, masks[0]]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [jpeg(2)], "label": [masks[1]]}), tmp_path / "b.parquet")
    table = table_at(tmp_path, None, None)
    assert [*table.distinct("label")] == [masks[0]] and {*table.distinct("image")} == {jpeg(0)}
    assert {sample.label for sample in select(str(tmp_path), **EVERYTHING).samples} == {None}


@pytest.mark.parametrize(
    ("cells", "classes", "labels"),
    [
        ([True, False, None], ["False", "True"], [1, 0, None]),
        (["TRUE", "false ", ""], ["False", "True"], [1, 0, None]),
        (["true"], ["False", "True"], [1]),
        ([-1, "True", False], ["False", "True"], [None, 1, 0]),
        ([0, 1, -1], None, [0, 1, None]),
        (["1", "0"], None, [1, 0]),
        ([True, 1, 0], None, [1, 1, 0]),
        ([True, "unknown", False], ["False", "True", "unknown"], [1, 2, 0]),
        (["unknown", "true", "false", "-1"], ["false", "true", "unknown"], [2, 1, 0, None]),
        (["true", "false", "unknown"], ["false", "true", "unknown"], [1, 0, 2]),
    ],
)
def test_a_column_of_true_and_false_has_these_classes(
    cells: list, classes: list[str] | None, labels: list[int | None], tmp_path: Path
) -> None:
    assert classes_and_labels(cells, tmp_path) == (classes, labels)


@pytest.mark.parametrize("cells", [["true", "unknown", "false"], ["unknown", "true", "false"]])
def test_whether_a_column_of_true_false_and_other_words_is_guessed_does_not_depend_on_its_order(
    cells: list[str], tmp_path: Path
) -> None:
    images(tmp_path, 3)
    path = jsonl(tmp_path / "list.jsonl", [{"image": f"{i:04d}.jpg", "label": cell} for i, cell in enumerate(cells)])
    (said,) = select(str(path), **EVERYTHING).description["warnings"]
    assert said.startswith("the column 'label' holds words ('unknown'): to read them as classes, set label_column")


def test_true_and_false_are_numbered_alike_in_all_splits(tmp_path: Path) -> None:
    for split, cells in {"train": ["true", "N/A"], "test": ["false", "true"]}.items():
        rows = [{"file_name": f"{i:04d}.jpg", "kind": cell} for i, cell in enumerate(cells)]
        jsonl(images(tmp_path / split, len(cells)) / "metadata.jsonl", rows)
    for split, labels in (("train", [2, 0]), ("test", [1, 2])):
        found = select(str(tmp_path), split=split, label_column="kind", **EVERYTHING)
        assert found.description["classes"] == ["N/A", "false", "true"]
        assert [sample.label for sample in found.samples] == labels


def test_numbers_in_csv_are_no_words(tmp_path: Path) -> None:
    (images(tmp_path, 2) / "metadata.csv").write_text("file_name,label\n0000.jpg,-2\n0001.jpg,0\n")
    said = "the column 'label' is not read as labels: the class -2 is out of range"
    assert select(str(tmp_path), **EVERYTHING).description["warnings"] == [said]


def test_a_folder_that_vanishes_while_it_is_listed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path, 3)
    (tmp_path / "gone").mkdir()
    scandir = os.scandir

    def vanishing(path: object = ".") -> object:
        if os.fspath(path).endswith("gone"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert len(select(str(tmp_path), **EVERYTHING).samples) == 3


def test_labels_and_answers_are_no_texts(tmp_path: Path) -> None:
    images(tmp_path, 3)
    pair = [{"left_image": f"{i:04d}.jpg", "right_image": f"{i:04d}.jpg", "answer": "True"} for i in range(3)]
    found = select("nlvr2", data_dir=jsonl(tmp_path / "pairs.jsonl", pair), **EVERYTHING)
    assert [(sample.texts, sample.label) for sample in found.samples] == [((), 1)] * 3
    asked = [{"image": f"{i:04d}.jpg", "answers": ["a", "b"]} for i in range(3)]
    found = select("vqav2", data_dir=jsonl(tmp_path / "asked.jsonl", asked), **EVERYTHING)
    assert [(sample.texts, sample.answers) for sample in found.samples] == [((), ("a", "b"))] * 3


def test_captions_are_not_answers_unless_asked(tmp_path: Path) -> None:
    images(tmp_path, 3)
    rows = [{"image": f"{i:04d}.jpg", "caption": caption(i), "answers": ["a", "b"]} for i in range(3)]
    path = str(jsonl(tmp_path / "list.jsonl", rows))
    assert {sample.answers for sample in select(path, **EVERYTHING).samples} == {()}
    found = select(path, answers_column="answers", **EVERYTHING)
    assert {sample.answers for sample in found.samples} == {("a", "b")}


def test_everything_comes_in_its_own_order_and_what_is_drawn_by_seed(folder: Path) -> None:
    whole = select(str(folder), seed=3, **EVERYTHING).description
    assert whole["ids"] == [f"{i:04d}.jpg" for i in range(130)] and whole["method"] == "whole"
    drawn, again, other = (select(str(folder), n=50, seed=seed, **EVERYTHING).description["ids"] for seed in (3, 3, 4))
    assert drawn == again != other and len(set(drawn)) == 50 and drawn != sorted(drawn)


def test_an_evaluation_takes_test_where_there_is_one(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 4), ("test", 5)):
        images(tmp_path / split, count)
    assert len(select(str(tmp_path), split=EVALUATION, **EVERYTHING).samples) == 5
    assert len(select(str(tmp_path / "val"), split=EVALUATION, **EVERYTHING).samples) == 4


def test_a_column_without_a_name_has_no_use(tmp_path: Path) -> None:
    (images(tmp_path, 2) / "metadata.csv").write_text(",file_name,text\n0,0000.jpg,a dog\n1,0001.jpg,a cat\n")
    columns = select(str(tmp_path), **EVERYTHING).description["columns"]
    assert columns == {"image": "file_name", "text": "text", "guessed": ["file_name", "text"]}


@pytest.mark.parametrize(
    ("ids", "distinct"),
    [("same same same", "same same#2 same#3"), ("a a a#2 a#2 a", "a a#2 a#2#2 a#2#3 a#3"), ("a#2 a a", "a#2 a a#3")],
)
def test_ids_are_distinct(ids: str, distinct: str, tmp_path: Path) -> None:
    images(tmp_path, 5)
    rows = [{"image": f"{i:04d}.jpg", "image_id": name, "text": caption(i)} for i, name in enumerate(ids.split())]
    path = str(jsonl(tmp_path / "list.jsonl", rows))
    assert select(path, **EVERYTHING).description["ids"] == distinct.split()


def test_of_many_columns_some_are_listed(tmp_path: Path) -> None:
    path = str(jsonl(tmp_path / "list.jsonl", [{f"c{i}": 1 for i in range(3_000)}]))
    for given in ({}, {"text_column": "none such"}):
        with pytest.raises(UsageError, match=r"c39, \.\.\. \(3,000 in all\)") as caught:
            select(path, **given, **EVERYTHING)
        assert len(str(caught.value)) < 500


def test_a_class_that_is_not_in_the_list_is_unusable(tmp_path: Path) -> None:
    images(tmp_path, 2)
    rows = [{"image": "0000.jpg", "label": 1}, {"image": "0001.jpg", "label": 0.5}]
    with pytest.raises(UsageError, match=r"1 of the 2 samples .* 1 \(the class 0.5 is not a whole number\)"):
        select(str(jsonl(tmp_path / "list.jsonl", rows)), label_column="label", **EVERYTHING)


@pytest.mark.parametrize("features", ['{"info": 5}', "[]", "{", '{"info": {"features": {"l": %s}}}'])
def test_damaged_names_of_classes_in_parquet(features: str, tmp_path: Path) -> None:
    for names in ("5", '["a", 5]'):
        metadata = {"huggingface": features.replace("%s", f'{{"_type": "ClassLabel", "names": {names}}}')}
        table = pa.table({"image": [jpeg(0)], "label": [0]}).replace_schema_metadata(metadata)
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(UsageError, match="the 'huggingface' metadata of .* is not what datasets writes: write"):
            select(str(tmp_path), **EVERYTHING)


def test_a_column_called_names_has_no_classes(tmp_path: Path) -> None:
    features = {"meta": {"names": {"dtype": "string", "_type": "Value"}}}
    table = pa.table({"image": [jpeg(0)], "label": [0]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    assert select(str(tmp_path), **EVERYTHING).description["classes"] is None


def test_parquet_files_that_differ_are_refused(tmp_path: Path) -> None:
    def write(name: str, names: str, **columns: list) -> None:
        features = {"label": {"_type": "ClassLabel", "names": list(names)}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), tmp_path / name)

    write("a.parquet", "xy", image=[jpeg(0)], label=[0])
    write("b.parquet", "yx", image=[jpeg(1)], label=[0])
    with pytest.raises(UsageError, match="name their classes differently: read them one at a time"):
        select(str(tmp_path), **EVERYTHING)
    write("b.parquet", "xy", image=[jpeg(1)])
    with pytest.raises(UsageError, match=r"b.parquet has no column 'label', but .*a.parquet has"):
        select(str(tmp_path), **EVERYTHING)


def test_a_missing_file_of_a_numbered_split_is_named(tmp_path: Path) -> None:
    for number in (0, 2):
        pq.write_table(pa.table({"text": ["a"]}), tmp_path / f"test-{number:05d}-of-00003.parquet")
    with pytest.raises(UsageError, match=r"lacks test-00001-of-00003.parquet \(1 of 3 missing"):
        select(str(tmp_path), distinct=False, force=True)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "test-00001-of-00003-0af3.parquet")
    assert len(select(str(tmp_path), distinct=False, force=True).samples) == 3


def test_what_is_no_image_in_a_folder_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images(tmp_path, 30)
    (tmp_path / "notes.txt").touch(), (tmp_path / "gone.jpg").symlink_to("nowhere"), (tmp_path / ".hidden").touch()
    line = f"left out 1 of the 32 files in {tmp_path}, which are not images: 'notes.txt'"
    gone = f"skipped 1 unusable of 31 samples of {tmp_path}: gone.jpg (No such file or directory)"
    assert select(str(tmp_path), **EVERYTHING).description["warnings"] == [line, gone] and line in caplog.text


@pytest.mark.parametrize("name", ["./~nosuchuser", "x/" * 3_000, "loop"])
def test_names_that_lead_nowhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(UsageError, match="does not exist: pass a folder of images") as caught:
        select("coco", data_dir=name)
    assert len(str(caught.value)) < 400


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = images(tmp_path / "b\udcff", 3)
    with pytest.raises(UsageError, match="is not UTF-8: rename it"):
        select(str(path), **EVERYTHING)


def test_a_path_with_a_data_dir_beside_it_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,label\na.jpg,0\n")
    with pytest.raises(UsageError, match="is a path, and data_dir .* leave one of the two out"):
        select(str(table), data_dir=images(tmp_path / "others", 3), **EVERYTHING)
