"""What is wrong with a recipe, in a line that names the key, the value and what was likely meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from idvl.errors import did_you_mean, quoted
from idvl.recipe.schema import SECTIONS, keys

# pydantic's errors of a value of the wrong type -> what it should have been
TYPES = {
    "float_parsing": "a number",
    "float_type": "a number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
}
# shares that nobody writes in percent
SMOOTHING = ("beta1", "beta2")


def message(detail: Mapping[str, Any]) -> str:
    """What is wrong, in words: one of pydantic's errors."""
    key = ".".join(str(part) for part in detail["loc"] if not isinstance(part, int))
    kind, value = detail["type"], detail["input"]
    if kind == "invalid_key":
        return unknown_key(".".join(map(str, detail["loc"])))
    if kind == "extra_forbidden":
        return unknown_key(key)
    if kind == "missing":
        return "no model: name one, as builtin/blip, or as model.name in a recipe"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        return f"{key}: {quoted(value)} is not one of {', '.join(allowed)}{did_you_mean(value, allowed)}"
    if kind == "value_error":
        return f"{key} takes {detail['ctx']['error']}"
    if kind in TYPES:
        return f"{key} takes {TYPES[kind]}, not {quoted(value)}{_meant(detail)}"
    text = detail["msg"].replace("Input should", "must")
    return f"{key}: {text[0].lower()}{text[1:]}, not {quoted(value)}{_meant(detail)}"


def _meant(detail: Mapping[str, Any]) -> str:
    """A hint at what a value that is refused was likely meant to be."""
    value, bound = detail["input"], {"less_than": "lt", "less_than_equal": "le"}.get(detail["type"])
    if bound and detail["ctx"][bound] == 1 and 1 < float(value) <= 100 and detail["loc"][-1] not in SMOOTHING:
        return f"; {float(value):g} % is {float(value) / 100:g}"
    if isinstance(value, str) and (percent := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?%", value)):
        return f"; {percent[1]} % is {float(percent[1]) / 100:g}"
    return "; no value at all is null" if isinstance(value, str) and value.lower() == "none" else ""


def unknown_key(key: str) -> str:
    sections = list(SECTIONS)
    section, _, name = key.partition(".")
    if key in keys():
        return f"unknown key {quoted(key)}: write {name} below {section}: in a recipe file"
    inside = [setting for setting in keys() if name and setting.startswith(f"{section}.")]
    words = {setting.partition(".")[2]: setting for setting in keys()}
    # in its section, then in any, as the right key in the wrong section is likely
    near = difflib.get_close_matches(key, inside, n=1, cutoff=0.8)
    near = near or [words[word] for word in difflib.get_close_matches(name or key, words, n=1, cutoff=0.8)]
    near = near or ([] if inside else difflib.get_close_matches(key, sections, n=1))
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(inside or sections)}"
    return f"unknown key {quoted(key)}; {hint}"
