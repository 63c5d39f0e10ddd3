"""BUTD, idvl's own captioner of regions: its equations, padding, data, and the way through every command."""

from __future__ import annotations

import contextlib
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from idvl.commands import main
from idvl.data.regions import regions
from idvl.data.samples import Sample
from idvl.errors import UsageError
from idvl.models.generation import Generation
from idvl.models.inputs import encode
from idvl.models.loading import wrap
from idvl.models.own.butd import ButdConfig, ButdForCaptioning
from tests.support import tiny

# what a region may show: one word of each, in the order of the caption
WORDS = (("a", "the"), ("small", "large"), ("red", "green", "blue"), ("square", "circle", "star"))
WORDS += (("left", "right", "above", "below", "near"),)
GATES = ("input", "forget", "cell", "output")
REGIONS, WIDTH = 6, sum(map(len, WORDS))


def drawn_scene(number: int) -> tuple[np.ndarray, str]:
    """Features of regions, two of which show a thing among noise, and a caption that says which: 180 captions."""
    rng = np.random.default_rng(number)
    features = 0.1 * rng.standard_normal((REGIONS, WIDTH))
    things, start, caption = rng.choice(REGIONS, 2, replace=False), 0, []
    for words in WORDS:
        number, word = divmod(number, len(words))
        features[things, start + word] += 2
        start += len(words)
        caption.append(words[word])
    return features.astype(np.float32), " ".join(caption)


