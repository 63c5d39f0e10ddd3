"""Trains the built-in models from fixed recipes and writes weights and cards: `python -m idvl.builtin.make [blip] [vit]`.

Each recipe fixes data, steps and seed; everything a card reports is measured here, from the weights as they are stored.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from idvl.data import digits, shapes
from idvl.data.samples import Sample

log = logging.getLogger(__name__)
HERE = Path(__file__).parent

BLIP = {
    "seed": 0,
    "steps": 12_000,
    "batch": 64,
    "pictures": 64_000,
    "learning_rate": 1e-3,
    "warmup": 500,
    "clip": 1.0,
    "weight_decay": 0.01,
}
VIT = {
    "seed": 0,
    "steps": 4_000,
    "batch": 64,
    "learning_rate": 1e-3,
    "warmup": 200,
    "clip": 1.0,
    "weight_decay": 0.05,
}


def make_blip(folder: Path) -> None:
    """A BlipForConditionalGeneration that captions shapes/train canonically; vision starts at 0.02, not BLIP's 1e-10."""
    started = time.perf_counter()
    torch.manual_seed(BLIP["seed"])
    processor = _blip_processor()
    model = transformers.BlipForConditionalGeneration(_blip_config(processor.tokenizer))
    pool = shapes.samples("train", BLIP["pictures"], BLIP["seed"])
    log.info("blip: %d pictures drawn in %.0f s", len(pool), time.perf_counter() - started)
    _fit(model, _caption_batches(processor, pool), BLIP, "blip")
    _store(model, processor, folder)
    model, processor = _stored(transformers.BlipForConditionalGeneration, folder)
    results = {}
    for split in ("train", "validation", "test"):
        samples = shapes.samples(split, 2_000, seed=1)
        captions = caption(model, processor, samples)
        results[split] = sum(text == s.texts[0] for text, s in zip(captions, samples, strict=True)) / len(samples)
    _write_card(folder, model, "exact captions, greedy decoding, 2,000 scenes", BLIP, results, started)


def make_vit(folder: Path) -> None:
    """A ViTForImageClassification of digits/train, seen under small shifts, turns and changes of scale."""
    started = time.perf_counter()
    torch.manual_seed(VIT["seed"])
    processor = transformers.ViTImageProcessor(size={"height": 8, "width": 8}, resample=2)
    model = transformers.ViTForImageClassification(_vit_config())
    _fit(model, _digit_batches(processor, digits.samples("train", digits.SIZES["train"])), VIT, "vit")
    _store(model, processor, folder)
    model, processor = _stored(transformers.ViTForImageClassification, folder)
    results = {}
    for split in digits.SPLITS:
        samples = digits.samples(split, digits.SIZES[split])
        labels = classify(model, processor, samples)
        results[split] = sum(label == s.label for label, s in zip(labels, samples, strict=True)) / len(samples)
    _write_card(folder, model, "accuracy, whole split", VIT, results, started)


@torch.no_grad()
def caption(model: transformers.PreTrainedModel, processor: Any, samples: list[Sample]) -> list[str]:
    """The greedy caption of each sample, special tokens removed."""
    captions: list[str] = []
    for start in range(0, len(samples), 100):
        images = [sample.image for sample in samples[start : start + 100]]
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        tokens = model.generate(pixel_values=pixels, max_new_tokens=16, num_beams=1, do_sample=False)
        captions += processor.batch_decode(tokens, skip_special_tokens=True)
    return captions


@torch.no_grad()
def classify(model: transformers.PreTrainedModel, processor: Any, samples: list[Sample]) -> list[int]:
    """The most probable label of each sample."""
    pixels = processor([sample.image for sample in samples], return_tensors="pt")["pixel_values"]
    return model(pixel_values=pixels).logits.argmax(-1).tolist()


def _blip_processor() -> transformers.BlipProcessor:
    words = sorted({w for s in shapes.scenes("train") for text in s.captions for w in text.split()})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    tokenizer = transformers.BertTokenizer(vocab=vocabulary, model_max_length=32)
    image_processor = transformers.BlipImageProcessor(size={"height": shapes.IMAGE_SIZE, "width": shapes.IMAGE_SIZE})
    return transformers.BlipProcessor(image_processor=image_processor, tokenizer=tokenizer)


def _blip_config(tokenizer: transformers.BertTokenizer) -> transformers.BlipConfig:
    size = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision = {**size, "image_size": shapes.IMAGE_SIZE, "patch_size": 8, "initializer_range": 0.02}
    text = {
        **size,
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": size["hidden_size"],
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=size["hidden_size"])


def _vit_config() -> transformers.ViTConfig:
    return transformers.ViTConfig(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=8,
        patch_size=2,
        hidden_dropout_prob=0.1,
        id2label=dict(enumerate(digits.LABELS)),
        label2id={label: i for i, label in enumerate(digits.LABELS)},
    )


