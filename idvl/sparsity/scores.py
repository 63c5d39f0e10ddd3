"""Weighted scores: a criterion's score of every weight, times a factor of the weight's layer.

It knows tensors by name, and nothing of masks or budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from idvl.errors import RunError, UsageError, first_line, quoted
from idvl.sparsity import threshold
from idvl.sparsity.criteria import Criterion


class Scores:
    """The scores that `criterion` gives to `layers`, each layer's times its factor. UsageError as in `set_factors`."""

    def __init__(self, criterion: Criterion, layers: Iterable[str], factors: Mapping[str, float]) -> None:
        self.criterion, self._layers = criterion, tuple(layers)
        self.set_factors(factors)

    def set_factors(self, factors: Mapping[str, float]) -> None:
        """Take other factors from the next score on. UsageError for a layer without one that is above 0."""
        if missing := [name for name in self._layers if name not in factors]:
            raise UsageError(f"{len(missing)} layers have no factor, {missing[0]} first")
        self.factors = {name: float(factors[name]) for name in self._layers}
        if wrong := [name for name, factor in self.factors.items() if not 0 < factor < float("inf")]:
            raise UsageError(f"the factor of {wrong[0]} must be above 0, not {self.factors[wrong[0]]}")

    def observe(self, name: str, tensor: nn.Parameter) -> None:
        """Show the criterion a tensor after an optimizer step. RunError where it needs a gradient that is not there."""
        if "gradient" in self.criterion.needs and tensor.grad is None:
            raise RunError(
                f"{name} has no gradient: prune before optimizer.zero_grad(); where the loss does not reach the layer, "
                "leave it out of the scope, or use magnitude"
            )
        with failing_at(name, self.criterion):
            self.criterion.observe(name, tensor, tensor.grad)

    def of(self, name: str, tensor: nn.Parameter, layer: str) -> Tensor:
        """The weighted scores of a tensor of `layer`. RunError as in `checked`."""
        with failing_at(name, self.criterion):
            scores = self.criterion.score(name, tensor, tensor.grad)
        scores = checked(scores, name, tensor, self.criterion)
        if (factor := self.factors[layer]) != 1:
            scores.mul_(factor)
        return scores

    def state_dict(self) -> dict[str, Tensor]:
        """The criterion's state, by reference, and the factors."""
        state = {f"criterion.{key}": value for key, value in self.criterion.state_dict().items()}
        factors = {name: torch.tensor(factor, dtype=torch.float64) for name, factor in self.factors.items()}
        return state | {f"factor.{name}": factor for name, factor in factors.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the state of scores of the same layers and criterion."""
        self.factors = {name: state[f"factor.{name}"].item() for name in self._layers}
        part = "criterion."
        self.criterion.load_state_dict({key.removeprefix(part): state[key] for key in state if key.startswith(part)})


@contextmanager
def failing_at(name: str, criterion: object) -> Iterator[None]:
    """Inside, what a criterion raises at a tensor becomes a RunError that names both."""
    try:
        yield
    except (UsageError, RunError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the code of others may raise anything
        reason = f"{type(error).__name__}: {first_line(error):.200}"
        raise RunError(f"the criterion {_name(criterion)} fails at {name}: {reason}") from error


def checked(scores: object, name: str, weight: Tensor, criterion: object) -> Tensor:
    """A criterion's scores of a weight, contiguous. RunError, naming both, for scores that break the contract."""
    expected = (torch.float32, weight.shape, weight.device)
    if not isinstance(scores, Tensor) or (scores.dtype, scores.shape, scores.device) != expected:
        value = _form(scores.dtype, scores.shape, scores.device) if isinstance(scores, Tensor) else quoted(scores)
        raise RunError(f"the criterion {_name(criterion)} must score {name} with {_form(*expected)}, not {value}")
    scores = scores.contiguous()
    with failing_at(name, criterion):
        threshold.check(name, scores)
    return scores


def _name(criterion: object) -> str:
    return f"{type(criterion).__module__}.{type(criterion).__qualname__}"


def _form(dtype: torch.dtype, shape: torch.Size, device: torch.device) -> str:
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)} on {device}"
