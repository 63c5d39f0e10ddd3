"""What `idvl eval` adds to the bare `generate` of a BLIP of 100 M parameters: data, batches, decoding, writing.

    .venv/bin/python benchmarks/evaluating.py     about three minutes on 2 cores

Photographs of 640 x 480 pixels in a parquet file, with their captions, go through the task's pass as the command does
it. In the same run the model's `generate` is timed by itself, so that noise between runs is not taken for overhead.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from setups.blip import build

from idvl import tasks
from idvl.data.samples import select
from idvl.data.shapes import samples as drawn
from idvl.distributed import Team
from idvl.evaluation.prediction import predict
from idvl.models.generation import Generation, resolve
from idvl.models.loading import load

RESULTS = Path(__file__).parent / "results" / "evaluating.json"
GOAL = 1.10
BATCH = 8


def photographs(folder: Path, n: int) -> Path:
    """Noise smoothed like a photograph: JPEG has as much to decode as of a real one."""
    rows = []
    for number, sample in enumerate(drawn("test", n, 0)):
        coarse = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        path = folder / f"{number}.jpg"
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
        rows.append({"id": sample.id, "image": {"bytes": path.read_bytes(), "path": None}, "caption": sample.texts})
    Dataset.from_list(rows).to_parquet(folder / "photographs.parquet")
    return folder / "photographs.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=64)
    n = parser.parse_args().samples
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder / "blip", drawn("train", 200, 0))
        loaded = load(str(folder / "blip"), device="cpu")
        generate, bare = loaded.model.generate, []

        def timed(*args, **given):
            start = time.perf_counter()
            try:
                return generate(*args, **given)
            finally:
                bare.append(time.perf_counter() - start)

        loaded.model.generate = timed
        path = photographs(folder, n)
        settings = tasks.TaskSettings(generation=resolve(loaded, "caption", Generation()))
        start = time.perf_counter()
        samples = select(str(path), distinct=False, force=True).samples
        task_pass = tasks.load("caption").predict(loaded, samples, settings)
        options = {"team": Team(), "device": torch.device("cpu"), "progress": lambda *_: None}
        predict(task_pass, folder=folder, name="predictions", batch_size=BATCH, **options)
        seconds = time.perf_counter() - start
        result = {"parameters": loaded.model.num_parameters(), "samples": n, "batch": BATCH}
    result |= {"seconds": seconds, "generate": sum(bare), "ratio": seconds / sum(bare), "goal": GOAL}
    print(*(f"{key} {value:.4g}" for key, value in result.items()))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
