"""Run folders that several tests of the page read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import folders
from tests.support.folders import EVIL


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A run whose every string tries to become markup."""
    run = folders.pruned(tmp_path / "a<b>&", id_weight="multiply", model=EVIL, criterion=EVIL)
    folders.evaluated(tmp_path / "dense")
    made = folders.few_points(folders.profile(model=EVIL), "text.0.query")
    made["layers"][EVIL] = made["layers"].pop("vision.0.qkv")
    folders.write(run / "profile.json", made)
    found = folders.results({EVIL: 1.0, "CIDEr": 2.0}, "x")
    folders.write(run / "eval" / "results.json", found)
    folders.predictions(run / "eval", EVIL, "a dog", "a bird")
    (run / "recipe.yaml").write_text(
        json.dumps({"model": {"name": EVIL}, "data": {"dataset": EVIL}, EVIL: {EVIL: EVIL}})
    )
    return tmp_path


@pytest.fixture
def long_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of a model whose names are as long as those of BLIP, with many metrics."""
    prefix = {"vision": "vision_model.encoder.layers.0", "language": "text_decoder.bert.encoder.layer.11"}
    layers = {
        f"{prefix.get(kind, 'text_decoder.bert.encoder.layer.11.crossattention')}.{name}": (
            kind,
            prefix.get(kind),
            *rest,
        )
        for name, (kind, _, *rest) in folders.LAYERS.items()
    }
    monkeypatch.setattr(folders, "LAYERS", layers)
    model = "Salesforce/blip-image-captioning-base_finetuned.on.shapes"
    metrics = dict.fromkeys(("BLEU@1", "BLEU@2", "BLEU@3", "BLEU@4", "METEOR", "ROUGE-L", "CIDEr", "exact"), 71.25)

    def results(fingerprint: str) -> dict:
        return folders.results(metrics, fingerprint) | {"headline": "CIDEr"}

    for seed in range(2):
        for criterion in ("platon", "magnitude"):
            for weight in ("none", "multiply"):
                for sparsity in (0.5, 0.8, 0.9):
                    name = f"sparsity-{sparsity}-{criterion}-id_weight-{weight}-language_without_cross-seed-{seed}"
                    run = folders.pruned(
                        tmp_path / "runs" / name, criterion=criterion, id_weight=weight, sparsity=sparsity, seed=seed,
                        model=model, train__learning_rate=1e-5 * (1 + seed),
                    )  # fmt: skip
                    folders.write(run / "eval" / "results.json", results(name))
    dense = folders.evaluated(tmp_path / "runs" / "dense")
    folders.write(dense / "results.json", results("dense"))
    folders.sensitivity(tmp_path / "runs" / "sensitivity_of.every-layer")
    return tmp_path / "runs"
