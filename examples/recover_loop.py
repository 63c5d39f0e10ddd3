"""Recover a pruned PyTorch model in a training loop of your own, every zero kept.

    python examples/recover_loop.py

A network that tells the sign of x * y loses 90 % of its hidden weights at once. Masked LoRA trains the rest.
"""

import torch
from torch import nn

import idvl


def batch():
    points = torch.randn(256, 2)
    return points, (points.prod(1) > 0).long()


def train(model, steps, rate):
    """Train what requires a gradient; the accuracy on fresh points."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0)
    for _ in range(steps):
        points, labels = batch()
        nn.functional.cross_entropy(model(points), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return accuracy(model)


@torch.no_grad()
def accuracy(model):
    points, labels = batch()
    return (model(points).argmax(1) == labels).float().mean().item()


def main(steps: int = 300):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    train(model, steps, 1e-2)
    pruner = idvl.Pruner.from_model(model, sparsity=0.9, criterion="magnitude", schedule="one-shot", total_steps=1)
    pruner.step()
    masks = pruner.finish().masks
    pruned = accuracy(model)
    idvl.attach_lora(model, masks, rank=2)  # from here on, A and B alone require a gradient
    recovered = train(model, steps, 1e-2)
    idvl.merge_lora(model)  # plain layers again, with the same zeros
    return model, masks, pruned, recovered


if __name__ == "__main__":
    model, masks, pruned, recovered = main()
    print(f"accuracy {pruned:.1%} pruned, {recovered:.1%} recovered")
    for name in masks.shapes:
        zeros = int((model.get_submodule(name).weight == 0).sum())
        print(f"layer {name}: {zeros:,} zeros, {masks.zeros[name]:,} of them pruned")
