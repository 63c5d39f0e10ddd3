"""Damaged runs beside sound ones: whatever is wrong with one, it is told, and the others stand."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from idvl.reporting import collect as collecting
from idvl.reporting.collect import Study, collect
from idvl.reporting.samples import galleries
from idvl.workflows import analyze
from tests.support import folders
from tests.support.damage import GONE, damaged, parts, spots

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
    "allocations": folders.allocations,
}


def first_parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """The parts of a document; of layers, and of the items of a list, the first stands for all."""
    alike = isinstance(value, list) or (
        isinstance(value, dict) and any(name in value for name in (*folders.LAYERS, "BLEU@4"))
    )
    return itertools.islice(parts(value), 1 if alike else None)


def variants(path: Path, turn: Iterator[Any]) -> Iterator[str]:
    """The text of a document with one field damaged, field by field."""
    text = path.read_text()
    lines = path.suffix == ".jsonl"
    values = [json.loads(line) for line in text.splitlines()] if lines else yaml.safe_load(text)
    for spot in spots(values, first_parts):
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
    found, text = analyze._analysis(study, expect=True, page_at=tmp_path / "report.html")
    assert all(run.label in text.replace("<wbr>", "") for run in sound) and 'id="samples"' in text
    analyze.document(found)
    for run in study.runs:  # a page shows the samples of some runs alone
        galleries(Study(runs=(run, *sound)))


FIFO, ENDLESS = object(), object()
# each letter is nine of the one before
BOMB = "a: &a x\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghij"))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        *[(name, FIFO, "a FIFO, not a regular file") for name in ("run.json", "recipe.yaml", "report.json")],
        ("report.json", ENDLESS, "a device, not a regular file"),
        ("eval/results.json", b"", "results.json cannot be read: Expecting value"),
        ("eval/results.json", b'{"schema": "idvl/results/1", "metrics": ' + b"[" * 100_000, "nested more than"),
        ("report.json", b'{"schema": "idvl/report/1", "x": ' + b"[" * 60 + b"]" * 60 + b"}", "is nested more than 50"),
        ("report.json", b'{"schema": "idvl/report/1", "x": ' + b"9" * 5_000 + b"}", "Exceeds the limit"),
        ("profile.json", b'{"schema": "idvl/profile/1", "\\ud800": 1}', "which is not Unicode"),
        ("report.json", b"\xff{}", "can't decode byte"),
        ("recipe.yaml", f"{BOMB}\nmodel: {{name: *j}}".encode(), "aliases expanded"),
        ("recipe.yaml", b"model: &a {name: *a}", "recipe.yaml cannot be read: line 1"),
        ("recipe.yaml", b"prune: {scope: !!set {a}}", "prune.scope is {'a'}, which JSON does not have"),
        ("recipe.yaml", b"prune: {scope: !!timestamp 2026-11-30}", "prune.scope is datetime.date(2026, 11, 30), which"),
        ("recipe.yaml", b"prune: {scope: !!binary eA==}", "prune.scope is b'x', which JSON does not have"),
        ("recipe.yaml", b"prune: {scope: !!omap [a: 1]}", "prune.scope[0] is ('a', 1), which JSON does not have"),
        ("recipe.yaml", b"model: {name: 0x" + b"f" * 5_000 + b"}", "model.name is a number beyond 1e+39"),
        ("run.json", b'{"schema": "idvl/run/2"}', "has the schema 'idvl/run/2'; this idvl reads 'idvl/run/1'"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_told_and_waited_for_by_nobody(
    name: str, content: Any, told: str, tmp_path: Path
) -> None:
    run = folders.pruned(tmp_path / "a", id_weight="multiply")
    (run / name).unlink()
    if content is FIFO:
        os.mkfifo(run / name)
    elif content is ENDLESS:
        (run / name).symlink_to("/dev/zero")
    else:
        (run / name).write_bytes(content)
    (found,) = collect([tmp_path]).runs
    assert any(told in why and len(why) < 500 for why in found.troubles), found.troubles


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"id": "\\ud800", "prediction": "x"}', "id is '\\ud800', which is not Unicode"),
        (b'{"id": "x", "prediction": "x", "references": 5}', "references should be a list, not 5"),
        (b'{"id": "x", "top": {}}', "top should be a list, not {}"),
        (b"[" * 100_000, "nested more than"),
        (b'{"id": "' + b"x" * 5_000_000, "more than 4,194,304 bytes"),
        (b'{"id": "x", "prediction": "y"}', "has 4 samples, its results are of 3"),
        (ENDLESS, "a device, not a regular file"),
    ],
)  # fmt: skip
def test_damaged_predictions_are_told_beside_the_samples_of_the_others(line: Any, told: str, tmp_path: Path) -> None:
    folders.evaluated(tmp_path / "dense")
    path = folders.pruned(tmp_path / "a") / "eval" / "predictions.jsonl"
    if line is ENDLESS:
        path.unlink()
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(path.read_bytes() + line + b"\n")
    (gallery,) = galleries(collect([tmp_path]))
    assert len(gallery.samples) == 3 and [name for name, *_ in gallery.samples[0].predictions] == ["dense model"]
    assert any(told in note and len(note) < 500 for note in gallery.notes), gallery.notes


@pytest.mark.parametrize(
    ("name", "path", "value", "told"),
    [
        ("eval/results.json", ("metrics", "CIDEr", "low"), 1e6, "metrics.CIDEr: an interval from 1e+06 to 51"),
        ("report.json", ("layers", "vision.0.fc1", "dimension"), -2, "dimension should be greater than or equal to 0"),
        ("profile.json", ("layers", "vision.0.fc1", "estimate", "dimension"), -2, "greater than or equal to 0, not -2"),
        ("sensitivity.json", ("layers", "vision.0.fc1", "dimension"), -2, "greater than or equal to 0, not -2"),
    ],
)
def test_numbers_that_cannot_be_are_told(name: str, path: tuple[str, ...], value: float, told: str, tmp_path) -> None:
    kind = "sensitivity" if name.startswith("sensitivity") else "prune"
    file = KINDS[kind](tmp_path / "a") / name
    values = part = json.loads(file.read_text())
    for key in path[:-1]:
        part = part[key]
    assert path[-1] in part
    part[path[-1]] = value
    file.write_text(json.dumps(values))
    (found,) = collect([tmp_path]).runs
    assert any(Path(name).name in why and told in why for why in found.troubles), found.troubles


def test_a_sample_of_5000_digits_has_no_picture() -> None:
    assert analyze.picture(f"shapes/test/{'9' * 5_000}") is None


def test_folders_that_cannot_be_shown_or_looked_into_are_told(tmp_path: Path) -> None:
    """Names that are no text, links to nowhere and to themselves, and a run whose every file is empty."""
    folders.evaluated(tmp_path / os.fsdecode(b"caf\xe9"))
    (tmp_path / "loop").symlink_to("loop")
    folders.pruned(tmp_path / "linked")
    (tmp_path / "linked" / "model").symlink_to("model")
    for name in ("run.json", "recipe.yaml", "report.json"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "empty" / name).touch()
    (tmp_path / "foreign" / "below").mkdir(parents=True)
    (tmp_path / "foreign" / "below" / "run.json").write_text("[]")
    found, text = analyze._analysis(collect(sorted(tmp_path.iterdir())), expect=False, page_at=tmp_path / "x.html")
    runs = {run.label.rpartition("/")[2]: run for run in found.study.runs}
    assert runs.keys() == {"caf\\xe9", "linked", "empty"}
    assert "caf\\xe9" in text and runs["linked"].finished
    assert runs["empty"].damaged and len(runs["empty"].troubles) == 2
    refused = {name.rpartition("/")[2]: why for name, why in found.study.refused}
    assert refused.keys() == {"loop", "below"} and "run.json was not written by idvl" in refused["below"]


def test_a_run_that_nobody_foresaw_is_left_out_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is read, and while it is shown: alone, or only beside another one."""
    for name in "abcdef":
        folders.evaluated(tmp_path / name)
    read = collecting.read_run

    def stumble(folder: Path, label: str) -> Any:
        return read(folder, label) if folder.name != "f" else 1 / 0

    monkeypatch.setattr(collecting, "read_run", stumble)
    study = collect([tmp_path])

    def show(shown: Study) -> Study:
        names = {Path(run.label).name for run in shown.runs}
        if "b" in names or names >= {"a", "e"}:
            raise KeyError("x")
        return shown

    found = analyze.standing(study, show)
    assert [Path(run.label).name for run in found.runs] == ["a", "c", "d"]
    assert [(Path(name).name, "left out: it is damaged" in why) for name, why in found.refused] == [
        ("f", True), ("b", True), ("e", True)
    ]  # fmt: skip
    with pytest.raises(ZeroDivisionError):  # nobody's fault
        analyze.standing(study, lambda _: 1 / 0)


def test_a_folder_that_may_not_be_looked_into_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.evaluated(tmp_path / "run")
    (tmp_path / "locked").mkdir()
    stat = os.stat

    def refused(path: Any, **options: Any) -> os.stat_result:
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refused)
    study = collect([tmp_path])
    assert len(study.runs) == 1 and study.refused == ((str(tmp_path / "locked"), "cannot be read: Permission denied"),)


def test_a_sparsity_above_one_is_told(tmp_path: Path) -> None:
    folder = folders.allocations(tmp_path / "run")
    document = json.loads((folder / "allocations.json").read_text())
    name = next(iter(document["layers"]))
    document["allocations"]["depth"]["sparsity"][name] = 1.5
    (folder / "allocations.json").write_text(json.dumps(document))
    (trouble,) = collect([folder]).runs[0].troubles
    assert trouble.startswith("allocations.json cannot be read: allocations.depth.sparsity") and "1.5" in trouble
