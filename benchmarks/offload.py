"""A LLaVA of 1.1 billion weights, 4.1 GiB in float32, measured with and without --offload.

    .venv/bin/python benchmarks/offload.py                    # about 10 minutes on 2 cores, 6 GiB of memory
    .venv/bin/python benchmarks/offload.py --dtype bfloat16   # stored as 2.1 GiB

Random weights from the config, in shards, few small images with short texts. Each run is a process of its own that
samples its anonymous memory every 20 ms, from the first import on. What it maps from files is not counted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

RESULTS = Path(__file__).parent / "results"
SHARD = 300 * 2**20


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


def measure(folder: str, n: int, offload: bool) -> dict:
    """The dimensions, and the most anonymous memory by the time the imports, the loading and all were done."""
    peaks = [0]

    def watch() -> None:
        while True:
            peaks[-1] = max(peaks[-1], anonymous())
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
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
    names = ("imports", "loading", "measuring")
    return {
        "anonymous": dict(zip(names, peaks, strict=True)),
        "loading_seconds": loading,
        "seconds": time.perf_counter() - start,
        "plan": work.plan.lines(),
        "dimensions": dimensions,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the files")
    parser.add_argument("--part", nargs=2)
    options = parser.parse_args()
    if options.part:
        folder, offload = options.part
        print(json.dumps(measure(folder, options.samples, offload == "offload")))
        return
    with tempfile.TemporaryDirectory() as folder:
        stored = build(Path(folder), width=options.width, blocks=options.blocks, dtype=options.dtype)
        runs = {}
        for part in ("offload", "whole"):
            command = [sys.executable, __file__, "--samples", str(options.samples), "--part", folder, part]
            runs[part] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
            peak = max(runs[part]["anonymous"].values())
            print(f"{part}: {peak / 2**20:.0f} MiB anonymous, {stored / 2**20:.0f} MiB of weights in files", flush=True)
    dimensions = [run.pop("dimensions") for run in runs.values()]
    runs |= {
        "dtype": options.dtype,
        "stored": stored,
        "layers": len(dimensions[0]),
        "equal": dimensions[0] == dimensions[1],
    }
    (RESULTS / f"offload-{options.dtype}.json").write_text(json.dumps(runs, indent=2) + "\n")
    print(f"the dimensions of {runs['layers']} layers are {'equal' if runs['equal'] else 'NOT EQUAL'}")
    if not runs["equal"] or max(runs["offload"]["anonymous"].values()) > stored / 4:
        sys.exit("missed: equal dimensions, and a quarter of the weights' files in anonymous memory")


if __name__ == "__main__":
    main()
