"""The page: one file that needs no other, escapes what runs hold, and stays small. In a browser where there is one."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from idvl.reporting import samples
from idvl.reporting.collect import collect
from idvl.reporting.figures import figures_of
from idvl.reporting.overview import overview_of
from idvl.reporting.page import embedded, page
from idvl.reporting.samples import galleries
from idvl.reporting.tables import tables_of
from tests.support import folders
from tests.support.folders import EVIL


def made(*places: Path, picture: bytes | None = None) -> str:
    study = collect(places)
    return page(
        study, tables=tables_of(study), figures=figures_of(study), galleries=galleries(study),
        overview=overview_of(study), picture=lambda _: picture, beside="report-figures",
    )  # fmt: skip


def data(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


class Tags(HTMLParser):
    """The tags of a page with their attributes, and whether they close as they open."""

    VOID = ("meta", "img", "wbr")

    def __init__(self, text: str):
        super().__init__()
        self.seen: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_no_other_file_and_no_network(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "a", id_weight="multiply")
    tags = Tags(made(tmp_path, picture=b"png"))
    assert not tags.open
    for tag, attributes in tags.seen:
        assert tag not in ("link", "iframe", "object") and not (tag == "script" and "src" in attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,") and attributes["alt"]
        if tag == "a":
            assert attributes["href"].startswith(("#", "report-figures/"))
    assert "@import" not in made(tmp_path) and "url(" not in made(tmp_path)


def test_strings_of_runs_stay_text(evil: Path) -> None:
    text = made(evil)
    tags = Tags(text)
    assert not tags.open
    assert [tag for tag, _ in tags.seen].count("script") == 2 and "img" not in [tag for tag, _ in tags.seen]
    assert EVIL in data(text)["names"]
    assert not any(name.startswith("on") for _, attributes in tags.seen for name in attributes)


def test_json_in_a_script_ends_nothing() -> None:
    for string in ("</script>", "<!--<script>", "]]>", "\u2028\u2029", "&lt;"):
        text = embedded({string: [string, None, 1.5]})
        assert not re.search("[<>&\u2028\u2029]", text) and json.loads(text) == {string: [string, None, 1.5]}
    with pytest.raises(ValueError):
        embedded(float("nan"))


def test_the_script_has_the_points_of_every_figure(tmp_path: Path) -> None:
    folders.measured(tmp_path / "a")
    text = data(made(tmp_path))
    depth = text["figures"][0]["panels"][0]["series"][0]
    assert depth["y"] == [12.0, 14.0] and [text["names"][place] for place in depth["names"]] == list(folders.LAYERS)[:2]


def test_troubles_and_cautions_are_on_the_page(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "a")
    cut = folders.pruned(tmp_path / "b", seed=1)
    (cut / "report.json").unlink()
    (tmp_path / "empty").mkdir()
    text = made(tmp_path / "a", cut, tmp_path / "empty")
    assert "2 troubles with these folders" in text and "not finished: continue with the same command" in text
    assert "empty</code>: empty" in text and "1 not finished" in text


def test_samples_are_side_by_side_with_the_dense_model(tmp_path: Path) -> None:
    folders.evaluated(tmp_path / "dense")
    folders.pruned(tmp_path / "a", 50.0)
    (gallery,) = galleries(collect([tmp_path]))
    first = gallery.samples[0]
    assert first.id == "shapes/test/000002" and first.references == ("reference 2",)
    assert first.predictions == (("dense model", "a bird", True), ("PLATON, all, 80 %", "at 50.0", False))
    assert gallery.notes == ("models differ on 1 of 3 samples, which come first",)
    assert [sample.id[-1] for sample in gallery.samples] == ["2", "0", "1"]
    assert ', references</dt><dd class="reference">reference 2' in made(tmp_path)
    assert "images are only drawn for built-in datasets" in made(tmp_path).lower()


def test_missing_predictions_are_said(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "a")
    (run / "eval" / "predictions.jsonl").unlink()
    (gallery,) = galleries(collect([tmp_path]))
    assert not gallery.samples and any("no predictions.jsonl" in note for note in gallery.notes)
    (run / "eval" / "predictions.jsonl").write_text('{"id": "x", "prediction": "y"}\n{"id"')
    (gallery,) = galleries(collect([tmp_path]))
    assert any("cannot be read" in note for note in gallery.notes)


@pytest.mark.parametrize(("most", "notes"), [(3, ()), (2, ("dense model: only the first 2 samples are looked at",))])
def test_samples_beyond_those_looked_at_are_said(
    most: int, notes: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MOST", most)
    folders.evaluated(tmp_path / "dense")
    (gallery,) = galleries(collect([tmp_path]))
    assert (len(gallery.samples), gallery.notes) == (most, notes)


def test_how_runs_were_made_tells_shared_settings_once(tmp_path: Path) -> None:
    for seed in range(2):
        folders.pruned(tmp_path / f"{seed}", id_weight="multiply", seed=seed)
    found = overview_of(collect([tmp_path]))
    assert "torch 2.13.0" in found.versions and found.models == ("m",)
    assert dict(found.settings)["settings of all runs of pruning"]["prune.criterion"] == "platon"
    row = dict(zip(found.columns, found.rows[1], strict=True))
    assert row["differs in"] == "seed 1" and row["time"] == "2 min 05 s" and row["memory"] == "1.50 GiB"
    assert row["started"] == "2026-01-02 03:04:05" and row["state"] == "finished"
    report = json.loads((tmp_path / "1" / "report.json").read_text())
    report["made"] |= {"seconds": None, "peak_memory": None}  # resumed from a checkpoint that does not say
    (tmp_path / "1" / "report.json").write_text(json.dumps(report))
    found = overview_of(collect([tmp_path]))
    row = dict(zip(found.columns, found.rows[1], strict=True))
    assert row["time"] == row["memory"] == "not known"


@pytest.mark.slow
def test_two_hundred_runs_make_a_page_below_two_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model with as many layers as BLIP-base."""
    kinds = [("vision", f"vision_model.encoder.layers.{n}") for n in range(12)]
    kinds += [("language", f"text_decoder.bert.encoder.layer.{n}") for n in range(12)]
    layers = {
        f"{block}.attention.self.part{k}": (kind, block, 589824, 30.0 + k) for kind, block in kinds for k in range(7)
    }
    monkeypatch.setattr(folders, "LAYERS", layers)
    for number in range(200):
        criterion, weight = (
            ("platon", "magnitude", "gradient")[number % 3],
            ("none", "multiply", "divide")[number // 3 % 3],
        )
        folders.pruned(
            tmp_path / f"{number:03d}", 50 + number / 10, criterion=criterion, id_weight=weight,
            sparsity=(0.4, 0.8, 0.9, 0.95)[number // 9 % 4], seed=number // 36, dense=f"dense-{number // 36}",
        )  # fmt: skip
    text = made(tmp_path)
    assert len(data(text)["figures"]) >= 3
    assert len(text.encode()) < 2_000_000


def test_the_first_screen_has_a_figure_and_one_table_with_the_headline_metric_first(long_names: Path) -> None:
    text = made(long_names)
    first, rest = re.search(r'<section id="summary".*?</section>', text, re.S)[0], text.partition('id="results"')[2]
    assert text.index("<section") == text.index(first)
    assert "Quality against sparsity" in first and first.count("<figure") == first.count("<table") == 1
    assert re.search("<thead>.*?</thead>", first)[0].startswith('<thead><tr><td colspan="2"></td><th class="over"')
    assert re.findall('<th [^>]*class="n">(.*?)</th>', first) == ["0 %", "50 %", "80 %", "90 %"]
    assert ">CIDEr</th>" in first and "CIDEr by method and sparsity" not in rest
    heads = [re.findall('class="n">(.*?)</th>', head) for head in re.findall("<thead>(.*?)</thead>", rest)]
    metrics = [head for head in heads if "METEOR" in head]
    assert len(metrics) == 2 and {head[0] for head in metrics} == {"CIDEr"}


def test_the_first_screen_of_a_profile_shows_its_dimensions(tmp_path: Path) -> None:
    folders.measured(tmp_path / "a")
    first = re.search(r'<section id="summary".*?</section>', made(tmp_path), re.S)[0]
    assert "Intrinsic dimension against depth" in first and "Intrinsic dimension by modality" in first
