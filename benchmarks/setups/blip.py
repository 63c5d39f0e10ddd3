"""A random BLIP of 100 M parameters, or of ViT-B's size, with a processor for the captions of `shapes`."""

from pathlib import Path

import torch
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil, BlipProcessor

SIDE = 224
# 100 M parameters in all
MEDIUM = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048}


def build(folder: Path, samples: list, *, size: dict | None = MEDIUM, side: int = SIDE) -> None:
    """Save the checkpoint for images of `side` pixels; `size` None is the config's own, 224 M parameters with BERT's
    vocabulary."""
    torch.manual_seed(0)
    words = sorted({word for sample in samples for text in sample.texts for word in text.split()})
    vocabulary = {word: k for k, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    # with its default initializer_range of 1e-10 a random vision tower is constant
    vision = {**(size or {}), "image_size": side, "initializer_range": 0.02}
    text = {}
    if size:
        ids = {"vocab_size": len(vocabulary), "bos_token_id": 2, "sep_token_id": 3}
        text = {**size, "encoder_hidden_size": size["hidden_size"], **ids}
    BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text)).save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": side, "width": side})
    BlipProcessor(images, BertTokenizer(vocab=vocabulary)).save_pretrained(folder)
