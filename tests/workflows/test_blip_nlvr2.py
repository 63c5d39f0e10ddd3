"""BLIP for NLVR2 from the authors' checkpoint and annotations through every command, and its data on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from idvl.commands import main
from idvl.data.samples import select
from idvl.data.splits import EVALUATION, TRAINING
from idvl.errors import UsageError
from idvl.models.own.blip_pairs import BlipForImagesAndTextClassification
from tests.support import tiny
from tests.support.original_blip import Blip

N, HELD_OUT = 100, 16


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the pairs in nlvr2/."""
    folder = tmp_path_factory.mktemp("nlvr2")
    tiny.save_pairs(folder / "nlvr2", tiny.samples(N), HELD_OUT)
    return folder


def test_a_converted_checkpoint_is_measured_pruned_evaluated_and_reported(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny.bert_tokenizer().save_pretrained("words")
    torch.manual_seed(0)
    torch.save({"model": Blip("nlvr2", words=len(tiny.VOCAB) + 2).state_dict()}, "nlvr.pth")
    data = ["--dataset", "nlvr2", "--data-dir", f"{place / 'nlvr2'}", "--batch-size", "8", "--device", "cpu", "--force"]

    def idvl(*words: str) -> str:
        assert main([*words]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    idvl("convert", "nlvr.pth", "dense", "--tokenizer", "words")
    idvl("estimate-id", "dense", *data, "--split", "train", "--output", "ids")
    layers = json.loads(Path("ids/profile.json").read_text())["layers"]
    # 4 a block of the tower, 14 a text layer, and the second one's linear merge: as 222 of BLIP-base
    assert len(layers) == 2 * 4 + 2 * 14 + 1
    kinds = {name: layer["modality"] for name, layer in layers.items()}
    assert kinds["text_encoder.encoder.layer.1.crossattention.output.merge_layer"] == "cross"
    assert all(layer["estimate"]["dimension"] > 0 for layer in layers.values())

    steps = ["--sparsity", "0.4", "--profile", "ids", "--max-steps", "4", "--no-eval"]
    idvl("prune", "dense", *data, *steps, "--output", "pruned")
    report = json.loads(Path("pruned/report.json").read_text())
    assert report["total"]["zeros"] == round(0.4 * report["total"]["weights"])
    model = BlipForImagesAndTextClassification.from_pretrained("pruned/model")
    assert sum(int((model.get_submodule(name).weight == 0).sum()) for name in layers) == report["total"]["zeros"]
    card = Path("pruned/model/README.md").read_text()
    assert "from idvl.models.own.blip_pairs import BlipForImagesAndTextClassification\n" in card

    idvl("eval", "pruned/model", *data[:-1], "--output", "scored")
    results = json.loads(Path("scored/results.json").read_text())
    assert (results["dataset"]["split"], results["samples"]) == ("test", HELD_OUT)
    assert 0 <= results["metrics"]["accuracy"]["value"] <= 100
    table = idvl("analyze", "ids", "pruned", "scored", "--table", "markdown", "--output", "report.html")
    page = Path("report.html").read_text()
    assert "40 %" in table and all(name in page for name in layers)


def test_splits_and_labels_are_those_of_the_files(place):
    for wanted, split in ((TRAINING, "train"), (EVALUATION, "test"), ("validation", "dev"), (None, "dev")):
        selection = select("nlvr2", data_dir=place / "nlvr2", split=wanted, n=HELD_OUT, force=True)
        assert selection.description["split"] == split
        for sample in selection.samples:
            number = int(sample.id.rpartition("-")[2])
            assert sample.label == int(number % 2 == 0)
            assert {str(number)} == {Path(path).parts[-2] for path in (sample.source, sample.second)}
    # under no name of the catalogue
    plain = select(str(place / "nlvr2"), split="train", n=HELD_OUT, force=True)
    assert [sample.label for sample in plain.samples] == [
        int(int(sample.id.rpartition("-")[2]) % 2 == 0) for sample in plain.samples
    ]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{", "is not valid JSON"),
        ("{}", "expected a list of pairs"),
        ("[]", "expected a list of pairs"),
        ('[{"images": ["a.png"]}]', "entry 0 is .*'images': \\[left, right\\]"),
        ('[{"images": ["a.png", "b.png"], "sentence": "a", "label": "True"}]', "no '.*a.png'"),
    ],
)
def test_other_annotations_are_refused(written, said, tmp_path):
    (tmp_path / "nlvr_train.json").write_text(written)
    with pytest.raises(UsageError, match=said) as refusal:
        select("nlvr2", data_dir=tmp_path, split="train", n=2, force=True)
    assert "\n" not in str(refusal.value)
