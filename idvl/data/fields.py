"""What a cell of a table holds: an encoded image, texts, answers or a class. It does not know which column it is of."""

from __future__ import annotations

import ast
import json
import math
import os
import tokenize
import warnings
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from idvl.data.image_spool import SpooledImage
from idvl.errors import quoted

# what statements are labelled with, and the classes of a column that holds nothing else
TRUTHS = {"true": 1, "false": 0}
TRUTH_CLASSES = ("False", "True")
# lists within lists of texts
DEEPEST = 8
# characters of a text that may spell a list
LONGEST_LIST = 1 << 16
# what Python's parsers raise for other texts
NO_LIST = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError)
# how a JPEG and a PNG begin
BASE64 = ("/9j/", "iVBORw0KGgo")
# where a dict has its text
TEXT_KEYS = ("raw", "caption", "text")
MOST_CLASSES = 1 << 31


def encoded_image(cell: Any, folder: Path | None, within: Path | None = None) -> bytes | Path | SpooledImage:
    """What a cell of an image column holds, still encoded: the bytes, or where they are, a path from `folder` on.

    Raises ValueError when it holds neither, and for a path that leaves the folder `within` by `..` or because it is
    absolute. Links below that folder may lead anywhere.
    """
    if isinstance(cell, Mapping):
        cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if isinstance(cell, bytes | SpooledImage):
        return cell
    if isinstance(cell, str) and cell.startswith(BASE64):
        raise ValueError("an image in base64, which is not read: write it to a file, or its bytes into a parquet file")
    if isinstance(cell, str | Path) and str(cell) and folder is not None:
        path = folder / cell
        if within is not None and not _is_in(path, within, climbs=".." in Path(cell).parts):
            raise ValueError(f"needs allow_outside: {quoted(str(cell))} is outside of the dataset's folder")
        return path
    raise ValueError("no image" if not cell else f"a {type(cell).__name__} where an image is expected")


def _is_in(path: Path, folder: Path, *, climbs: bool) -> bool:
    """Whether a path is in a folder, as written or, where the folder has several names, once links are followed.

    What is written counts only if it is what is read: a path that `climbs`, by `..` behind a link, goes above the
    link's target.
    """
    forms = [os.path.abspath, os.path.realpath]
    if climbs and os.path.realpath(os.path.abspath(path)) != os.path.realpath(path):
        forms = [os.path.realpath]
    return any(Path(form(path)).is_relative_to(form(folder)) for form in forms)


def texts(cell: Any) -> tuple[str, ...]:
    """Texts in a cell: a string, a list of them, even spelt in a text, or dicts with one (`raw`, `caption`, `text`).

    Numbers count as text. Raises ValueError for lists or dicts that are more than DEEPEST deep.
    """
    return _flat(_as_list(cell, TEXT_KEYS), DEEPEST)


def _flat(cell: Any, deepest: int) -> tuple[str, ...]:
    if not deepest:
        raise ValueError(f"texts that are nested more than {DEEPEST} deep")
    if isinstance(cell, Mapping):
        cell = next((cell[key] for key in TEXT_KEYS if key in cell), None)
    cell = _word(cell)
    if isinstance(cell, str):
        line = _line(cell)
        return (line,) if line else ()
    if isinstance(cell, Sequence) and not isinstance(cell, bytes):
        return tuple(text for item in cell for text in _flat(item, deepest - 1))
    return ()


def answers(cell: Any) -> tuple[str, ...]:
    """The answers to a question, as often as given: strings, numbers, or dicts with an "answer".

    A text may spell a list of them. Blanks alone are none. Raises ValueError where only some of them are texts:
    accuracy depends on how many people answered.
    """
    if isinstance(cell, Mapping):
        cell = cell.get("answer")
    cell = _as_list(cell, ("answer",), numbers=True)
    items = cell if isinstance(cell, Sequence) and not isinstance(cell, str | bytes) else [cell]
    words = [_word(answer.get("answer") if isinstance(answer, Mapping) else answer) for answer in items]
    lines = tuple(_line(word) for word in words if isinstance(word, str))
    if not any(lines):
        return ()
    if odd := [word for word in words if not isinstance(word, str)]:
        raise ValueError(f"{len(odd)} of {len(words)} answers are no text, {quoted(odd[0])} first")
    return lines


