"""Trains the built-in models and writes weights and cards: `python -m idvl.builtin.make [blip] [vit]`.

With --output it trains one like them into another folder: other seed, steps, images or precision. `fashion`, a ViT for
fashion-mnist, ships with no release and is trained in this way alone.

A recipe fixes data, steps and seed; what a card reports is measured here, from the weights as they are stored.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from idvl.builtin import cards
from idvl.builtin.fitting import FitRecipe, fit, shuffled
from idvl.data import digits, shapes
from idvl.data.catalog import CATALOG
from idvl.data.samples import Sample, select

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
# what may differ in a model that does not ship
CHANGES = {"seed": int, "steps": int, "images": int, "precision": str}

BLIP = FitRecipe(steps=12_000, batch=64, images=64_000, warmup=500, weight_decay=0.01)
VIT = FitRecipe(steps=4_000, batch=64, images=digits.SIZES["train"], warmup=200, weight_decay=0.05)
FASHION = FitRecipe(
    steps=10_000, batch=128, images=60_000, warmup=500, weight_decay=0.05, learning_rate=1e-3, precision="float32"
)


def make_blip(folder: Path, recipe: FitRecipe) -> None:
    """A BlipForConditionalGeneration that gives shapes/train their canonical captions."""
    started = time.perf_counter()
    torch.manual_seed(recipe.seed)
    processor = _blip_processor()
    model = transformers.BlipForConditionalGeneration(_blip_config(processor.tokenizer))
    pool = shapes.samples("train", recipe.images, recipe.seed)
    log.info("blip: %d images drawn in %.0f s", len(pool), time.perf_counter() - started)
    fit(model, _caption_batches(processor, pool, recipe), recipe, "blip")
    _store(model, processor, folder)
    minutes = (time.perf_counter() - started) / 60
    model, processor = stored(transformers.BlipForConditionalGeneration, folder)
    results = {}
    for split in shapes.SPLITS:
        samples = shapes.samples(split, seed=1)
        captions = caption(model, processor, samples)
        correct = sum(text == sample.texts[0] for text, sample in zip(captions, samples, strict=True))
        results[split] = {"samples": len(samples), "correct": correct}
    summary = "It captions images of two coloured shapes: 'a small red circle left of a large blue square'."
    metric = "Captions equal to the canonical one, word by word, by greedy decoding"
    facts = {"dataset": "shapes", "summary": summary, "metric": metric, "results": results}
    _card(folder, model, recipe, "blip", minutes=minutes, **facts)


def make_vit(folder: Path, recipe: FitRecipe) -> None:
    """A ViTForImageClassification of digits/train, which it sees slightly moved, turned and scaled."""
    started = time.perf_counter()
    torch.manual_seed(recipe.seed)
    processor = transformers.ViTImageProcessorPil(size={"height": 8, "width": 8}, resample=2)
    model = transformers.ViTForImageClassification(_vit_config())
    fit(model, _class_batches(processor, digits.samples("train", recipe.images), recipe), recipe, "vit")
    _store(model, processor, folder)
    minutes = (time.perf_counter() - started) / 60
    model, processor = stored(transformers.ViTForImageClassification, folder)
    results = {}
    for split in digits.SPLITS:
        samples = digits.samples(split, digits.SIZES[split])
        labels = classify(model, processor, samples)
        correct = sum(label == sample.label for label, sample in zip(labels, samples, strict=True))
        results[split] = {"samples": len(samples), "correct": correct}
    summary = "It recognises handwritten digits of 8 x 8 pixels."
    facts = {"dataset": "digits", "summary": summary, "metric": "Accuracy", "results": results}
    _card(folder, model, recipe, "vit", minutes=minutes, **facts)


def make_fashion(folder: Path, recipe: FitRecipe, data_dir: Path | None = None) -> None:
    """A ViTForImageClassification of fashion-mnist's train split, from `data_dir` or, without it, from the Hub.

    It sees the photographs slightly moved and turned, half of them mirrored.
    """
    started = time.perf_counter()
    torch.manual_seed(recipe.seed)
    side = {"height": 28, "width": 28}
    processor = transformers.ViTImageProcessorPil(size=side, resample=2, image_mean=[0.286] * 3, image_std=[0.353] * 3)
    model = transformers.ViTForImageClassification(_fashion_config())
    chosen = partial(select, "fashion-mnist", data_dir=data_dir, distinct=False)
    samples = chosen(split="train", n=recipe.images).samples
    fit(model, _class_batches(processor, samples, recipe, strength=0.5, mirrored=True), recipe, "fashion")
    _store(model, processor, folder)
    minutes = (time.perf_counter() - started) / 60
    model, processor = stored(transformers.ViTForImageClassification, folder)
    samples = chosen(split="test").samples
    correct = sum(map(int.__eq__, classify(model, processor, samples), (sample.label for sample in samples)))
    results = {"test": {"samples": len(samples), "correct": correct}}
    summary = "It tells ten kinds of clothes apart on photographs of 28 x 28 grey pixels."
    facts = {"dataset": "fashion-mnist", "summary": summary, "metric": "Accuracy", "results": results}
    _card(folder, model, recipe, "fashion", minutes=minutes, **facts)


@torch.no_grad()
def caption(model: transformers.PreTrainedModel, processor: Any, samples: list[Sample]) -> list[str]:
    """The greedy caption of each sample, without special tokens."""
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
    return model(pixel_values=_pixels(processor, samples)).logits.argmax(-1).tolist()


def stored(kind: type[transformers.PreTrainedModel], folder: Path) -> tuple[transformers.PreTrainedModel, Any]:
    """Model and processor as users get them: stored bfloat16 weights in float32, images prepared by PIL."""
    whole = (folder / "processor_config.json").exists()
    auto = transformers.AutoProcessor if whole else transformers.AutoImageProcessor
    return kind.from_pretrained(folder, dtype=torch.float32).eval(), auto.from_pretrained(folder, backend="pil")


def _blip_processor() -> transformers.BlipProcessor:
    words = sorted({word for scene in shapes.scenes("train") for text in scene.captions for word in text.split()})
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    tokenizer = transformers.BertTokenizer(vocab=vocabulary, model_max_length=32)
    side = {"height": shapes.IMAGE_SIZE, "width": shapes.IMAGE_SIZE}
    image_processor = transformers.BlipImageProcessorPil(size=side)
    return transformers.BlipProcessor(image_processor=image_processor, tokenizer=tokenizer)


def _blip_config(tokenizer: transformers.BertTokenizer) -> transformers.BlipConfig:
    """3 + 3 layers of width 128. Vision starts at 0.02: with BLIP's own 1e-10 it would not learn from scratch."""
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


