"""What a run leaves behind: its folder, provenance and metrics.

A folder belongs to one process at a time, and remembers which files and folders the run wrote, so that overwriting
removes those, folders whole, and nothing else. It knows no torch.
"""

from idvl.runs.environment import provenance
from idvl.runs.folder import LOCK, FolderName, check, default_folder, is_inside, keep, new_folder
from idvl.runs.record import (
    MATRIX,
    MetricLine,
    RunFile,
    damage,
    read_metrics,
    read_record,
    refuse_difference,
    total_cost,
)
from idvl.runs.run import Run

__all__ = [
    "LOCK",
    "MATRIX",
    "FolderName",
    "MetricLine",
    "Run",
    "RunFile",
    "check",
    "damage",
    "default_folder",
    "is_inside",
    "keep",
    "new_folder",
    "provenance",
    "read_metrics",
    "read_record",
    "refuse_difference",
    "total_cost",
]