def _word(value: Any) -> Any:
    """A finite number as text, whole ones without a point; anything else, truth values among them, as it is."""
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value) if value.is_integer() else value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_list(cell: Any, keys: Sequence[str], *, numbers: bool = False) -> Any:
    """The list that a text spells in JSON, Python or as NumPy prints it, or Python's tuple; any other cell as it is.

    Its items are strings, dicts with one of the `keys`, None for missing ones and, with `numbers`, numbers, but not of
    a tuple: (1, 2) may be a place.
    """
    text = cell.strip() if isinstance(cell, str) and len(cell) <= LONGEST_LIST else ""
    if text[:1] + text[-1:] not in ("[]", "()"):
        return cell
    numbers = numbers and text[0] == "["

    def fits(item: Any) -> bool:
        if isinstance(item, Mapping):
            return not item.keys().isdisjoint(keys)
        return isinstance(item, str) or (numbers and _word(item) is not item)

    for read in (json.loads, _python_list):
        try:
            items = read(text)
        except NO_LIST:
            continue
        if not isinstance(items, str) and all(item is None or fits(item) for item in items):
            return items
    return cell


def _python_list(text: str) -> Any:
    """The list or tuple that a text spells as a Python literal.

    NumPy prints no commas, so that Python would join the strings. Raises one of NO_LIST for a text that is no literal.
    """
    with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
        items = ast.literal_eval(text)
        if isinstance(items, str) or not all(isinstance(item, str) for item in items):
            return items  # a text in round brackets, or no texts
        tokens = tokenize.generate_tokens(StringIO(text).readline)
        return [ast.literal_eval(token.string) for token in tokens if token.type == tokenize.STRING]


def label(cell: Any, classes: Sequence[str] | None) -> int | None:
    """The number of a class, None where it is not given: -1, nan, an empty cell.

    Words and truth values are looked up in `classes`; else True is 1 and False 0, in words too. Raises ValueError for a
    class that is none of these.
    """
    if isinstance(cell, str | bool):
        word = str(cell).strip()
        if classes and word in classes:
            return list(classes).index(word)
        cell = TRUTHS.get(word.casefold(), _number_or_word(word))
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    number = isinstance(cell, int)
    if not number or not -1 <= cell < (len(classes) if classes else MOST_CLASSES):
        whole = " whole" if isinstance(cell, float) else ""
        kind = f"not one of {len(classes)}" if classes else "out of range" if number else f"not a{whole} number"
        raise ValueError(f"the class {quoted(cell)} is {kind}")
    return int(cell) if cell >= 0 else None


def is_truth(cell: Any) -> bool:
    """Whether a cell is true or false, as a value or as a word in any case."""
    return isinstance(cell, bool) or (isinstance(cell, str) and cell.strip().casefold() in TRUTHS)


def is_word(cell: Any) -> bool:
    """Whether a cell is a text that is neither a number nor true or false."""
    return isinstance(cell, str) and not is_truth(cell) and isinstance(_number_or_word(cell.strip()), str)


def is_missing(cell: Any) -> bool:
    """Whether a cell says that the class is not given, as `label` reads it."""
    return names_a_class(cell) and label(cell, None) is None


def as_word(cell: Any) -> Any:
    """A cell of a column of words: numbers and truth values as they are written."""
    return str(_word(cell)).strip() if isinstance(cell, str | int | float) else cell


def names_a_class(cell: Any) -> bool:
    """Whether a cell is a class without a list of names to look it up in."""
    return why_no_class(cell) is None


def why_no_class(cell: Any) -> str | None:
    """Why a cell is no class without a list of names; None where it is one."""
    try:
        label(cell, None)
    except ValueError as error:
        return str(error)
    return None


def writable(text: str) -> str:
    """A text as it can be written down; what is not UTF-8 becomes question marks."""
    return text.encode("utf-8", "replace").decode()


def _line(text: str) -> str:
    """A text in one line, its spaces single; lone surrogates are no text."""
    return " ".join(text.encode("utf-8", "ignore").decode("utf-8").split())


def _number_or_word(word: str) -> Any:
    """The number that a word spells, None for an empty one, else the word itself, as of 1_0, a number in code alone."""
    try:
        return float(word) if word and "_" not in word else word or None
    except ValueError:
        return word
