"""Prune any PyTorch model in a training loop of your own.

    python examples/own_loop.py

A network learns the sign of x * y while 80 % of its hidden weights become zero.
"""

from pathlib import Path

import torch
from torch import nn

import idvl


def main(steps: int = 1000):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = idvl.Pruner.from_model(model, sparsity=0.8, total_steps=steps)
    for _ in range(steps):
        points = torch.randn(128, 2)
        loss = nn.functional.cross_entropy(model(points), (points.prod(1) > 0).long())
        loss.backward()
        optimizer.step()
        pruner.step()  # after the optimizer's step, before gradients are cleared
        optimizer.zero_grad()
    report, masks = pruner.finish()
    return report, masks, loss.item()


if __name__ == "__main__":
    report, masks, loss = main()
    for name, layer in report["layers"].items():
        print(f"layer {name}: {layer['zeros']:,} of {layer['weights']:,} weights are zero")
    print(f"sparsity {report['total']['sparsity']:.1%}, loss of the last step {loss:.3f}")
    Path("runs").mkdir(exist_ok=True)
    masks.save("runs/own-loop-masks.safetensors")
