"""How messages quote a value."""

from __future__ import annotations

from pathlib import Path

from idvl.errors import QUOTED, quoted


def test_a_value_is_quoted_as_python_writes_it_and_a_path_as_text() -> None:
    assert [quoted(value) for value in ("a'b", 0.5, None, Path("a/b"))] == ['"a\'b"', "0.5", "None", "'a/b'"]
    assert quoted("a\x1b]0;t\x07\nb\ud800") == r"'a\x1b]0;t\x07\nb\ud800'"


def test_a_long_value_is_cut_in_the_middle() -> None:
    shown = quoted("a" * 5000 + "z")
    assert shown.startswith("'aaa") and shown.endswith("aaaz'") and " ... " in shown and len(shown) <= QUOTED
    assert quoted("a" * (QUOTED - 2)) == f"'{'a' * (QUOTED - 2)}'"


def test_a_value_that_python_does_not_write_is_named() -> None:
    assert quoted(10**5000) == "int too large to show"
