"""JSON documents: read within limits, checked against a schema, and refused in one line that names the field."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from idvl import json_file
from idvl.json_file import last_line, parse, read, sound
from idvl.json_schema import Schema, check, field_name


class Part(Schema):
    ratio: float
    name: str | None = None


class Whole(Schema):
    NAME: ClassVar[str] = "idvl/whole/1"

    parts: dict[str, list[Part]]
    count: int = 0
    few: dict[str, int] = Field(default={}, max_length=2)


GOOD = {"schema": "idvl/whole/1", "parts": {"a.b": [{"ratio": 1, "x": 5}]}, "z": [None]}


def test_a_document_comes_back_as_it_is_written(tmp_path: Path) -> None:
    """Nothing is converted or left out, in the order of the file."""
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    values = read(tmp_path / "a.json", Whole)
    assert json.dumps(values) == json.dumps(GOOD)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schema": "idvl/whole/2"}, "it has the schema 'idvl/whole/2'; this idvl reads 'idvl/whole/1'"),
        ({"parts": None}, "parts should be an object, not None"),
        ({"parts": {"a": 5}}, "parts.a should be a list, not 5"),
        ({"parts": {"a.b": [{}]}}, "parts['a.b'][0] lacks 'ratio'"),
        ({"parts": {"a": [{"ratio": True}]}}, "parts.a[0].ratio should be a number, not True"),
        ({"parts": {"a": [{"ratio": "1"}]}}, "parts.a[0].ratio should be a number, not '1'"),
        ({"count": 1.0}, "count should be a whole number, not 1.0"),
        ({"z": {"\ud800": 1}}, "z.key is '\\ud800', which is not Unicode text"),
        ({"z": {"y": [10**40]}}, "z.y[0] is a number beyond 1e+39"),
        ({"z": -2e39}, "z is a number beyond 1e+39"),
        ({"few": {"a": 1, "b": 2, "c": 3}}, "few has more than 2 items"),
        ({"z": float("nan")}, "NaN is not a JSON number"),
    ],
)
def test_another_document_is_refused_with_the_field(changes: Any, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(GOOD | changes))
    with pytest.raises(ValueError) as refused:
        read(tmp_path / "a.json", Whole)
    assert str(refused.value) == why


def test_a_key_that_stands_twice_is_refused() -> None:
    for limited in (False, True):
        with pytest.raises(ValueError, match="^it has the key 'b' twice$"):
            parse('{"a": [{"b": 1, "b": 2}]}', limited=limited)


def test_folders_of_others_are_read_within_limits_and_without_nan() -> None:
    assert parse('[NaN, -Infinity, "x"]', limited=True) == [None, None, "x"]
    long = json.dumps({"a": "x" * (json_file.MOST + 1)})
    assert len(parse(long)["a"]) > json_file.MOST
    with pytest.raises(ValueError, match="^a has more than 100,000 characters"):
        parse(long, limited=True)
    with pytest.raises(ValueError, match="^it has more than 100,000 items"):
        parse(json.dumps([0] * (json_file.MOST + 1)), limited=True)


def test_values_that_no_file_can_hold_are_not_sound() -> None:
    deep: Any = 1
    for _ in range(4):
        deep = [deep]
    assert sound(deep, deepest=4) is deep
    with pytest.raises(ValueError, match="nested more than 3 deep"):
        sound(deep, deepest=3)
    with pytest.raises(ValueError, match="it has the key 5, which is not text"):
        sound({5: 1})
    with pytest.raises(ValueError, match="^a is NaN$"):
        sound({"a": float("nan")})
    for value in ({1}, b"x", date(2026, 11, 30), ("a", 1), 1j):
        with pytest.raises(ValueError, match=r"^a\[0\] is .*, which JSON does not have"):
            sound({"a": [value]})


def test_a_place_stays_short_whatever_the_keys_are() -> None:
    assert field_name(()) == "it" and field_name((0, "a", "b c", 1)) == "[0].a['b c'][1]"
    assert len(field_name(["x" * 10**6] * 50)) <= 300


def test_the_last_whole_line_of_a_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("")
    assert last_line(path, Part) == {}
    path.write_text('{"ratio": "x"}\n{"ratio": 2}\n{"rat')
    assert last_line(path, Part) == {"ratio": 2}
    path.write_text('{"ratio": "x"}\n')
    with pytest.raises(ValueError, match="ratio should be a number, not 'x'"):
        last_line(path, Part)


def test_what_is_no_object_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^it should be an object, not \[1\]$"):
        check([1], Part)
