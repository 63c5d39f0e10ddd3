"""YAML within limits: what is refused, and which plain words are values."""

from __future__ import annotations

from pathlib import Path

import pytest

from idvl.yaml_file import dump, load


def read(folder: Path, text: str) -> object:
    path = folder / "a.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune: {sparsity: 0.3}\nmodel: {name: a}\nprune: {}\n", "line 3: the key 'prune' is already in line 1"),
        ("model:\n  name: a\n  'name': b\n", "line 3: the key 'name' is already in line 2"),
        ("a:\n- {b: 1, c: 2, b: 3}\n", "line 2: the key 'b'"),
        (BOMB, "more than 1,000,000 characters and values, aliases expanded"),
        (f"a: &a {'x' * 2000}\nb: [{'*a, ' * 1000}]\n", "line 2: more than 1,000,000 characters"),
        ("a: &a [1, *a]", "the alias \\*a stands for nothing that ended before it"),
        ("a: *b", "the alias \\*b stands for nothing"),
        ("a:\n  " + "[" * 60 + "]" * 60, "line 2: more than 50 levels of nesting"),
        ("[" * 100_000, "nesting"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("a: [", "while parsing a flow"),
        ("a: 1\n--- \nb: 2", "expected a single document"),
        ("a: !!bool 'maybe'", "'maybe' is not true or false"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        read(tmp_path, text)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="more than 1,048,576 bytes"):
        read(tmp_path, "a" * 2**20 + "a")


def test_the_same_key_in_several_mappings_and_aliases_are_fine(tmp_path: Path) -> None:
    assert read(tmp_path, "a: &a {x: 1}\nb: {x: 2}\nc: [*a, *a]\nd: {<<: *a, y: x}\n") == {
        **{"a": {"x": 1}, "b": {"x": 2}, "c": [{"x": 1}, {"x": 1}]},
        "d": {"x": 1, "y": "x"},
    }


def test_plain_words_are_values_as_in_yaml_1_2(tmp_path: Path) -> None:
    text = "[no, off, 2:4, 2024-01-01, 1:30.5, true, null, ~, 12, -3, 0x1f, 1.5, 1.0e-5, 1e-05, 2E3, .inf, '12']"
    words = [
        "no",
        "off",
        "2:4",
        "2024-01-01",
        "1:30.5",
        True,
        None,
        None,
        12,
        -3,
        31,
        1.5,
        1e-5,
        1e-5,
        2e3,
        float("inf"),
        "12",
    ]
    assert read(tmp_path, text) == words


def test_numbers_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    assert read(tmp_path, "[020, -010, +7, 0o17, 089, 0, 00]") == [20, -10, 7, 15, 89, 0, 0]
    text = ["1_0", "0b11", "0x1_f", "-0x1f", "1_0.5", "0o8"]
    assert read(tmp_path, f"[{', '.join(text)}]") == text


def test_text_that_looks_like_a_number_is_text_again(tmp_path: Path) -> None:
    values = ["0890123", "0o17", "12", 12, -3, 1.5, 1e-5, True, None, "no", "1_0"]
    assert read(tmp_path, dump(values)) == values
