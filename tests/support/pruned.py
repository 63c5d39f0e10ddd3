"""A tiny pruned model, and what a run hands over to have it saved."""

from __future__ import annotations

from pathlib import Path

import torch

from idvl.checkpoints.report import plan, report
from idvl.checkpoints.save import save_pruned
from idvl.checkpoints.verify import Verdict
from idvl.models.layers import find_layers
from idvl.models.loading import load
from idvl.sparsity.masks import Masks
from tests.support import tiny


class Pruned:
    """The tiny model of `kind` with about half of its prunable weights masked; the dense one is left in `root`."""

    def __init__(self, kind: str, root: Path, structure: str = "unstructured"):
        self.source = tiny.save(kind, root / f"dense-{kind}")
        loaded = load(str(self.source), device="cpu")
        self.model, self.processor = loaded.model, loaded.processor
        self.layers = find_layers(self.model, loaded.family)
        self.weights = {name: layer.module.weight for name, layer in self.layers.items()}
        self.masks = Masks({name: weight.shape for name, weight in self.weights.items()})
        generator = torch.Generator().manual_seed(0)
        for name, weight in self.weights.items():
            kept = torch.rand(weight.shape, generator=generator) > 0.5
            if structure == "2:4":
                kept = torch.tensor([True, False, False, True]).repeat(weight.numel() // 4).view(weight.shape)
            self.masks.set(name, kept)
        self.masks.enforce_(self.weights)
        planned = plan(self.model, self.layers, family=loaded.family, asked=0.5)
        self.report = report(planned, self.masks)

    def save(self, folder: Path, **options) -> Verdict:
        given = {"masks": self.masks, "profile": None, "report": self.report, "card": "# card\n", **options}
        return save_pruned(folder, given.pop("model", self.model), self.processor, **given)
