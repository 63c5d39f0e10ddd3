"""Damaged runs beside sound ones: whatever is wrong with one, it is told, and the others stand."""

from __future__ import annotations

import copy
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from idvl.reporting.collect import Study, collect
from idvl.reporting.samples import galleries
from idvl.workflows import analyze
from tests.reporting import folders

GONE = object()
VALUES = (GONE, None, "x", "\ud800", -1, 0, 1e308, 10**400, float("nan"), [], {}, True, [[{}]], {"a": "b"})
# of each field so many of the values, the next ones in turn
EACH = 2


def unfinished(folder: Path) -> Path:
    """A run of estimate-id that was cut off after a layer."""
    folders.record(folder, {"tokens": "flatten"}, {"model": {"name": "m"}})
    (folder / "metrics.jsonl").write_text('{"layer": "vision.0.qkv", "seconds": 1.0}\n')
    return folder


KINDS = {
    "prune": lambda folder: folders.pruned(folder, id_weight="multiply"),
    "eval": lambda folder: folders.evaluated(folder),
    "estimate-id": folders.measured,
    "unfinished": unfinished,
    "sensitivity": folders.sensitivity,
}


def spots(values: Any) -> Iterator[tuple[Any, ...]]:
    """The path to every part of a document; of layers, and of the items of a list, the first stands for all."""
    first = isinstance(values, list) or any(name in values for name in (*folders.LAYERS, "BLEU@4"))
    items = enumerate(values) if isinstance(values, list) else values.items()
    for key, item in itertools.islice(items, 1 if first else None):
        yield (key,)
        if isinstance(item, dict | list):
            yield from ((key, *rest) for rest in spots(item))


def damaged(values: Any, spot: tuple[Any, ...], value: Any) -> Any:
    values = copy.deepcopy(values)
    part = values
    for key in spot[:-1]:
        part = part[key]
    if value is GONE:
        del part[spot[-1]]
    else:
        part[spot[-1]] = value
    return values


def variants(path: Path, turn: Iterator[Any]) -> Iterator[str]:
    """The text of a document with one field damaged, field by field."""
    text = path.read_text()
    lines = path.suffix == ".jsonl"
    values = [json.loads(line) for line in text.splitlines()] if lines else yaml.safe_load(text)
    for spot in spots(values):
        for value in itertools.islice(turn, EACH):
            made = damaged(values, spot, value)
            yield "".join(f"{json.dumps(line)}\n" for line in made) if lines else json.dumps(made)


def copied(template: Path, run: Path, changed: Path, text: str) -> None:
    """The run again, in links, with another text in one file."""
    for path in template.rglob("*.*"):
        place = run / path.relative_to(template)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path == changed:
            place.write_text(text)
        else:
            os.link(path, place)


def test_one_damaged_field_never_takes_the_page(tmp_path: Path) -> None:
    """Some hundred damaged runs at once, and no sound one is lost. The last line of defence has nothing to do."""
    turn, number = itertools.cycle(VALUES), itertools.count()
    for kind, make in KINDS.items():
        template = make(tmp_path / "sound" / kind)
        for path in sorted(template.rglob("*.*")):
            for text in variants(path, turn):
                copied(template, tmp_path / "damaged" / f"{next(number):04d}", path, text)
    study = collect([tmp_path / "damaged", tmp_path / "sound"])
    assert len(study.runs) + len(study.refused) == next(number) + len(KINDS)
    assert not [why for _, why in study.refused if "left out" in why]
    sound = [run for run in study.runs if "/sound/" in run.label]
    assert len(sound) == len(KINDS) and not any(run.troubles for run in sound)
    found, text = analyze._shown(study, expect=True, page_at=tmp_path / "report.html")
    assert all(run.label in text for run in sound) and 'id="samples"' in text
    analyze.document(found)
    for run in study.runs:  # a page shows the samples of some runs alone
        galleries(Study(runs=(run, *sound)))
