"""The squared distances of all pairs from one Gram pass, each with a bound on its error that is certain.

Let y be the points minus a common vector, rounded to the working precision (unit roundoff u). Then

    |x_i - x_j|^2 = |y_i|^2 + |y_j|^2 - 2 y_i.y_j + error,   |error| <= inner |y_i| |y_j| + outer (|y_i|^2 + |y_j|^2)

- product: over c features, in any order of summation, it is off by at most gamma_c |y_i| |y_j| with
  gamma_c = c u / (1 - c u) (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Pieces are added in
  float64; by Cauchy-Schwarz over m pieces the whole is off by gamma_c + (1 + gamma_c) m 2^-53 times |y_i| |y_j|.
- centring: a common vector changes no distance; rounding moves each point by at most u |y|, hence a squared distance
  by at most (2 u + u^2) (|y_i| + |y_j|)^2.
- the norms and the sum are float64 (m + c more roundings), and the result is kept in the working precision.

It does not know neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor

from idvl.geometry.rows import DenseRows, Rows

# columns of one product: the bound grows with it, the cost of adding the products up shrinks
PRODUCT_COLUMNS = 1024
# columns of a panel of the triangle: the narrower, the less is computed twice; a multiple of the kernels' tiles
PANEL_COLUMNS = 256
# rows whose intervals are worked on at a time, small enough for a cache
BLOCK_ROWS = 128
# bytes of squared distances that are kept; above it a matrix is multiplied again, a panel of PANEL_BYTES at a time
STORED_BYTES = 512 * 2**20
PANEL_BYTES = 128 * 2**20

Block = tuple[Tensor, Tensor, Tensor]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products in the precision of their operands: no TF32, no bfloat16, no autocast."""
    cuda, cpu = torch.backends.cuda, torch.backends.mkldnn
    knobs = [cuda.matmul, torch.backends.cudnn.conv, cpu.matmul, cpu.conv]
    before = [knob.fp32_precision for knob in knobs]
    for knob in knobs:
        knob.fp32_precision = "ieee"
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for knob, value in zip(knobs, before, strict=True):
            knob.fp32_precision = value


