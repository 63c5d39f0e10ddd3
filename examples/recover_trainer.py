"""Recover a pruned transformers model inside the Trainer, every zero kept.

    python examples/recover_trainer.py

A small ViT that is pruned to 2:4 learns, with masked LoRA on its layers, to tell bright images from dark ones.
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
    torch.manual_seed(0)
    model = ViTForImageClassification(config)
    pruner = idvl.Pruner.from_model(
        model, sparsity=0.5, criterion="magnitude", structure="2:4", allocation="uniform", schedule="one-shot",
        total_steps=1,
    )  # fmt: skip
    pruner.step()
    masks = pruner.finish().masks
    idvl.attach_lora(model, masks, rank=4)
    arguments = TrainingArguments(
        output_dir=folder or tempfile.mkdtemp(),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=1e-2,
        save_strategy="no",
        report_to=[],
    )
    trainer = Trainer(model, arguments, train_dataset=Brightness())
    trainer.train()
    idvl.merge_lora(model)
    masks.verify({name: model.get_submodule(name).weight for name in masks.shapes}, "2:4")
    return model, masks, trainer.state.log_history[-1]["train_loss"]


if __name__ == "__main__":
    model, masks, loss = main()
    model.save_pretrained("runs/recovered-vit")  # plain transformers opens it
    print(f"mean loss {loss:.3f}; {sum(masks.zeros.values()):,} of {masks.total:,} weights are zero")
