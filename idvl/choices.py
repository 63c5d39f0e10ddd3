"""Allowed values of settings, spelled once; the first is the default, where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

DEFAULT_CRITERION = "platon"
_SPARSITY, _TASKS = (Path(__file__).parent / room for room in ("sparsity", "tasks"))
# a criterion, an allocation or a task is a file: listed, not imported
_CRITERIA = {path.stem for path in (_SPARSITY / "criteria").glob("[a-z]*.py")}
_ALLOCATIONS = {path.stem for path in (_SPARSITY / "allocation").glob("[a-z]*.py")}

Criterion = Literal[DEFAULT_CRITERION, *sorted(_CRITERIA - {DEFAULT_CRITERION})]
IdWeight = Literal["multiply", "divide", "none"]
MissingId = Literal["median", "refuse"]
Allocation = Literal["global", *sorted(_ALLOCATIONS - {"global"})]
# what an allocation reads of each layer, or of each block: the power of its intrinsic dimension; where it stands in its
# stack of blocks, 0 in the first and 1 in the last; how much the loss changes with its weights; its share of outliers
# among Wanda's scores; the exponent of its spectrum's tail; its density in a file; that under a threshold on
# magnitudes
Signal = Literal["dimension", "depth", "gradient", "outliers", "spectrum", "file", "magnitude"]
By = Literal["layer", "block"]
EcoflapOrder = Literal["gradient-norm", "first", "zeroth"]
Calibration = Literal["sequential", "dense"]
Within = Literal["row", "layer"]
Repair = Literal["none", "obs", "reconstruct"]
TokensFrom = Literal["all", "image", "text"]
ScheduleName = Literal["cubic", "linear", "one-shot"]
Compat = Literal["none", "icml24"]
RecoveryMethod = Literal["lora", "full", "biases"]
RecoveryCompat = Literal["none", "ressa"]
Precision = Literal["no", "bf16", "fp16"]
Task = Literal[*sorted(path.stem for path in _TASKS.glob("[a-z]*.py"))]
Smoothing = Literal["float32", "bfloat16"]
Texts = Literal["any", "first", "all"]
BeamLength = Literal["whole"]
Augmentation = Literal["blip"]
