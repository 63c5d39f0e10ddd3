"""A training step of masked LoRA, beside plain LoRA by peft and full training under the same masks; idvl verify.

    pip install peft
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recovery.py              # some five minutes
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recovery.py --blocks 1   # one minute
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recovery.py --verify     # one minute: that alone

Each variant runs in a process of its own, one after the other: the least CPU seconds of one thread among STEPS steps,
and the peak of the whole process's memory. Random weights, half of them pruned in every linear layer of the blocks;
rank 8, AdamW. The BLIP has 224 M parameters and reads 8 images of 224 px with 20 tokens each; the decoder, a LLaMA of
width 768, reads 4 texts of 128 tokens.

Verifying the pruned BLIP is measured beside loading it: opening the checkpoint, and reading each weight into memory, as
what is to compute on another device does. Least CPU seconds of one thread in READINGS turns.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import nn
from transformers import BlipConfig, BlipForConditionalGeneration, LlamaConfig, LlamaForCausalLM

from idvl.recovery.adapters import attach_lora, mask_gradients
from idvl.sparsity.masks import Masks
from idvl.workflows import verify

RESULTS = Path(__file__).parent / "results" / "recovery.json"
STEPS, RANK, READINGS = 3, 8, 5
VARIANTS = ("plain LoRA", "masked LoRA", "full")
# (variant, compared with): the goal for time and for memory
GOALS = {
    ("blip", "masked LoRA", "plain LoRA"): {"seconds": 1.6, "peak": 1.0},
    ("decoder", "masked LoRA", "plain LoRA"): {"seconds": 1.75, "peak": 1.0},
    ("blip", "masked LoRA", "full"): {"peak": 0.65},
    ("decoder", "masked LoRA", "full"): {"peak": 0.65},
}
VERIFY_GOAL = 2


def blip(blocks: int) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    vision = {"num_hidden_layers": blocks, "image_size": 224, "initializer_range": 0.02}
    model = BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config={"num_hidden_layers": blocks}))
    tokens = torch.randint(10, 1000, (8, 20))
    return model, {"pixel_values": torch.rand(8, 3, 224, 224), "input_ids": tokens, "labels": tokens}


def decoder(blocks: int) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    width = {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12, "num_hidden_layers": blocks}
    model = LlamaForCausalLM(LlamaConfig(**width, vocab_size=8_000))
    tokens = torch.randint(10, 1000, (4, 128))
    return model, {"input_ids": tokens, "labels": tokens}


MODELS = {"blip": blip, "decoder": decoder}


def pruned(model: nn.Module) -> tuple[Masks, dict[str, nn.Parameter]]:
    """Half of each linear layer of the blocks set to zero, in place: the masks and these weights."""
    heads = ("lm_head", "cls.", "patch_embed")
    weights = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(head in name for head in heads)
    }
    masks = Masks({name: weight.shape for name, weight in weights.items()})
    for name, weight in weights.items():
        masks.set(name, torch.rand(weight.shape) > 0.5)
    masks.enforce_(weights)
    return masks, weights


def prepare(model: nn.Module, variant: str) -> nn.Module:
    """The model pruned to one half, ready to be trained in this way."""
    masks, weights = pruned(model)
    if variant == "masked LoRA":
        attach_lora(model, masks, rank=RANK)
    elif variant == "full":
        mask_gradients(masks, weights)
    else:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=16, target_modules=list(weights)))
    return model


def memory() -> int:
    """The peak of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, variant: str, blocks: int) -> dict[str, float]:
    """The least seconds of a step and the peak of memory."""
    torch.manual_seed(0)
    model, batch = MODELS[name](blocks)
    model = prepare(model, variant).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    seconds = []
    for _ in range(1 + STEPS):
        start = time.process_time()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - start)
    counts = {"parameters": sum(p.numel() for p in model.parameters()), "trained": sum(p.numel() for p in trained)}
    return {"seconds": min(seconds[1:]), "peak": memory(), **counts}


def read() -> dict[str, float]:
    """CPU seconds to load a pruned BLIP, and to verify it: with its masks, and with those of its zeros."""
    from tests.support import tiny
    from tests.support.reporter import Silent

    def load() -> None:
        model = BlipForConditionalGeneration.from_pretrained(folder)
        for parameter in model.parameters():
            parameter.data.clone()

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, _ = blip(12)
        masks, _ = pruned(model)
        model.save_pretrained(folder)
        tiny.blip()[1].save_pretrained(folder)
        masks.save(folder / "masks.safetensors")
        check = {"reporter": Silent(), "sparsity": 0.499}
        ways: dict[str, Callable[[], object]] = {
            "load": load,
            "verify, masks": lambda: verify.run(name, masks=folder / "masks.safetensors", **check),
            "verify, zeros": lambda: verify.run(name, **check),
        }
        seconds = dict.fromkeys(ways, float("inf"))
        for _ in range(READINGS):
            for way, call in ways.items():
                start = time.process_time()
                call()
                seconds[way] = min(seconds[way], time.process_time() - start)
    return seconds


def table(results: dict[str, dict[str, dict[str, float]]]) -> None:
    for name, variants in results.items():
        for variant, numbers in variants.items():
            peak = numbers["peak"] / 2**20
            print(f"{name:8} {variant:12} {numbers['seconds']:8.2f} s {peak:8.0f} MiB {numbers['trained']:12,} trained")
    for (name, variant, other), goals in GOALS.items():
        for key, goal in goals.items():
            ratio = results[name][variant][key] / results[name][other][key]
            print(f"{name}: {key} of {variant} to {other}: {ratio:.2f} (goal {goal})")


def show_reading(seconds: dict[str, float]) -> None:
    for way, spent in seconds.items():
        print(f"{way:14} {spent:6.2f} s, {spent / seconds['load']:.2f} of loading (goal {VERIFY_GOAL})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "VARIANT"), help="measure this one here")
    parser.add_argument("--verify", action="store_true", help="measure verifying a checkpoint alone")
    arguments = parser.parse_args()
    if arguments.verify:
        show_reading(read())
        return
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments.blocks)))
        return
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name in MODELS:
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--blocks", str(arguments.blocks), "--one", name, variant]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results.setdefault(name, {})[variant] = json.loads(output.splitlines()[-1])
    table(results)
    reading = read()
    show_reading(reading)
    if arguments.blocks == 12:
        about = {"torch": torch.__version__, "blocks": arguments.blocks, "results": results, "verify": reading}
        RESULTS.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
