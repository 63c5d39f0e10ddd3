"""`make hub` against a Hub on the loopback address: what is as expected, and what has changed there."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.hub.__main__ import main
from benchmarks.hub.catalogue import Report
from benchmarks.hub.commands import CAPTIONER
from idvl.data.catalog import CATALOG
from tests.support import processes, tiny
from tests.support.hub import Hub, write_dataset

FASHION, IMAGENET, COCO = (CATALOG[name].ids[0] for name in ("fashion-mnist", "imagenet-1k", "coco"))
KARPATHY, TEXTVQA, NLVR2 = "yerevann/coco-karpathy", "lmms-lab/textvqa", "lmms-lab/NLVR2"


def as_published(name: str, folder: Path, kind: str | None = None) -> Path:
    """A few rows of each split, whose card states the published number."""
    entry = CATALOG[name]
    splits = entry.splits if kind is None else {"test": entry.splits["test"]}
    for split in splits:
        write_dataset(kind or name, folder, 12, split=split)
    card = json.loads((folder / "README.md").read_text().strip("-\n"))
    stated = [{"name": split, "num_examples": size, "num_bytes": size} for split, size in splits.items()]
    (folder / "README.md").write_text(f"---\n{json.dumps({**card, 'dataset_info': {'splits': stated}})}\n---\n")
    return folder


def with_columns_moved(folder: Path) -> Path:
    """NLVR2 without a card, whose sentences are in another column."""
    write_dataset("nlvr2", folder, 7, split="balanced_dev")
    for file in (folder / "data").iterdir():
        table = pq.read_table(file).replace_schema_metadata()
        names = ["statement" if name == "question" else name for name in table.column_names]
        pq.write_table(table.rename_columns(names), file)
    (folder / "README.md").unlink()
    return folder


def make_hub(hub: Hub, folder: Path, *options: str) -> tuple[int, dict, str]:
    """(exit code, the JSON, what was printed)"""
    files = ["--output", folder / "hub.json", "--pins", folder / "pins.json"]
    done = processes.run("-m", "benchmarks.hub", *files, *options, env=hub.env(folder / "cache"))
    assert (folder / "hub.json").exists(), done.stderr
    return done.returncode, json.loads((folder / "hub.json").read_text()), done.stdout


def findings(record: dict, entry: str) -> list[tuple[str, str, str, bool]]:
    found = [one for one in record["findings"] if one["entry"] == entry]
    return [(one["what"], one["expected"], one["found"], one["differs"]) for one in found]


def test_each_entry_is_compared_whatever_the_others_give(tmp_path: Path) -> None:
    datasets = {
        FASHION: as_published("fashion-mnist", tmp_path / "fashion"),
        NLVR2: with_columns_moved(tmp_path / "nlvr2"),
        TEXTVQA: as_published("textvqa", tmp_path / "textvqa"),
        IMAGENET: write_dataset("imagenet-1k", tmp_path / "imagenet", 4),
        COCO: write_dataset("coco", tmp_path / "coco", 4),
    }
    names = ["vqav2", "nlvr2", "coco", "imagenet-1k", "textvqa", "fashion-mnist"]
    moved = {CATALOG["textvqa"].ids[0]: TEXTVQA}
    with Hub(datasets=datasets, gated=(IMAGENET, COCO), moved=moved) as hub:
        code, record, printed = make_hub(hub, tmp_path, "--pin", "--only", *names)
        commits = {name: hub.repos["datasets", name].commit for name in datasets}
        assert code == 1 and list(record["checks"]) == names
        results = {name: one["result"] for name, one in record["checks"].items()}
        differing = dict.fromkeys(("vqav2", "nlvr2", "coco", "textvqa"), "differs")
        assert results == {**differing, "imagenet-1k": "skipped", "fashion-mnist": "same"}

        fashion = record["checks"]["fashion-mnist"]
        assert (fashion["id"], fashion["revision"]) == (FASHION, commits[FASHION])
        assert fashion["splits"] == {"train": 60_000, "test": 10_000}
        assert fashion["columns"] == {key: {"label": "10 classes", "image": "image"} for key in ("train", "test")}
        assert [row["images"] for row in fashion["first_rows"]] == [[[48, 40]]] * 3
        assert [row["label"] for row in fashion["first_rows"]] == [0, 1, 2]
        (unpinned,) = findings(record, "fashion-mnist")
        assert unpinned == (f"revision of {FASHION}", "not pinned", commits[FASHION], False)

        ((*where, absent, _),) = findings(record, "vqav2")
        assert where == ["repository", "lmms-lab/VQAv2"]
        assert absent.startswith(f"the Hub has no dataset {' or '.join(CATALOG['vqav2'].ids)}, or it is private")
        assert ("repository", "lmms-lab-encoder/textvqa", TEXTVQA, True) in findings(record, "textvqa")
        other = {what: (expected, found) for what, expected, found, differs in findings(record, "nlvr2") if differs}
        assert other["split balanced_dev"] == ("2,300 rows", "7")
        assert other["split unbalanced_dev"] == ("there", "only balanced_dev")
        assert other["column question of balanced_dev"][1].startswith("only question_id, statement, answer, left_image")
        refused = (
            "lmms-lab/NLVR2 has no column 'question', which holds the text of nlvr2 (it has question_id, statement"
        )
        assert other["first rows"][1].startswith(refused) and "(--text-column)" in other["first rows"][1]
        assert "nlvr2: column question of balanced_dev: expected there, found only question_id" in printed

        ((_, expected, refusal, differs),) = [one for one in findings(record, "imagenet-1k") if one[0] == "access"]
        assert expected == "a token in HF_TOKEN that may read it" and "is gated: accept its terms" in refusal
        assert not differs and findings(record, "coco")[0][:3] == ("access", "open", "gated")

        assert json.loads((tmp_path / "pins.json").read_text()) == commits
        code, record, _ = make_hub(hub, tmp_path, "--only", "fashion-mnist")
        assert code == 0 and not record["findings"]


def test_a_repository_that_has_moved_on_from_its_pin_differs() -> None:
    report = Report("fashion-mnist", {FASHION: "0" * 40})
    report.compare_revision(FASHION, "1" * 40)
    assert report.result == "differs"
    (finding,) = report.findings
    expected = f"fashion-mnist: revision of {FASHION}: expected {'0' * 40}, found {'1' * 40}"
    assert finding.line() == expected


@pytest.mark.slow
def test_the_papers_captioner_goes_from_the_hub_to_dimensions_and_captions(tmp_path: Path) -> None:
    datasets = {
        COCO: write_dataset("coco", tmp_path / "coco", 120),
        KARPATHY: write_dataset("coco-karpathy", tmp_path / "list", range(0, 120, 10)),
    }
    with Hub(models={CAPTIONER: tiny.save("blip", tmp_path / "blip")}, datasets=datasets) as hub:
        code, record, _ = make_hub(hub, tmp_path, "--only", "captioner")
    seen = record["checks"]["captioner"]
    assert [command["exit_code"] for command in seen["commands"]] == [0, 0], record["findings"]
    assert len(seen["captions"]) == 8 and seen["metrics"]["CIDEr"] is not None
    assert sum(dimension is not None for dimension in seen["dimensions"].values()) > 20
    # the tiny model is not BLIP-base, which is said
    layers = ("layers", "the 168 of the published profile", f"{len(seen['dimensions'])}, others among them", True)
    assert code == 1 and layers in findings(record, "captioner")


@pytest.mark.slow
def test_the_readmes_first_command(tmp_path: Path) -> None:
    with Hub() as hub:
        code, record, _ = make_hub(hub, tmp_path, "--only", "readme", "vqav2")
    assert code == 1 and record["checks"]["readme"]["result"] == "same", record["findings"]
    assert record["checks"]["readme"]["commands"][0]["command"].startswith("idvl estimate-id builtin/blip")


@pytest.mark.parametrize("junk", ["", "{cut", "[1]", '{"org/name": 3}', "\x00"])
def test_pins_that_are_none_are_refused_in_one_line(junk: str, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "pins.json").write_text(junk)
    monkeypatch.setattr("sys.argv", ["hub", "--pins", str(tmp_path / "pins.json"), "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the file of pins" in said and said.endswith("remove it, and --pin writes one")
    assert not (tmp_path / "out").exists()