def saved_scenes(folder: Path, numbers: range) -> Path:
    folder.mkdir(parents=True)
    lines = []
    for number in numbers:
        features, caption = drawn_scene(number)
        np.savez(folder / f"{number}.npz", feat=features)
        lines.append(json.dumps({"file_name": f"{number}.npz", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def model_of(seed: int = 0) -> ButdForCaptioning:
    torch.manual_seed(seed)
    sizes = {"regions": REGIONS, "region_width": WIDTH, "hidden_size": 24, "attention_size": 8}
    return ButdForCaptioning(ButdConfig(vocab_size=len(tiny.VOCAB), initializer_range=0.3, **sizes)).eval()


def sample(number: int) -> Sample:
    features, caption = drawn_scene(number)
    buffer = io.BytesIO()
    np.savez(buffer, feat=features)
    return Sample(id=str(number), source=buffer.getvalue(), texts=(caption,))


def loaded_of(model: ButdForCaptioning):
    return wrap(model, tiny.words_tokenizer())


def test_it_computes_the_equations_of_the_paper() -> None:
    """Against torch's own LSTM cells and the formulas of section 3.2, caption by caption, without padding."""
    model = model_of()
    for lstm in (model.attention_lstm, model.language_lstm):
        nn.init.normal_(lstm.bias)
    config = model.config

    def cell(lstm) -> nn.LSTMCell:
        weight = torch.cat([gate.weight for gate in (lstm.input, lstm.forget, lstm.cell, lstm.output)])
        made = nn.LSTMCell(weight.shape[1] - config.hidden_size, config.hidden_size)
        made.weight_ih.data, made.weight_hh.data = weight.split([made.input_size, config.hidden_size], 1)
        made.bias_ih.data, made.bias_hh.data = lstm.bias.flatten(), torch.zeros(4 * config.hidden_size)
        return made

    first, second = cell(model.attention_lstm), cell(model.language_lstm)
    tokens, v = torch.tensor([[2, 6, 9, 14, 3]]), torch.randn(1, REGIONS, WIDTH)
    zeros = torch.zeros(1, config.hidden_size)
    one, two, expected = (zeros, zeros), (zeros, zeros), []
    with torch.no_grad():
        for word in tokens[0]:
            one = first(torch.cat([two[0], v.mean(1), model.words(word)[None]], 1), one)
            scores = torch.tanh(v @ model.region_map.weight.T + one[0] @ model.attention.state.weight.T)
            attended = ((scores @ model.attention.weight.weight.T).softmax(1) * v).sum(1)
            two = second(torch.cat([attended, one[0]], 1), two)
            expected.append(model.head(two[0]))
        torch.testing.assert_close(model(tokens, v).logits, torch.stack(expected, 1), atol=1e-5, rtol=1e-5)


def test_padding_changes_no_word_and_gives_zeros() -> None:
    model = model_of()
    tokens, v = torch.tensor([[2, 6, 9, 3, 0, 0]]), torch.randn(1, REGIONS, WIDTH)
    seen = []
    model.language_lstm.forget.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        padded = model(tokens, v, (tokens != 0).long()).logits
        torch.testing.assert_close(padded[:, :4], model(tokens[:, :4], v).logits)
    assert [bool(output.any()) for output in seen[:6]] == [True] * 4 + [False] * 2


@pytest.fixture(scope="module")
def trained() -> ButdForCaptioning:
    """Trained from scratch on drawn scenes, by the loss of its family."""
    loaded = loaded_of(model_of())
    scenes = [sample(number) for number in range(180)]
    task, model = loaded.family.training_task, loaded.model
    length = loaded.family.text_length(loaded.processor, scenes)
    batch = task.inputs(loaded.processor, scenes, length, model.config)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        total, count, _ = task.loss(model, batch, None)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    return model.eval()


def test_it_learns_to_caption_scenes(trained) -> None:
    loaded, scenes = loaded_of(trained), [sample(number) for number in range(1000, 1036)]
    skill = loaded.family.skills["caption"]
    for beams in (1, 3):
        settings = Generation(beams=beams, min_length=1, max_length=8)
        written = skill.perform(loaded, skill.prepare(loaded, scenes, settings), settings)
        assert sum(caption == scene.texts[0] for caption, scene in zip(written, scenes, strict=True)) >= 33


def test_it_is_measured_pruned_evaluated_and_reported(trained, metric_modules, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for split, numbers in (("train", range(120)), ("test", range(2000, 2020))):
        saved_scenes(Path("scenes") / split, numbers)
    trained.save_pretrained("dense")
    tiny.words_tokenizer().save_pretrained("dense")
    data = ["--dataset", "scenes", "--device", "cpu"]

    def idvl(*words: str) -> str:
        assert main([*words]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    idvl("estimate-id", "dense", *data, "--split", "train", "--samples", "120", "--force", "--output", "ids")
    layers = json.loads(Path("ids/profile.json").read_text())["layers"]
    gates = {f"{name}_lstm.{gate}" for name in ("attention", "language") for gate in GATES}
    assert set(layers) == gates | {"region_map", "attention.state", "attention.weight"}
    # a step for each word, the start and the end
    assert layers["language_lstm.cell"]["n_features"] == (len(WORDS) + 2) * 24
    steps = ["--batch-size", "40", "--sparsity", "0.5", "--profile", "ids", "--max-steps", "4"]
    idvl("prune", "dense", *data, *steps, "--no-eval", "--output", "pruned")
    report = json.loads(Path("pruned/report.json").read_text())
    assert report["total"]["zeros"] == round(0.5 * report["total"]["weights"])
    once = ["--criterion", "wanda", "--sparsity", "0.5", "--calibration-samples", "40"]
    idvl("prune", "dense", *data, *once, "--no-eval", "--output", "once")
    assert json.loads(Path("once/report.json").read_text())["total"]["sparsity"] == pytest.approx(0.5, abs=0.01)
    idvl("eval", "dense", *data, "--output", "scored")
    results = json.loads(Path("scored/results.json").read_text())
    assert results["samples"] == 20 and results["metrics"]["BLEU@4"]["value"] > 80
    idvl("eval", "pruned/model", *data, "--limit", "8", "--output", "after")
    assert json.loads(Path("after/results.json").read_text())["samples"] == 8
    table = idvl("analyze", "ids", "pruned", "scored", "after", "--table", "markdown", "--output", "report.html")
    page = Path("report.html").read_text()
    assert "50 %" in table and all(name in page for name in layers)


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda path: npz(path, feat=np.zeros((5, WIDTH), "f4")),
            "has 5 regions of 15 values, .* reads 6 of 15",
        ),
        (
            lambda path: npz(path, feat=np.zeros((REGIONS, 9), "f4")),
            "has 6 regions of 9 values, .* reads 6 of 15",
        ),
        (lambda path: npz(path, x=np.zeros((REGIONS, WIDTH), "f4")), "no array 'feat'"),
        (lambda path: npz(path, feat=np.zeros(3, "f4")), "not floating-point"),
        (lambda path: npz(path, feat=np.full((REGIONS, WIDTH), np.nan)), "NaN"),
        (lambda path: npz(path, feat=np.full((REGIONS, WIDTH), 1e300)), "overflow float32"),
        (lambda path: npz(path, feat=np.array([{}, {}])), "no region features|[Oo]bject"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "no region features"),
    ],
)
def test_other_regions_are_refused(change, said, tmp_path, capsys) -> None:
    folder = saved_scenes(tmp_path / "scenes", range(2))
    model_of().save_pretrained(tmp_path / "dense")
    tiny.words_tokenizer().save_pretrained(tmp_path / "dense")
    change(folder / "1.npz")
    args = ["--dataset", str(folder), "--force", "--device", "cpu", "--output", str(tmp_path / "run"), "-q"]
    assert main(["estimate-id", str(tmp_path / "dense"), *args]) in (1, 2)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("idvl: ")]
    assert len(told) == 1 and re.search(said, told[0]), told
    assert not (tmp_path / "run").exists()


def test_an_image_is_no_region_and_regions_are_no_image() -> None:
    loaded = loaded_of(model_of())
    with pytest.raises(UsageError, match="is an image, and the model reads features of regions"):
        loaded.family.inputs(loaded.processor, tiny.samples(1), 5)
    with pytest.raises(UsageError, match="features of regions \\(.npz\\), not pixels"):
        encode(wrap(*tiny.blip()), [sample(0)], batch_size=1)


def test_damaged_bytes_are_no_regions() -> None:
    archive = io.BytesIO()
    np.savez_compressed(archive, feat=np.random.default_rng(0).random((REGIONS, WIDTH), np.float32))
    whole = archive.getvalue()
    for at in range(len(whole)):
        for other in (whole[at] ^ 1, whole[at] ^ 129):
            with contextlib.suppress(ValueError):
                assert regions(whole[:at] + bytes([other]) + whole[at + 1 :]).shape == (REGIONS, WIDTH)


def test_a_file_that_states_more_than_it_holds_is_refused() -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 45, 2)})
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("feat.npy", header.getvalue())
    with pytest.raises(ValueError, match="no region features|more values than it holds|cannot reshape"):
        regions(archive.getvalue())
