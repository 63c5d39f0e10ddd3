"""A saved model opened from disk as a user opens it, and held against what it should be. It changes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idvl.errors import RunError, UsageError
from idvl.models.loading import load
from idvl.sparsity.masks import Masks


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found in a saved model that is as it should be.

    `zeros` counts the weights that the masks removed; `other_zeros` those that are kept and happen to be zero: they
    were so in the dense model, or are too small for the dtype of the file. `fingerprint` identifies the saved weights.
    """

    layers: int
    weights: int
    zeros: int
    other_zeros: int
    tensors: int
    dtype: str
    fingerprint: str


def verify(
    folder: Path | str,
    masks: Masks,
    structure: str = "unstructured",
    *,
    report: Mapping[str, Any] | None = None,
    state: Mapping[str, Tensor] | None = None,
    trust_remote_code: bool = False,
) -> Verdict:
    """Open `folder` with the model's own class and check every tensor of it.

    Every weight that a mask removed is zero, the masks have the `structure`, nothing is NaN or infinite, tied weights
    are tied and no tensor is missing. With `report`, each layer has the zeros that it states, and at least as many in
    its bias (one may be too small for the dtype of the file). With `state`, what was
    written, every tensor is that, bit by bit, and the same ones are tied. Raises RunError that names the layer.
    """
    try:
        loaded = load(
            str(folder), dtype="auto", device="cpu", trust_remote_code=trust_remote_code, local_files_only=True
        )
    except UsageError as error:
        raise RunError(f"the saved model does not open: {error}") from error
    differing = [said for said in loaded.description["warnings"] if said not in loaded.family.notes]
    if differing:
        raise RunError(f"the saved model is not whole: {'; '.join(differing)}")
    found = loaded.model.state_dict()
    _check_finite(found)
    _check_tied(loaded.model, found, state)
    if state is not None:
        _check_equal(found, state)
    weights = _weights(loaded.model, masks)
    masks.verify(weights, structure)
    if report is not None:
        _check_report(masks, report, found)
    zeros = sum(masks.zeros.values())
    return Verdict(
        layers=len(weights),
        weights=masks.total,
        zeros=zeros,
        other_zeros=sum(int((weight == 0).count_nonzero()) for weight in weights.values()) - zeros,
        tensors=len(found),
        dtype=loaded.description["dtype"],
        fingerprint=loaded.description["fingerprint"],
    )


def _weights(model: nn.Module, masks: Masks) -> dict[str, Tensor]:
    modules = dict(model.named_modules())
    missing = [name for name in masks.shapes if name not in modules]
    if missing:
        raise RunError(f"the saved model has no layer {missing[0]}, which was pruned ({len(missing)} such layers)")
    return {name: modules[name].weight.detach() for name in masks.shapes}


def _check_report(masks: Masks, report: Mapping[str, Any], found: Mapping[str, Tensor]) -> None:
    stated = {name: layer["zeros"] for name, layer in report["layers"].items()}
    for name in dict.fromkeys([*masks.zeros, *stated]):
        if masks.zeros.get(name) != stated.get(name):
            raise RunError(f"{name}: {masks.zeros.get(name)} weights are masked, the report says {stated.get(name)}")
        if expected := report["layers"][name].get("bias_zeros"):
            zeros = int((found[f"{name}.bias"] == 0).count_nonzero())
            if zeros < expected:
                raise RunError(f"{name}: {zeros} biases are zero, the report says {expected}")


def _check_finite(found: Mapping[str, Tensor]) -> None:
    for name, tensor in found.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise RunError(f"{name}: {bad:,} of {tensor.numel():,} saved values are NaN or infinite")


def _check_tied(model: nn.Module, found: Mapping[str, Tensor], state: Mapping[str, Tensor] | None) -> None:
    if state is not None:
        missing = _ties(state) - _ties(found)
        pairs = [sorted(names) for names in missing]
    else:
        expected = model.get_expanded_tied_weights_keys(all_submodels=True)
        pairs = [pair for pair in expected.items() if found[pair[0]].data_ptr() != found[pair[1]].data_ptr()]
    if pairs:
        raise RunError(f"{' and '.join(pairs[0])} are one weight, and two in the saved model")


def _ties(state: Mapping[str, Tensor]) -> set[frozenset[str]]:
    """The groups of names that stand for one tensor."""
    names = defaultdict(set)
    for name, tensor in state.items():
        if tensor.numel():
            names[tensor.data_ptr()].add(name)
    return {frozenset(group) for group in names.values() if len(group) > 1}


def _check_equal(found: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    for name, written in state.items():
        if name not in found:
            raise RunError(f"{name} is not in the saved model")
        if found[name].dtype != written.dtype or not torch.equal(found[name], written.cpu()):
            raise RunError(f"{name} is not in the saved model what it was in memory")
