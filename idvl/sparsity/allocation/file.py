"""File: the densities that a file gives, up to the factor that meets the budget."""

from __future__ import annotations

from idvl.sparsity.allocation import Allocation, as_measured

ALLOCATION = Allocation(densities=as_measured, needs="file")
