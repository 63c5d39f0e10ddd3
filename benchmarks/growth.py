"""What a measurement costs as the work grows: points, features, layers. A table, and docs/figures/growth.png.

.venv/bin/python benchmarks/growth.py          about a minute; points and features come from kernel.py's results
"""

import json
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from idvl.data.shapes import samples
from idvl.measurement.measurement import Measurement, Settings
from idvl.models.layers import find_layers
from idvl.models.loading import load

HERE = Path(__file__).parent
KERNEL, RESULTS = HERE / "results" / "kernel.json", HERE / "results" / "growth.json"
FIGURE = HERE.parent / "docs" / "figures" / "growth.png"
SAMPLES, REPEATS = 1000, 3


def by_layers() -> list[dict]:
    """Seconds for the first layers of builtin/blip, in the order of running."""
    loaded = load("builtin/blip")
    layers = find_layers(loaded.model, loaded.family)
    drawn = samples("train", SAMPLES, 0)
    order = list(Measurement(loaded, drawn, layers, Settings(), memory=2**32).features)
    found = []
    for count in (4, 8, 12, 22, 32, 42):
        some = {name: layers[name] for name in order[:count]}
        work = Measurement(loaded, drawn, some, Settings(), memory=2**32)
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            list(work.estimates())
            seconds.append(time.perf_counter() - start)
        found.append({"layers": count, "seconds": min(seconds)})
    return found


def main() -> None:
    growth = json.loads(KERNEL.read_text())["growth"]
    points = [row for row in growth if row["d"] == 3072]
    features = sorted((row for row in growth if row["n"] == 2000), key=lambda row: row["d"])
    layers = by_layers()
    RESULTS.write_text(json.dumps({"points": points, "features": features, "layers": layers}, indent=1) + "\n")
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    panels = (
        (axes[0], points, "n", "points (3,072 features)"),
        (axes[1], features, "d", "features (2,000 points)"),
        (axes[2], layers, "layers", f"layers of builtin/blip ({SAMPLES:,} samples)"),
    )
    for axis, rows, key, label in panels:
        axis.plot([row[key] for row in rows], [row["seconds"] for row in rows], marker="o", label="idvl")
        if "product_seconds" in rows[0]:
            products = [row["product_seconds"] for row in rows]
            axis.plot([row[key] for row in rows], products, marker="x", ls="--", label="one float32 product")
            axis.set(xscale="log", yscale="log")
        axis.set(xlabel=label, ylabel="seconds")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
        for row in rows:
            print(f"{label}: {row[key]:>6} {row['seconds']:8.3f} s")
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=120)


if __name__ == "__main__":
    main()
