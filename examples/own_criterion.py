"""Prune by a criterion of your own.

    python examples/own_criterion.py

Movement (Sanh et al., 2020) keeps weights that training moves away from zero: its score is the sum of -w * grad over
steps. It may be negative, and a criterion's score may not: the exponential keeps the order.
"""

import torch
from torch import nn

import idvl


class Movement:
    needs = frozenset({"gradient"})
    compares = "scope"
    bytes_per_weight = 4

    def __init__(self, rate: float = 1.0):
        self.rate, self.sums = rate, {}

    def observe(self, name, weight, grad):
        moved = -(weight.detach() * grad).float()
        self.sums[name] = self.sums[name] + moved if name in self.sums else moved

    def score(self, name, weight, grad):
        return torch.exp(self.rate * self.sums[name])

    def state_dict(self):
        return dict(self.sums)

    def load_state_dict(self, state):
        self.sums = dict(state)


def main(steps: int = 500):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    pruner = idvl.Pruner.from_model(model, sparsity=0.7, total_steps=steps, criterion=Movement())
    for _ in range(steps):
        points = torch.randn(64, 8)
        loss = nn.functional.mse_loss(model(points).squeeze(1), points[:, 0] - points[:, 1])
        loss.backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    return model, *pruner.finish()


if __name__ == "__main__":
    model, report, _ = main()
    print(f"{report['total']['zeros']} of {report['total']['weights']} weights are zero; weights left of each input:")
    print((model[0].weight != 0).sum(0).tolist(), "(the function uses the first two)")
