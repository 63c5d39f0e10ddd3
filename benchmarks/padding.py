"""How much of the low intrinsic dimension of text layers is padding?

    .venv/bin/python benchmarks/padding.py [MODEL]           about four minutes

The text layers of a captioner on SAMPLES pictures with one caption each, whole (they are nearly all of one length) and
cut to a random number of words, the points flattened, in three ways:

- masked: outputs at padding are zero, as idvl measures;
- kept: all captions are padded to one length, and what the model computes at padding counts;
- by batch: as in the paper's code, the captions of a batch of BATCH are padded to its longest, what the model computes
  there counts, and shorter batches get zeros up to the longest of all.

Each by icml24, the paper's fit, and by twonn.
"""

import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from idvl.data.sample import Sample
from idvl.data.shapes import samples
from idvl.geometry.intrinsic_dimension import intrinsic_dimension
from idvl.models.inputs import encode
from idvl.models.layers import Layer, find_layers
from idvl.models.loading import Loaded, load

RESULTS = Path(__file__).parent / "results" / "padding.json"
SAMPLES, BATCH, SEED, FEWEST = 2000, 16, 0, 3
ESTIMATORS = ("icml24", "twonn")
Batch = dict[str, Tensor]


def as_it_is(batch: Batch) -> Batch:
    return batch


def to_its_longest(batch: Batch) -> Batch:
    length = int(batch["attention_mask"].sum(1).max())
    return {key: value[:, :length] if value.dim() == 2 else value for key, value in batch.items()}


# name -> what a batch is cut to, whether outputs at padding become zero
WAYS: dict[str, tuple[Callable[[Batch], Batch], bool]] = {
    "masked": (as_it_is, True),
    "kept": (as_it_is, False),
    "by batch": (to_its_longest, False),
}


def captured(loaded: Loaded, batches: list[Batch], names: list[str], cut: Callable[[Batch], Batch], zero: bool):
    """Layer name -> points (SAMPLES, text length x width)."""
    length = batches[0]["input_ids"].shape[1]
    pieces: dict[str, list[Tensor]] = {name: [] for name in names}
    for batch in map(cut, batches):
        real = batch["attention_mask"].bool()

        def keep(module, args, out: Tensor, *, name: str, real: Tensor = real) -> None:
            rows = out.masked_fill(~real.unsqueeze(2), 0) if zero else out
            missing = length - rows.shape[1]
            pieces[name].append(torch.nn.functional.pad(rows, (0, 0, 0, missing)).flatten(1))

        handles = [
            loaded.model.get_submodule(name).register_forward_hook(
                lambda module, args, out, name=name, keep=keep: keep(module, args, out, name=name)
            )
            for name in names
        ]
        with torch.no_grad():
            loaded.family.call(loaded.model, batch)
        for handle in handles:
            handle.remove()
    return {name: torch.cat(rows) for name, rows in pieces.items()}


def cut_short(drawn: Sequence[Sample]) -> list[Sample]:
    """Each caption's first words, FEWEST of them at least."""
    rng = random.Random(SEED)
    words = [sample.texts[0].split() for sample in drawn]
    kept = [" ".join(some[: rng.randint(FEWEST, len(some))]) for some in words]
    return [replace(sample, texts=(text,)) for sample, text in zip(drawn, kept, strict=True)]


def measured(loaded: Loaded, layers: dict[str, Layer], drawn: Sequence[Sample]) -> dict:
    batches = encode(loaded, drawn, batch_size=BATCH)
    lengths = torch.cat([batch["attention_mask"].sum(1) for batch in batches])
    dimensions: dict[str, dict[str, dict[str, float]]] = {estimator: {} for estimator in ESTIMATORS}
    for way, (cut, zero) in WAYS.items():
        points = captured(loaded, batches, list(layers), cut, zero)
        for estimator, ways in dimensions.items():
            ways[way] = {
                name: intrinsic_dimension(rows, estimator, seed=SEED).dimension for name, rows in points.items()
            }
            print(way, estimator, file=sys.stderr, flush=True)
    medians = {
        estimator: {way: statistics.median(found.values()) for way, found in ways.items()}
        for estimator, ways in dimensions.items()
    }
    tokens = {"least": int(lengths.min()), "mean": float(lengths.float().mean()), "most": int(lengths.max())}
    return {"tokens": tokens, "medians": medians, "dimensions": dimensions}


def main(model: str = "builtin/blip") -> None:
    loaded = load(model)
    # keys and values of cross-attention are of the picture, without padding
    layers = {
        name: layer
        for name, layer in find_layers(loaded.model, loaded.family).items()
        if layer.modality == "language" or name.endswith(("crossattention.self.query", "crossattention.output.dense"))
    }
    drawn = samples("train", SAMPLES, SEED)
    result = {
        "model": model,
        "samples": SAMPLES,
        "whole": measured(loaded, layers, drawn),
        "cut": measured(loaded, layers, cut_short(drawn)),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    for captions in ("whole", "cut"):
        print(captions, result[captions]["tokens"], json.dumps(result[captions]["medians"], indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
