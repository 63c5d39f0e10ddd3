"""Magnitude: the density that one threshold over the weights of a modality leaves a layer (MULTIFLOW, section 3)."""

from __future__ import annotations

from idvl.sparsity.allocation import Allocation, as_measured

ALLOCATION = Allocation(densities=as_measured, needs="magnitude")
