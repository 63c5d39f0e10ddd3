"""Prune a transformers model inside the Trainer.

    python examples/trainer.py

A small ViT learns to tell bright images from dark ones while half of its weights become zero.
"""

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import idvl


class Brightness(Dataset):
    """Images of noise, every other one bright."""

    def __len__(self):
        return 512

    def __getitem__(self, i):
        image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(i))
        image += i % 2
        return {"pixel_values": image, "labels": i % 2}


def main(steps: int = 100, folder: str | None = None):
    config = ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4
    )
    model = ViTForImageClassification(config)
    callback = idvl.PruneCallback(sparsity=0.5, criterion="platon")
    arguments = TrainingArguments(
        output_dir=folder or tempfile.mkdtemp(),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        save_strategy="no",
        report_to=[],
    )
    Trainer(model, arguments, train_dataset=Brightness(), callbacks=[callback]).train()
    return callback.result


if __name__ == "__main__":
    report, masks = main()
    print(f"{report['total']['zeros']:,} of {report['total']['weights']:,} weights are zero")
