"""A training step of masked LoRA, beside plain LoRA by peft and full training under the same masks.

    pip install peft
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recovery.py              # some five minutes
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recovery.py --blocks 1   # one minute

Each variant runs in a process of its own, one after the other: the least CPU seconds of one thread among STEPS steps,
and the peak of the whole process's memory. Random weights, half of them pruned in every linear layer of the blocks;
rank 8, AdamW. The BLIP has 224 M parameters and reads 8 images of 224 px with 20 tokens each; the decoder, a LLaMA of
width 768, reads 4 texts of 128 tokens.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn
from transformers import BlipConfig, BlipForConditionalGeneration, LlamaConfig, LlamaForCausalLM

from idvl.recovery.adapters import attach_lora, mask_gradients
from idvl.sparsity.masks import Masks

RESULTS = Path(__file__).parent / "results" / "recovery.json"
STEPS, RANK = 3, 8
VARIANTS = ("plain LoRA", "masked LoRA", "full")
# (variant, compared with): the goal for time and for memory
GOALS = {
    ("blip", "masked LoRA", "plain LoRA"): {"seconds": 1.6, "peak": 1.0},
    ("decoder", "masked LoRA", "plain LoRA"): {"seconds": 1.75, "peak": 1.0},
    ("blip", "masked LoRA", "full"): {"peak": 0.65},
    ("decoder", "masked LoRA", "full"): {"peak": 0.65},
}


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


def prepare(model: nn.Module, variant: str) -> nn.Module:
    """The model pruned to one half, ready to be trained in this way."""
    heads = ("lm_head", "cls.", "patch_embed")
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(head in name for head in heads)
    }
    weights = {name: layer.weight for name, layer in layers.items()}
    masks = Masks({name: weight.shape for name, weight in weights.items()})
    for name, weight in weights.items():
        masks.set(name, torch.rand(weight.shape) > 0.5)
    masks.enforce_(weights)
    if variant == "masked LoRA":
        attach_lora(model, masks, rank=RANK)
    elif variant == "full":
        mask_gradients(masks, weights)
    else:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=16, target_modules=list(layers)))
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


def table(results: dict[str, dict[str, dict[str, float]]]) -> None:
    for name, variants in results.items():
        for variant, numbers in variants.items():
            peak = numbers["peak"] / 2**20
            print(f"{name:8} {variant:12} {numbers['seconds']:8.2f} s {peak:8.0f} MiB {numbers['trained']:12,} trained")
    for (name, variant, other), goals in GOALS.items():
        for key, goal in goals.items():
            ratio = results[name][variant][key] / results[name][other][key]
            print(f"{name}: {key} of {variant} to {other}: {ratio:.2f} (goal {goal})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "VARIANT"), help="measure this one here")
    arguments = parser.parse_args()
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
    if arguments.blocks == 12:
        about = {"torch": torch.__version__, "blocks": arguments.blocks, "results": results}
        RESULTS.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
