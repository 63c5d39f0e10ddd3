"""Offloaded weights pruned from calibration samples: the files of a run in memory, one block's weights at a time."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from idvl.device import give_back_freed_memory
from idvl.distributed import Team
from idvl.errors import UsageError
from idvl.models.offload import Offload
from idvl.pruning.calibration import gather
from idvl.pruning.finished import FinishedBlocks
from idvl.pruning.settings import resolve
from idvl.recipe import load as load_recipe
from idvl.workflows import prune_recover
from idvl.workflows.prune import run
from tests.support import tiny
from tests.support.reporter import Silent
from tests.support.stored import stored

N = 8
WANDA, SLOW = {"prune.criterion": "wanda"}, pytest.mark.slow
SETTINGS = {"data.batch_size": 4, "prune.calibration_samples": N, "prune.sparsity": 0.5, "eval.after": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with captioned pictures/."""
    folder = tmp_path_factory.mktemp("offloaded")
    (folder / "pictures").mkdir()
    lines = []
    for number, sample in enumerate(tiny.samples(N)):
        sample.source.save(folder / "pictures" / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": sample.texts[0]}))
    (folder / "pictures" / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def pruned(place: Path, model: Path, folder: Path, *, resume: bool = False, **settings: Any) -> dict[str, Any]:
    torch.set_num_threads(1)
    values = {"model.name": str(model), "model.device": "cpu", "data.dataset": str(place / "pictures")} | SETTINGS
    return run(load_recipe(None, values | settings), folder=folder, reporter=Silent(), resume=resume).report


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        # tied weights, weights that change, one statistic for the cross-attention of all blocks
        ("blip", {"prune.criterion": "sparsegpt", "prune.calibration": "dense"}),
        # blocks store weights as rows
        pytest.param("gpt2", {**WANDA, "prune.repair": "obs", "prune.allocation": "owl"}, marks=SLOW),
        # weights have other names in files
        pytest.param("llava", WANDA, marks=SLOW),
        # experts are stored one by one
        pytest.param("mixtral", WANDA, marks=SLOW),
        pytest.param("t5", {**WANDA, "prune.tokens_from": "all"}, marks=SLOW),
        pytest.param("llava", {"prune.criterion": "multiflow", "prune.allocation": "alpha"}, marks=SLOW),
        pytest.param(
            "vit",
            {"prune.criterion": "magnitude", "prune.calibration": "sequential", "prune.allocation": "magnitude"},
            marks=SLOW,
        ),
    ],
)
def test_a_model_is_pruned_as_in_memory_and_after_a_break(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, settings: dict[str, Any]
) -> None:
    model, save, held = stored(place, kind), FinishedBlocks.save, []
    expected = pruned(place, model, tmp_path / "whole", **settings)

    def killed(self: FinishedBlocks, number: int, *layers: Any) -> None:
        save(self, number, *layers)
        if number == 1:
            raise Killed

    def hold(self: Offload, name: str, original: Any = Offload.hold) -> None:
        original(self, name)
        held.append(sum(not next(block.parameters()).is_meta for block in self.blocks.values()))

    monkeypatch.setattr(Offload, "hold", hold)
    settings = settings | {"estimate.offload": True}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(FinishedBlocks, "save", killed)
        pruned(place, model, tmp_path / "offloaded", **settings)
    report = pruned(place, model, tmp_path / "offloaded", resume=True, **settings)
    assert set(held) <= {0, 1} and max(held) == 1
    for name in ("layers", "modalities", "total", "verified"):
        assert report[name] == expected[name]
    files = sorted((tmp_path / "whole").glob("**/*.safetensors"))
    assert len(files) == 2 and report["verified"]["dtype"] == "bfloat16"
    for path in files:
        assert path.read_bytes() == (tmp_path / "offloaded" / path.relative_to(tmp_path / "whole")).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["offloaded", "whole"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prune.criterion": "platon"}, "criterion platon trains all weights, in memory: leave offload out"),
        ({**WANDA, "prune.repair": "reconstruct"}, "repair reconstruct needs all weights in memory at once: leave"),
        ({**WANDA, "prune.allocation": "ecoflap"}, "the gradient that allocation ecoflap reads needs all weights"),
        ({"prune.criterion": "gradient", "prune.calibration": "dense"}, "criterion gradient needs all weights"),
        ({**WANDA, "recover.method": "lora"}, "recovery trains a model in memory: leave offload out"),
    ],
)
def test_what_needs_all_weights_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    recipe = load_recipe(None, {"model.name": "builtin/blip", "estimate.offload": True} | settings)
    way = prune_recover.run if recipe.recover.method else run
    with pytest.raises(UsageError, match=message):
        way(recipe, folder=tmp_path / "run", reporter=Silent())


def test_a_weight_of_several_blocks_is_refused_and_the_plan_says_what_is_held(place: Path, tmp_path: Path) -> None:
    model = stored(place, "gpt2")
    values = {"model.name": str(model), "model.device": "cpu", "data.dataset": str(place / "pictures"), **WANDA}
    recipe = load_recipe(None, values | SETTINGS | {"estimate.offload": True, "eval.after": True})
    reporter = Silent()
    plan = run(recipe, folder=None, reporter=reporter, plan_only=True).plan
    assert [line.split()[0] for line in plan.lines()[2:4]] == ["weights", "host"]
    assert any("is not evaluated: its weights are offloaded" in line for line in reporter.warnings)
    job = gather(resolve(recipe), torch.device("cpu"), Team(), reporter, store=tmp_path / "images")
    first, second = list(job.layers)[:: len(job.layers) // 2][:2]
    job.owner[second] = first
    with pytest.raises(UsageError, match=f"several blocks share {re.escape(first)}: omit it"):
        job._check_offload()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts anonymous memory as Linux does")
def test_anonymous_memory_does_not_hold_the_weights(place: Path, tmp_path: Path) -> None:
    """A block, its new weights and what choosing them takes, and masks of a bit a weight."""
    config = GPT2Config(vocab_size=len(tiny.VOCAB), n_embd=256, n_layer=40, n_head=4, n_positions=40)
    GPT2LMHeadModel(config).bfloat16().save_pretrained(tmp_path / "model")
    tiny.words_tokenizer().save_pretrained(tmp_path / "model")
    pruned(place, stored(place, "gpt2"), tmp_path / "first", **WANDA)  # what is imported stays
    grown = {}
    for offload in (True, False):
        give_back_freed_memory()
        with watched() as peak:
            pruned(place, tmp_path / "model", tmp_path / f"run-{offload}", **WANDA, **{"estimate.offload": offload})
        grown[offload] = peak[0] / (4 * 12 * 256**2 * config.n_layer)
    assert grown[True] < 1 / 3 and grown[False] > 1, grown


@contextmanager
def watched() -> Iterator[list[int]]:
    """By how many bytes this process's anonymous memory grows inside, at most."""

    def anonymous() -> int:
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous() - before)

    before, peak, done = anonymous(), [0], threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
