"""The way the paper's code measures a model against idvl's, on the same small model in the same run.

    .venv/bin/python benchmarks/original.py         about ten minutes on 2 cores, and 6 GB of disk for a while

On the built-in model, whose points have at most 8,704 features, and on a BLIP with two blocks of 192 in each stack at
224 px, whose points are as wide as those of real models (197 tokens, up to 151,296 features). The original way: hooks
write every layer's output of every batch to a file; then, layer after layer, the files are read back and concatenated,
all float32 pairwise distances are taken, and TwoNN is fitted to the parts of 20 partitions, each of which sorts its
rows. Written from the description of the published code, for the comparison only.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from setups.blip import build

from idvl.data.shapes import samples
from idvl.measurement.measurement import Measurement
from idvl.measurement.settings import Settings
from idvl.models.layers import find_layers
from idvl.models.loading import load

RESULTS = Path(__file__).parent / "results" / "original.json"
SAMPLES, BATCH, SEED = 2000, 16, 0
WIDE = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 768}


def fitted(distances: np.ndarray) -> float:
    """The original's TwoNN: sorted rows, no discard but the last two points, least squares through the origin."""
    ordered = np.sort(distances, axis=1)
    first, second = ordered[:, 1], ordered[:, 2]
    keep = (first > 0) & (first != second)
    mu = np.sort(second[keep] / first[keep])
    count = len(mu)
    x = np.log(mu[:-2])
    y = -np.log(1 - np.arange(1, count - 1) / count)
    return float((x * y).sum() / (x * x).sum())


def original_way(work: Measurement, folder: Path) -> dict[str, float]:
    rng = np.random.default_rng(SEED)
    batches = work.batches[:-1]
    for k, batch in enumerate(batches):
        handles = [
            layer.module.register_forward_hook(
                lambda module, args, out, name=name, k=k: np.save(folder / f"{name}.{k}.npy", out.numpy())
            )
            for name, layer in work.layers.items()
        ]
        with torch.no_grad():
            work.loaded.family.call(work.loaded.model, batch)
        for handle in handles:
            handle.remove()
    found = {}
    for name in work.layers:
        pieces = [torch.from_numpy(np.load(folder / f"{name}.{k}.npy")) for k in range(len(batches))]
        rows = torch.cat([piece.reshape(len(batches[k]["pixel_values"]), -1) for k, piece in enumerate(pieces)])
        upper = torch.pdist(rows).numpy()
        distances = np.zeros((len(rows), len(rows)), dtype=np.float32)
        distances[np.triu_indices(len(rows), 1)] = upper
        distances += distances.T
        scales = []
        for parts in range(1, 21):
            order = rng.permutation(len(rows))
            size = len(rows) // parts
            chosen = [order[p * size : (p + 1) * size] for p in range(parts)]
            scales.append(np.mean([fitted(distances[np.ix_(part, part)]) for part in chosen]))
        found[name] = float(np.mean(scales))
    return found


def race(model: str, estimators: tuple[str, ...]) -> dict:
    loaded = load(model)
    layers = find_layers(loaded.model, loaded.family)
    drawn = samples("train", SAMPLES, SEED)
    seconds, ours = {}, {}
    for estimator in estimators:
        work = Measurement(loaded, drawn, layers, Settings(batch_size=BATCH, estimator=estimator), memory=2**33)
        start = time.perf_counter()
        ours[estimator] = {name: layer.estimate.dimension for name, layer in work.estimates()}
        seconds[estimator] = time.perf_counter() - start
        print(model, estimator, f"{seconds[estimator]:.1f} s", file=sys.stderr, flush=True)
    folder = Path(tempfile.mkdtemp())
    try:
        start = time.perf_counter()
        theirs = original_way(work, folder)
        seconds["original"] = time.perf_counter() - start
        written = sum(path.stat().st_size for path in folder.iterdir())
    finally:
        shutil.rmtree(folder)
    same = ours["icml24"]
    gaps = [abs(same[name] - theirs[name]) / theirs[name] for name in same if same[name]]
    return {
        "layers": len(layers),
        "seconds": seconds,
        "original_to": {estimator: seconds["original"] / seconds[estimator] for estimator in estimators},
        "bytes_written_by_the_original": written,
        "median_relative_gap_of_icml24": float(np.median(gaps)),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as wide:
        build(Path(wide), samples("train", SAMPLES, SEED), size=WIDE)
        models = {"builtin/blip": "builtin/blip", "wide BLIP": wide}
        results = {name: race(model, ("twonn", "icml24")) for name, model in models.items()}
    result = {"samples": SAMPLES, "models": results}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
