"""Records are kept once, in order, whoever wrote them; what is damaged is counted and left out."""

import json

import pytest

from idvl import predictions
from idvl.errors import RunError, UsageError

IDS = ["a", "b", "c", "d"]


def record(number, text="x"):
    return {"number": number, "id": IDS[number], "prediction": text}


def test_what_processes_wrote_becomes_one_file_in_order(tmp_path):
    predictions.append(predictions.file_of(tmp_path, "predictions", 0), [record(0), record(2)])
    predictions.append(predictions.file_of(tmp_path, "predictions", 1), [record(3), record(1)])
    found, dropped = predictions.collect(tmp_path, "predictions", IDS)
    predictions.merge(tmp_path, "predictions", found)
    assert dropped == 0
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
    assert predictions.read(tmp_path / "predictions.jsonl") == [record(number) for number in range(4)]


def test_a_record_that_came_twice_is_kept_once(tmp_path):
    predictions.append(tmp_path / "predictions.jsonl", [record(0, "first"), record(0, "second")])
    assert predictions.collect(tmp_path, "predictions", IDS) == ({0: record(0, "first")}, 0)


@pytest.mark.parametrize(
    "line",
    [
        b'{"number": 1, "id": "b", "predi',
        b"[1, 2]",
        b'{"number": 9, "id": "b"}',
        b'{"number": -1, "id": "d"}',
        b'{"number": true, "id": "b"}',
        b'{"number": 1, "id": "c"}',
        b'{"id": "b"}',
        b"\xff\xfe\x00",
        b"NaN",
    ],
)
def test_a_line_that_is_no_record_of_an_item_is_counted_and_left_out(tmp_path, line):
    predictions.append(tmp_path / "predictions.jsonl", [record(0)])
    with (tmp_path / "predictions.jsonl").open("ab") as file:
        file.write(line + b"\n" + json.dumps(record(2)).encode() + b"\n")
    found, dropped = predictions.collect(tmp_path, "predictions", IDS)
    assert (sorted(found), dropped) == ([0, 2], 1)


def test_separators_inside_of_a_text_do_not_end_a_line(tmp_path):
    text = "a\r\nb\u2028c\x85d\x0ce\x1ff \N{PILE OF POO} \u202eabc"
    predictions.append(tmp_path / "predictions.jsonl", [record(0, text), record(1, text)])
    assert [one["prediction"] for one in predictions.read(tmp_path / "predictions.jsonl")] == [text, text]


def test_files_of_other_names_are_left_alone(tmp_path):
    for name in ("predictions-old.jsonl", "predictions-1.jsonl.bak", "matches-1.jsonl"):
        (tmp_path / name).write_text("mine\n")
    predictions.merge(tmp_path, "predictions", {0: record(0)})
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(("content", "told"), [("", "no predictions"), ("\n", "no predictions"), ("{", "line 1")])
def test_a_file_that_cannot_be_scored_says_why(tmp_path, content, told):
    (tmp_path / "predictions.jsonl").write_text(content)
    with pytest.raises(UsageError, match=told):
        predictions.read(tmp_path / "predictions.jsonl")


def test_a_missing_file_and_a_number_that_is_none_say_so(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        predictions.read(tmp_path / "predictions.jsonl")
    with pytest.raises(RunError, match="not a number"):
        predictions.append(tmp_path / "predictions.jsonl", [record(0, float("nan"))])


def test_a_number_too_large_is_named(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"number": 0, "id": "a", "prediction": 1e308}\n')
    with pytest.raises(UsageError, match=r"p\.jsonl line 1: prediction is a number beyond 1e\+39; use"):
        predictions.read(tmp_path / "p.jsonl")