def _pixels(image_processor: Any, samples: list[Sample]) -> torch.Tensor:
    """(n, 3, height, width) float32, as the processor gives them at inference."""
    return torch.cat([
        image_processor([s.image for s in samples[i : i + 1000]], return_tensors="pt")["pixel_values"]
        for i in range(0, len(samples), 1000)
    ])


def _shuffled(n: int, recipe: dict[str, Any]) -> Iterator[torch.Tensor]:
    """(batch,) indices below n, epoch after epoch, each newly shuffled; the rest of an epoch is dropped."""
    generator = torch.Generator().manual_seed(recipe["seed"])
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order[: n - n % recipe["batch"]].split(recipe["batch"])


def _caption_batches(processor: Any, samples: list[Sample]) -> Iterator[dict[str, torch.Tensor]]:
    pixels = _pixels(processor.image_processor, samples)
    text = processor.tokenizer([s.texts[0] for s in samples], padding=True, return_tensors="pt")
    ids, mask = text["input_ids"], text["attention_mask"]
    labels = ids.masked_fill(mask == 0, -100)
    for i in _shuffled(len(samples), BLIP):
        yield {"pixel_values": pixels[i], "input_ids": ids[i], "attention_mask": mask[i], "labels": labels[i]}


def _digit_batches(processor: Any, samples: list[Sample]) -> Iterator[dict[str, torch.Tensor]]:
    pixels, labels = _pixels(processor, samples), torch.tensor([s.label for s in samples])
    generator = torch.Generator().manual_seed(VIT["seed"])
    for i in _shuffled(len(samples), VIT):
        turn, grow, *shift = (torch.rand(4, len(i), generator=generator) * 2 - 1).unbind()
        cos, sin, scale = torch.cos(0.2 * turn), torch.sin(0.2 * turn), 1 + 0.12 * grow
        rows = [torch.stack([scale * cos, -scale * sin, 0.2 * shift[0]], -1)]
        rows.append(torch.stack([scale * sin, scale * cos, 0.2 * shift[1]], -1))
        grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), pixels[i].shape, align_corners=False)
        moved = torch.nn.functional.grid_sample(pixels[i], grid, padding_mode="border", align_corners=False)
        yield {"pixel_values": moved, "labels": labels[i]}


def _fit(model: torch.nn.Module, batches: Iterator[dict[str, torch.Tensor]], recipe: dict[str, Any], name: str) -> None:
    """AdamW with warm-up and linear decay, gradients clipped, in bfloat16 autocast; the model is left in eval mode."""
    steps, warmup = recipe["steps"], recipe["warmup"]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe["learning_rate"], weight_decay=recipe["weight_decay"], fused=True
    )
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup))
    )
    model.train()
    started, losses = time.perf_counter(), []
    for step, batch in zip(range(1, steps + 1), batches, strict=False):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["clip"])
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        if step % 200 == 0 or step == steps:
            left = (time.perf_counter() - started) / step * (steps - step)
            log.info("%s: step %d/%d, loss %.4f, %.0f s left", name, step, steps, torch.stack(losses).mean(), left)
            losses.clear()
    model.eval()


def _store(model: transformers.PreTrainedModel, processor: Any, folder: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)


def _stored(kind: type[transformers.PreTrainedModel], folder: Path) -> tuple[transformers.PreTrainedModel, Any]:
    """The model as users get it: stored bfloat16 weights computed in float32, images prepared by PIL."""
    auto = transformers.AutoProcessor if (folder / "processor_config.json").exists() else transformers.AutoImageProcessor
    return kind.from_pretrained(folder, dtype=torch.float32).eval(), auto.from_pretrained(folder, backend="pil")


def _write_card(
    folder: Path, model: torch.nn.Module, metric: str, recipe: dict[str, Any], results: dict[str, float], started: float
) -> None:
    """card.json, and README.md that says the same."""
    card = {
        "model": f"builtin/{folder.name}",
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "metric": metric,
        "results": results,
        "recipe": recipe,
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    log.info("%s: %s", card["model"], results)


BUILDERS: dict[str, Callable[[Path], None]] = {"blip": make_blip, "vit": make_vit}


def main() -> None:
    """Builds the models named on the command line, all of them when none is."""
    parser = argparse.ArgumentParser(prog="python -m idvl.builtin.make", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"among {', '.join(BUILDERS)}")
    names = parser.parse_args().names or list(BUILDERS)
    if unknown := set(names) - set(BUILDERS):
        parser.error(f"no built-in model {', '.join(sorted(unknown))}; choose from {', '.join(BUILDERS)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in names:
        BUILDERS[name](HERE / name)


if __name__ == "__main__":
    main()
