"""The words that a pruning run is asked for in, spelled once; the first is the default. They mean nothing here."""

from __future__ import annotations

from typing import Literal

Criterion = Literal["platon", "magnitude", "gradient"]
IdWeight = Literal["multiply", "divide", "none"]
MissingId = Literal["median", "refuse"]
Allocation = Literal["global", "uniform"]
ScheduleName = Literal["cubic", "linear", "one-shot"]
Compat = Literal["none", "icml24"]
Precision = Literal["no", "bf16", "fp16"]
Smoothing = Literal["float32", "bfloat16"]
Texts = Literal["any", "first"]
