"""Allowed values of the pruning settings, spelled once; the first is the default."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

DEFAULT_CRITERION = "platon"
_SPARSITY = Path(__file__).parent / "sparsity"
# a criterion or an allocation is a file: listed, not imported
_CRITERIA = {path.stem for path in (_SPARSITY / "criteria").glob("[a-z]*.py")}
_ALLOCATIONS = {path.stem for path in (_SPARSITY / "allocation").glob("[a-z]*.py")}

Criterion = Literal[DEFAULT_CRITERION, *sorted(_CRITERIA - {DEFAULT_CRITERION})]
IdWeight = Literal["multiply", "divide", "none"]
MissingId = Literal["median", "refuse"]
Allocation = Literal["global", *sorted(_ALLOCATIONS - {"global"})]
Calibration = Literal["sequential", "dense"]
Within = Literal["row", "layer"]
Repair = Literal["none", "obs"]
ScheduleName = Literal["cubic", "linear", "one-shot"]
Compat = Literal["none", "icml24"]
Precision = Literal["no", "bf16", "fp16"]
Smoothing = Literal["float32", "bfloat16"]
Texts = Literal["any", "first"]