def _fashion_config() -> transformers.ViTConfig:
    labels = CATALOG["fashion-mnist"].classes
    return transformers.ViTConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=28,
        patch_size=7,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )


def _pixels(image_processor: Any, samples: list[Sample]) -> torch.Tensor:
    """(n, 3, height, width) float32, as the processor gives them at inference."""
    parts = [samples[start : start + 1000] for start in range(0, len(samples), 1000)]
    return torch.cat([image_processor([s.image for s in part], return_tensors="pt")["pixel_values"] for part in parts])


def _caption_batches(processor: Any, samples: list[Sample], recipe: FitRecipe) -> Iterator[dict[str, torch.Tensor]]:
    pixels = _pixels(processor.image_processor, samples)
    text = processor.tokenizer([sample.texts[0] for sample in samples], padding=True, return_tensors="pt")
    ids, mask = text["input_ids"], text["attention_mask"]
    labels = ids.masked_fill(mask == 0, -100)
    for i in shuffled(len(samples), recipe):
        yield {"pixel_values": pixels[i], "input_ids": ids[i], "attention_mask": mask[i], "labels": labels[i]}


def _class_batches(
    processor: Any, samples: list[Sample], recipe: FitRecipe, *, strength: float = 1, mirrored: bool = False
) -> Iterator[dict[str, torch.Tensor]]:
    """Images turned, scaled and moved by up to `strength` times 0.2 rad, 12 % and a tenth; half of them `mirrored`."""
    pixels, labels = _pixels(processor, samples), torch.tensor([sample.label for sample in samples])
    generator = torch.Generator().manual_seed(recipe.seed)
    for i in shuffled(len(samples), recipe):
        turn, grow, right, down = (strength * (torch.rand(4, len(i), generator=generator) * 2 - 1)).unbind()
        cos, sin, scale = torch.cos(0.2 * turn), torch.sin(0.2 * turn), 1 + 0.12 * grow
        upper = torch.stack([scale * cos, -scale * sin, 0.2 * right], -1)
        if mirrored:
            upper = upper * (torch.randint(0, 2, (len(i), 1), generator=generator) * 2 - 1)
        lower = torch.stack([scale * sin, scale * cos, 0.2 * down], -1)
        grid = torch.nn.functional.affine_grid(torch.stack([upper, lower], 1), pixels[i].shape, align_corners=False)
        moved = torch.nn.functional.grid_sample(pixels[i], grid, padding_mode="border", align_corners=False)
        yield {"pixel_values": moved, "labels": labels[i]}


