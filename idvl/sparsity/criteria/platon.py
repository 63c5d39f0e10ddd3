"""PLATON: the sensitivity |w g| smoothed over steps, times how uncertain it is.

Zhang et al., 2022, section 3: with m the mean sensitivity over a window of steps, at each window's end

    I <- beta1 I + (1 - beta1) m        U <- beta2 U + (1 - beta2) |m - I|        score = I U

One state for the whole run. It knows nothing of schedules: a window is a number of observations.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from idvl.errors import UsageError, quoted

# I U of small gradients leaves the range of float32, where scores become equal; a common factor changes no order
SCALE = 2.0**64
# elements at a time: three float32 buffers stay in a core's cache
CHUNK = 1 << 17
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Platon:
    """Three tensors a weight: the open window's sum (float32), and I and U.

    With smoothing_dtype "bfloat16" I and U take 2 bytes each, 8 bytes a weight in all; an average then stands still
    when a window differs from it by less than a few percent. Until the first window is closed, the score is what it
    would be if the window were closed now: in the order of the mean sensitivity so far.
    """

    needs = frozenset({"gradient"})
    compares = "scope"

    def __init__(
        self, beta1: float = 0.85, beta2: float = 0.95, window: int = 10, smoothing_dtype: str = "float32"
    ) -> None:
        for key, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0 < value < 1:
                raise UsageError(f"{key} must lie between 0 and 1, not {value}")
        if window < 1:
            raise UsageError(f"window must be at least 1 step, not {window}")
        if smoothing_dtype not in DTYPES:
            raise UsageError(f"smoothing_dtype must be one of {', '.join(DTYPES)}, not {quoted(smoothing_dtype)}")
        self.beta1, self.beta2, self.window = beta1, beta2, window
        self._dtype = DTYPES[smoothing_dtype]
        self.bytes_per_weight = torch.float32.itemsize + 2 * self._dtype.itemsize
        self._seen: dict[str, int] = {}
        self._sums: dict[str, Tensor] = {}
        self._importance: dict[str, Tensor] = {}
        self._uncertainty: dict[str, Tensor] = {}

    @torch.no_grad()
    def observe(self, name: str, weight: Tensor, grad: Tensor) -> None:
        if name not in self._seen:
            self._allocate(name, weight)
        total = self._sums[name]
        first = self._seen[name] % self.window == 0
        buffer = None if first else torch.empty(min(CHUNK, total.numel()), device=total.device)
        for w, g, s in _chunks(weight.detach(), grad, total):
            if buffer is None:
                torch.mul(w.float(), g, out=s).abs_()
            else:
                s.add_(torch.mul(w.float(), g, out=buffer[: len(s)]).abs_())
        self._seen[name] += 1
        if self._seen[name] % self.window == 0:
            self._close(name, self.window)

    @torch.no_grad()
    def score(self, name: str, weight: Tensor, grad: Tensor | None) -> Tensor:
        if name not in self._seen:
            raise ValueError(f"{name} was never observed")
        if self._seen[name] < self.window:
            # I = (1 - beta1) m and U = (1 - beta2) beta1 m, beginning from zero
            mean = self._sums[name] / self._seen[name]
            return (mean * (SCALE * (1 - self.beta1) * (1 - self.beta2) * self.beta1)).mul_(mean)
        return (self._importance[name].float() * SCALE).mul_(self._uncertainty[name])

    def state_dict(self) -> dict[str, Tensor]:
        state = {}
        for name, seen in self._seen.items():
            state[f"{name}.seen"] = torch.tensor(seen)
            state[f"{name}.sum"] = self._sums[name]
            state[f"{name}.importance"] = self._importance[name]
            state[f"{name}.uncertainty"] = self._uncertainty[name]
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        names = [key.removesuffix(".seen") for key in state if key.endswith(".seen")]
        self._seen = {name: int(state[f"{name}.seen"]) for name in names}
        self._sums = {name: state[f"{name}.sum"].clone() for name in names}
        self._importance = {name: state[f"{name}.importance"].to(self._dtype, copy=True) for name in names}
        self._uncertainty = {name: state[f"{name}.uncertainty"].to(self._dtype, copy=True) for name in names}

    def _allocate(self, name: str, weight: Tensor) -> None:
        self._seen[name] = 0
        self._sums[name] = torch.zeros_like(weight, dtype=torch.float32, memory_format=torch.contiguous_format)
        self._importance[name] = torch.zeros_like(self._sums[name], dtype=self._dtype)
        self._uncertainty[name] = torch.zeros_like(self._sums[name], dtype=self._dtype)

    def _close(self, name: str, steps: int) -> None:
        """Smooth the window's mean into I and its distance to the new I into U."""
        for s, i, u in _chunks(self._sums[name], self._importance[name], self._uncertainty[name]):
            mean = s.div_(steps)
            importance = i.float().lerp_(mean, 1 - self.beta1)
            u.copy_(u.float().lerp_(mean.sub_(importance).abs_(), 1 - self.beta2))
            i.copy_(importance)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors, flat, side by side in pieces that stay in the cache."""
    return zip(*(tensor.reshape(-1).split(CHUNK) for tensor in tensors), strict=True)


CRITERION = Platon