class SquaredDistances:
    """Squared distances and error bounds, from one pass over `rows` in `dtype` (float32 or float64).

    `echoes[k]` is the point that chunk row n + k repeats; `noise` the largest squared distance between the two, 0.0
    without echoes. `finite`: there is no NaN or inf among the points. `trusted`: nothing overflowed, the bounds hold.
    """

    def __init__(self, rows: Rows, dtype: torch.dtype, echoes: tuple[int, ...] = ()):
        self.n, self.dtype, self._rows = rows.n, dtype, rows
        self.stored = not isinstance(rows, DenseRows) or self.n**2 * dtype.itemsize <= STORED_BYTES
        sums: _Sums | None = None
        for chunk in rows.chunks():
            sums = sums or _Sums(self.n, dtype, echoes, chunk.device, self.stored)
            sums.add(chunk)
        if sums is None:
            raise ValueError("rows gave no chunk")
        with full_precision(sums.device):
            self._finish(sums)

    def _finish(self, sums: _Sums) -> None:
        totals = self._rows.reduce(torch.cat([sums.norms, sums.counts, sums.noise]))
        self.norms, (pieces, broken) = totals[: self.n], totals[self.n : self.n + 2].tolist()
        self.noise = float(totals[self.n + 2 :].nan_to_num(posinf=0.0).max())
        self.finite = not broken
        limits = torch.finfo(self.dtype)
        # an overflowing product would need norms beyond this
        self.trusted = self.finite and float(self.norms.max()) < limits.max / 16
        self._bound(limits, pieces)
        self._squares = None
        if self.stored:
            self._squares = torch.empty(self.n, self.n, dtype=self.dtype, device=sums.device)
            for panel in sums.panels:
                self._keep(self._rows.reduce(panel))

    def _keep(self, panel: Tensor) -> None:
        """Panel (b, b - a) of the Gram matrix -> squared distances in columns [a, b) and, mirrored, rows [a, b)."""
        stop = panel.shape[0]
        start = stop - panel.shape[1]
        panel.mul_(-2).add_(self.norms[start:stop]).add_(self.norms[:stop, None])
        self._squares[:stop, start:stop] = panel
        self._squares[start:stop, :start] = self._squares[:start, start:stop].T

    def _bound(self, limits: torch.finfo, pieces: float) -> None:
        unit, unit64 = limits.eps / 2, 2.0**-53
        columns = min(PRODUCT_COLUMNS, self._rows.width)
        gamma = columns * unit / (1 - columns * unit)
        inner = 2 * (gamma + (1 + gamma) * pieces * unit64)
        outer = 16 * unit + (columns + pieces + 32) * unit64
        # a part in a thousand for the rounding of the bound itself; the last term for what underflows
        self.inner, self.outer = 1.001 * inner, 1.001 * outer
        self.least = 8.0 * self._rows.width * limits.tiny

    def blocks(self, rows: Tensor, columns: Tensor) -> Iterator[Block]:
        """(ids (b,), squares (b, m), errors (b, m)) of the points `rows` against `columns`, ids in ascending order.

        To be read within `full_precision`.
        """
        # term by term, each rounded the same on every processor, as a product's sum is not: what is measured follows
        # from these bounds, and processes on different machines have to measure the same
        lengths = self.norms.sqrt()
        scaled, own = (self.inner * lengths).to(self.dtype), (self.outer * self.norms + self.least).to(self.dtype)
        lengths, other = lengths[columns].to(self.dtype), (self.outer * self.norms)[columns].to(self.dtype)
        everything = len(columns) == self.n
        step = BLOCK_ROWS if self.stored else max(PANEL_BYTES // (8 * self.n), 1)
        for ids in rows.split(step):
            panel = self._panel(ids, columns, everything)
            for part, squares in zip(ids.split(BLOCK_ROWS), panel.split(BLOCK_ROWS), strict=True):
                yield part, squares, torch.outer(scaled[part], lengths).add_(own[part, None]).add_(other)

    def _panel(self, ids: Tensor, columns: Tensor, everything: bool) -> Tensor:
        """Squared distances (b, m), a copy."""
        if self.stored:
            panel = self._squares[ids]
            return panel if everything else panel[:, columns]
        panel = torch.zeros(len(ids), len(columns), dtype=torch.float64, device=ids.device)
        buffer = torch.empty(self.n * PRODUCT_COLUMNS, dtype=self.dtype, device=ids.device)
        for chunk in self._rows.chunks():
            for y, _ in centred(chunk[: self.n], buffer):
                panel += product(y[ids], y[columns])
        return panel.mul_(-2).add_(self.norms[columns]).add_(self.norms[ids, None]).to(self.dtype)


class _Sums:
    """What a Gram pass adds up: squared norms (n,), the triangle in panels, the distance of each echo."""

    def __init__(self, n: int, dtype: torch.dtype, echoes: tuple[int, ...], device: torch.device, stored: bool):
        self.n, self.dtype, self.device = n, dtype, device
        self.echoes = torch.tensor(echoes, dtype=torch.long, device=device)
        self.norms = torch.zeros(n, dtype=torch.float64, device=device)
        self.noise = torch.zeros(max(len(echoes), 1), dtype=torch.float64, device=device)
        # pieces added, pieces with a NaN or inf
        self.counts = torch.zeros(2, dtype=torch.float64, device=device)
        edges = [*range(0, n, PANEL_COLUMNS), n] if stored else []
        spans = [*pairwise(edges)]
        # rows [0, b), columns [a, b)
        self.panels = [torch.zeros(b, b - a, dtype=torch.float64, device=device) for a, b in spans]
        self._buffer = torch.empty(n * PRODUCT_COLUMNS, dtype=dtype, device=device)

    def add(self, chunk: Tensor) -> None:
        """Add the columns of this chunk (n + echoes, c)."""
        with full_precision(self.device):
            if len(self.echoes):
                echo = chunk[self.n : self.n + len(self.echoes)].double()
                self.noise += (echo - chunk[self.echoes].double()).square().sum(1)
            for y, finite in centred(chunk[: self.n], self._buffer):
                self.counts += torch.tensor([1.0, not finite], dtype=torch.float64, device=self.device)
                self.norms += torch.linalg.vector_norm(y, dim=1, dtype=torch.float64).square()
                for panel in self.panels:
                    stop = len(panel)
                    panel += product(y[:stop], y[stop - panel.shape[1] : stop])


def product(left: Tensor, right: Tensor) -> Tensor:
    """left (m, c) times right (n, c) transposed: (m, n).

    float32 on a CPU goes through a convolution of one pixel: its kernels (oneDNN) reach the processor's peak on every
    make, those of a matrix product (MKL) half of it on AMD's.
    """
    if left.device.type != "cpu" or left.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return left @ right.T
    image = left.T.unflatten(1, (1, 1, -1)).permute(1, 0, 2, 3)
    kernels = right.unflatten(1, (-1, 1, 1))
    return torch.conv2d(image, kernels)[0, :, 0].T


def centred(points: Tensor, buffer: Tensor) -> Iterator[tuple[Tensor, bool]]:
    """Columns of the points (n, c) minus their mean, PRODUCT_COLUMNS at a time, in the buffer; and are they finite?"""
    wide = torch.promote_types(points.dtype, buffer.dtype)
    for part in points.split(PRODUCT_COLUMNS, dim=1):
        if part.shape[1]:
            mean = part.mean(0, dtype=wide)
            finite = bool(mean.isfinite().all()) or bool(part.isfinite().all())
            yield torch.sub(part, mean, out=buffer[: part.numel()].view(part.shape)), finite
