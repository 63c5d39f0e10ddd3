"""A LLaVA of 0.8 billion weights, 3.1 GiB in float32, measured and pruned with and without --offload.

    .venv/bin/python benchmarks/offload.py    # about 10 minutes on 2 cores, 8 GiB of memory, 10 GiB of disk

Random weights from the config, in shards, few small images with short texts. Each run is a process of its own that
samples its anonymous memory every 20 ms, from the first import on. What it maps from files is not counted.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

RESULTS = Path(__file__).parent / "results"
SHARD = 300 * 2**20
# anonymous memory with --offload, of the bytes in files; a block's new weights and the masks of all are part of it
MOST = {"estimate-id": 0.25, "prune": 0.5}


def build(folder: Path, *, width: int, blocks: int, dtype: str) -> int:
    """Write the checkpoint shard by shard, and return the bytes of its files."""
    import torch
    import transformers
    from safetensors.torch import save_file

    from tests.support import tiny

    vision = {**tiny.VISION, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16}
    text = {**tiny.TEXT, **heads, "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": blocks}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**text),
        image_token_index=tiny.VOCAB["<image>"],
        architectures=["LlavaForConditionalGeneration"],
        dtype=dtype,
    )
    with torch.device("meta"):
        weights = transformers.LlavaForConditionalGeneration(config).state_dict()
    config.save_pretrained(folder)
    tiny.llava()[1].save_pretrained(folder)
    generator, index, shard = torch.Generator().manual_seed(0), {}, {}
    for number, (name, weight) in enumerate(weights.items()):
        value = torch.randn(weight.shape, generator=generator) * 0.02 + ("norm" in name and name.endswith("weight"))
        shard[name] = value.to(getattr(torch, dtype))
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD or number == len(weights) - 1:
            file = f"model-{len(set(index.values())):05d}.safetensors"
            save_file(shard, folder / file, {"format": "pt"})
            index |= dict.fromkeys(shard, file)
            shard = {}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def anonymous() -> int:
    """Bytes of this process's memory that no file stands for."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def estimate_id(folder: str, n: int, offload: bool, peaks: list[int]) -> dict:
    """The dimensions, and the most anonymous memory by the time the imports, the loading and all were done."""
    from idvl.measurement.measurement import Measurement, Settings
    from idvl.models.layers import find_layers
    from idvl.models.loading import load
    from tests.support import tiny

    peaks.append(0)
    start = time.perf_counter()
    loaded = load(folder, device="cpu", offload=offload)
    loading = time.perf_counter() - start
    peaks.append(0)
    layers = find_layers(loaded.model, loaded.family)
    work = Measurement(loaded, tiny.samples(n), layers, Settings(batch_size=8), memory=2**28)
    dimensions = {name: layer.estimate.dimension for name, layer in work.estimates()}
    return {
        "anonymous": dict(zip(("imports", "loading", "measuring"), peaks, strict=True)),
        "loading_seconds": loading,
        "seconds": time.perf_counter() - start,
        "plan": work.plan.lines(),
        "result": dimensions,
    }


def prune(folder: str, n: int, offload: bool, peaks: list[int]) -> dict:
    """The hash of the masks and of the saved weights, and the most anonymous memory."""
    from idvl.recipe import load as load_recipe
    from idvl.sparsity.masks import Masks
    from idvl.workflows.prune import run
    from tests.support import tiny
    from tests.support.reporter import Silent

    data = tiny.save_samples(
        Path(folder) / f"data-{offload}", tiny.samples(n), lambda number, sample: [{"text": sample.texts[0]}]
    )
    peaks.append(0)
    settings = {"model.name": folder, "model.device": "cpu", "data.dataset": str(data), "data.batch_size": 8}
    settings |= {"prune.criterion": "wanda", "prune.calibration_samples": n, "eval.after": False}
    recipe = load_recipe(None, settings | {"estimate.offload": offload, "estimate.memory": "1GiB"})
    start, target = time.perf_counter(), Path(folder) / f"pruned-{offload}"
    result = run(recipe, folder=target, reporter=Silent())
    outcome = {
        "anonymous": dict(zip(("imports", "pruning"), peaks, strict=True)),
        "seconds": time.perf_counter() - start,
        "plan": result.plan.lines(),
        "result": [Masks.load(target / "masks.safetensors").hash(), result.report["verified"]["fingerprint"]],
    }
    shutil.rmtree(target)
    return outcome


COMMANDS = {"estimate-id": estimate_id, "prune": prune}


def watched(command: str, *arguments: Any) -> dict:
    """What a command gives; the last of its peaks is kept up to date."""
    peaks = [0]

    def watch() -> None:
        while True:
            peaks[-1] = max(peaks[-1], anonymous())
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
    return COMMANDS[command](*arguments, peaks)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the files")
    parser.add_argument("--part", nargs=3)
    options = parser.parse_args()
    if options.part:
        command, folder, offload = options.part
        print(json.dumps(watched(command, folder, options.samples, offload == "offload")))
        return
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        stored = build(Path(folder), width=options.width, blocks=options.blocks, dtype=options.dtype)
        document = {"dtype": options.dtype, "stored": stored}
        for command in COMMANDS:
            runs = {part: _run(command, folder, part, options.samples) for part in ("offload", "whole")}
            document[command] = runs
            peaks = {part: max(run["anonymous"].values()) for part, run in runs.items()}
            for part, peak in peaks.items():
                print(
                    f"{command} {part}: {peak / 2**20:.0f} MiB anonymous, {stored / 2**20:.0f} MiB of weights in files"
                )
            results = [run.pop("result") for run in runs.values()]
            if results[0] != results[1]:
                missed.append(f"{command} gives other results with --offload")
            if peaks["offload"] > MOST[command] * stored:
                missed.append(f"{command} --offload takes more than {MOST[command]:.0%} of the weights' files")
    document["missed"] = missed
    (RESULTS / f"offload-{options.dtype}.json").write_text(json.dumps(document, indent=2) + "\n")
    if missed:
        sys.exit("missed: " + "; ".join(missed))


def _run(command: str, folder: str, part: str, samples: int) -> dict:
    line = [sys.executable, __file__, "--samples", str(samples), "--part", command, folder, part]
    return json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