def _store(model: transformers.PreTrainedModel, processor: Any, folder: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written for its owner alone, but it ships to everyone


def _card(
    folder: Path, model: transformers.PreTrainedModel, recipe: FitRecipe, name: str, *, minutes: float, **facts: Any
) -> None:
    shipped = folder.parent == HERE
    card = {
        "model": f"builtin/{folder.name}" if shipped else folder.name,
        "class": type(model).__name__,
        "parameters": model.num_parameters(),
        **facts,
        "recipe": asdict(recipe),
        "minutes": round(minutes, 1),
        "threads": torch.get_num_threads(),
    }
    cards.write(folder, card, name if shipped else f"{name} --output {folder.name}")
    log.info("%s: %s", card["model"], facts["results"])


BUILDERS: dict[str, tuple[Callable[[Path, FitRecipe], None], FitRecipe]] = {
    "blip": (make_blip, BLIP),
    "vit": (make_vit, VIT),
    "fashion": (make_fashion, FASHION),
}
SHIPPED = ("blip", "vit")


def main() -> None:
    """Builds the models named on the command line, those that ship when none is."""
    parser = argparse.ArgumentParser(prog="python -m idvl.builtin.make", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"among {', '.join(BUILDERS)}")
    parser.add_argument("--output", type=Path, metavar="DIR", help="train one model into this folder instead")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="fashion: a folder with the authors' files")
    for name, kind in CHANGES.items():
        choices = ("bfloat16", "float32") if kind is str else None
        parser.add_argument(f"--{name}", type=kind, choices=choices, help=f"with --output: another {name}")
    arguments = parser.parse_args()
    names = arguments.names or list(SHIPPED)
    if unknown := set(names) - set(BUILDERS):
        parser.error(f"no built-in model {', '.join(sorted(unknown))}; choose from {', '.join(BUILDERS)}")
    changes = {name: value for name in CHANGES if (value := getattr(arguments, name)) is not None}
    if arguments.output is None and (changes or {*names} - {*SHIPPED}):
        parser.error("the models that ship are made as their cards say: add --output DIR")
    if arguments.output is not None and len(names) != 1:
        parser.error("--output takes one model: name it")
    if arguments.data_dir is not None and names != ["fashion"]:
        parser.error("--data-dir is for fashion: the other models' data are built in")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in names:
        build, recipe = BUILDERS[name]
        if name == "fashion":
            build = partial(build, data_dir=arguments.data_dir)
        changed = replace(recipe, **changes)
        build(arguments.output or HERE / name, replace(changed, warmup=min(recipe.warmup, changed.steps // 8)))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing of this model is kept, the same command makes it from the beginning\n")
        sys.exit(130)
