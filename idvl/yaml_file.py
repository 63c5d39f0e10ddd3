"""Settings in YAML, read within limits: with aliases, a file of 1 kB can expand to more than any memory holds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from idvl.errors import quoted
from idvl.files import read_text, reading

# bytes of a file; characters and values once aliases are expanded; levels of nesting
LARGEST, MOST, DEEPEST = 2**20, 1_000_000, 50

# plain words that are values, as in YAML 1.2: no, off, 2:4, 1_000 and 2024-01-01 stay text, 020 is 20
WORDS = {
    "bool": ("tTfF", r"true|True|TRUE|false|False|FALSE"),
    "int": ("-+0123456789", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": (
        "-+.0123456789",
        r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+|[-+]?([0-9]+\.[0-9]*|\.[0-9]+)"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    ),
}


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes the text that `_Loader` would read as a number."""


# written in C where PyYAML was built so: ten times as fast, which hundreds of runs notice
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """PyYAML's safe loader with the plain values of YAML 1.2."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}

    def _integer(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


for _word, (_first, _pattern) in WORDS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_word}", re.compile(f"(?:{_pattern})$"), list(_first))
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_word}", re.compile(f"(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader._integer)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])


def load(path: Path | str) -> Any:
    """What a YAML file holds. OSError for one that cannot be read, ValueError as of `parse`."""
    return parse(read_text(path, LARGEST))


def parse(text: str) -> Any:
    """The values in YAML text. ValueError, in one line, for what is refused."""
    try:
        _check(text)
        return yaml.load(text, _Loader)
    except KeyError as error:
        raise ValueError(f"{quoted(error.args[0])} is not true or false") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).replace(' in "<unicode string>",', " in").split())) from error


def read(path: Path, kind: str) -> Any:
    """What a YAML file holds. UsageError, in one line that calls it a `kind`, for one that cannot be read."""
    with reading(path, kind, invalid="is not valid YAML"):
        return load(path)


def dump(values: Any) -> str:
    """YAML that `load` reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


@dataclass
class _Open:
    """A list or mapping that has not ended: the size of all before it, and of a mapping its keys with their lines."""

    anchor: str | None
    before: int
    keys: dict[str, int] | None
    at_key: bool = field(default=True)


def _check(text: str) -> None:
    """ValueError for a key that stands in a mapping twice, and for what exceeds a limit. Builds no values."""
    size, sizes, parents = 0, {}, []
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            ended = parents.pop()
            sizes[ended.anchor] = size - ended.before
        elif isinstance(event, yaml.NodeEvent):
            line = event.start_mark.line + 1
            if parents:
                _key(parents[-1], event, line)
            before = size
            size += _size(event, sizes, line)
            if isinstance(event, yaml.CollectionStartEvent):
                keys = {} if isinstance(event, yaml.MappingStartEvent) else None
                parents.append(_Open(event.anchor, before, keys))
            elif isinstance(event, yaml.ScalarEvent):
                sizes[event.anchor] = size - before
            if size > MOST or len(parents) > DEEPEST:
                what = f"{DEEPEST} levels of nesting" if len(parents) > DEEPEST else f"{MOST:,} characters and values"
                raise ValueError(f"line {line}: more than {what}, aliases expanded")


def _size(event: yaml.NodeEvent, sizes: dict[str | None, int], line: int) -> int:
    """What a node adds by itself; an alias adds all that it stands for."""
    if not isinstance(event, yaml.AliasEvent):
        return 1 + len(getattr(event, "value", ""))
    if event.anchor not in sizes:
        raise ValueError(f"line {line}: the alias *{event.anchor} stands for nothing that ended before it")
    return sizes[event.anchor]


def _key(parent: _Open, event: yaml.NodeEvent, line: int) -> None:
    """Note a key of a mapping."""
    if parent.keys is None:
        return
    if parent.at_key and isinstance(event, yaml.ScalarEvent):
        if event.value in parent.keys:
            first = parent.keys[event.value]
            raise ValueError(f"line {line}: the key {quoted(event.value)} is already in line {first}: give it once")
        parent.keys[event.value] = line
    parent.at_key = not parent.at_key
