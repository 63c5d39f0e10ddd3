"""A saved model opened from disk as a user opens it, and compared with what it should be. It changes nothing."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idvl.errors import RunError, UsageError
from idvl.models.loading import Loaded, load
from idvl.models.offload import StoredTensors, layer_weights
from idvl.sparsity.masks import Masks, unmasked_zeros


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
    offload: bool = False,
) -> Verdict:
    """Open `folder` with the model's own class, and RunError for the first of its `defects`.

    With `offload` the weights of blocks are read one by one.
    """
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True, "offload": offload}
    loaded = opened(str(folder), **options)
    for defect in defects(loaded, masks, structure, report=report, state=state):
        raise RunError(defect)
    weights = _weights(_tensors(loaded), masks)
    zeros = sum(masks.zeros.values())
    return Verdict(
        layers=len(weights),
        weights=masks.total,
        zeros=zeros,
        other_zeros=sum(int((weight == 0).count_nonzero()) for weight in weights.values()) - zeros,
        tensors=len(loaded.model.state_dict()),
        dtype=loaded.description["dtype"],
        fingerprint=loaded.description["fingerprint"],
    )


def opened(model: str, **options: Any) -> Loaded:
    """The model on the CPU, in the dtype of its file.

    RunError for a folder that does not open, and for a model that lacks a tensor; UsageError for a name of the Hub that
    does not open.
    """
    try:
        loaded = load(model, dtype="auto", device="cpu", **options)
    except UsageError as error:
        if not os.path.exists(os.path.expanduser(model)):
            raise
        raise RunError(f"the saved model does not open: {error}") from error
    differing = [warning for warning in loaded.description["warnings"] if warning not in loaded.family.notes]
    if differing:
        raise RunError(f"the saved model is not whole: {'; '.join(differing)}")
    return loaded


def defects(
    loaded: Loaded,
    masks: Masks,
    structure: str = "unstructured",
    *,
    report: Mapping[str, Any] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Iterator[str]:
    """What is wrong with an opened model, a line each that names the tensor.

    Every weight that a mask removed is zero, the masks have the `structure`, nothing is NaN or infinite, tied weights
    are tied. With `report`, the model has as many weights as it states, each layer as many zeros, and at least as many
    in its bias (one may be too small for the dtype of the file). With `state`, what was written, every tensor is that,
    bit by bit, and the same ones are tied.
    """
    tensors = _tensors(loaded)
    yield from not_finite(tensors)
    yield from _untied(loaded.model, tensors, state)
    yield from _unlike(tensors, state or {})
    weights = _weights(tensors, masks)
    if missing := [name for name in masks.shapes if name not in weights]:
        yield f"the saved model has no layer {missing[0]}, which was pruned ({len(missing)} such layers)"
    else:
        yield from masks.defects(weights, structure)
    if report is not None:
        yield from _unlike_report(masks, report, tensors)
        yield from _fewer_zeros(loaded, report)
        weights = sum(parameter.numel() for parameter in loaded.model.parameters())
        if weights != report["total"]["model_weights"]:
            yield f"the model has {weights:,} weights, the report says {report['total']['model_weights']:,}"


def _tensors(loaded: Loaded) -> Mapping[str, Tensor]:
    """The model's state_dict, of an offloaded model read as it is looked up."""
    return loaded.offload.state() if loaded.offload else loaded.model.state_dict()


def _weights(tensors: Mapping[str, Tensor], masks: Masks) -> Mapping[str, Tensor]:
    """The weights that have a mask, as far as the model has them."""
    names = [name for name in masks.shapes if f"{name}.weight" in tensors]
    return StoredTensors(names, lambda name: tensors[f"{name}.weight"])


def _unlike_report(masks: Masks, report: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    stated = {name: layer["zeros"] for name, layer in report["layers"].items()}
    for name in dict.fromkeys([*masks.zeros, *stated]):
        if name not in masks.zeros or name not in stated:
            yield f"{name} {'has no mask, the report has it' if name in stated else 'has a mask, the report lacks it'}"
        elif masks.zeros[name] != stated[name]:
            yield f"{name}: {masks.zeros[name]} weights are masked, the report says {stated[name]}"
        elif (weights := math.prod(masks.shapes[name])) != report["layers"][name]["weights"]:
            yield f"{name}: {weights:,} weights have a mask, the report says {report['layers'][name]['weights']:,}"
        elif (expected := report["layers"][name].get("bias_zeros")) and f"{name}.bias" in tensors:
            zeros = int((tensors[f"{name}.bias"] == 0).count_nonzero())
            if zeros < expected:
                yield f"{name}: {zeros} biases are zero, the report says {expected}"
    yield from _miscounted(report)


def _fewer_zeros(loaded: Loaded, report: Mapping[str, Any]) -> Iterator[str]:
    """Zeros that are not there; more than those may be too small for the dtype of the file."""
    # which older reports lack
    if stated := report["total"].get("model_zeros"):
        weights = layer_weights(loaded.model, loaded.family, loaded.offload)
        found = sum(unmasked_zeros(weights, least=0).values())
        if found < stated:
            yield f"the layers of the model hold {found:,} zeros, the report says {stated:,}"


def _miscounted(report: Mapping[str, Any]) -> Iterator[str]:
    """Sparsities and sums of a report that do not follow from the counts of its layers."""
    rows, sums = report["layers"], {**report["modalities"], "total": report["total"]}
    parts = [(name, row, [row]) for name, row in rows.items()]
    for word in dict.fromkeys([*(row["modality"] for row in rows.values()), *sums]):
        parts.append((word, sums.get(word), [row for row in rows.values() if word in (row["modality"], "total")]))
    for name, part, inside in parts:
        weights, zeros = (sum(row[key] for row in inside) for key in ("weights", "zeros"))
        if part is None:
            yield f"the report lacks {name}, of which it has {len(inside)} layers"
            continue
        is_sum = (part["weights"], part["zeros"]) == (weights, zeros)
        if not is_sum or not math.isclose(part["sparsity"] * weights, zeros):
            yield (
                f"{name}: the report says sparsity {part['sparsity']:g}, {part['zeros']:,} of {part['weights']:,} "
                f"weights; its layers come to {zeros:,} of {weights:,}"
            )
    total = report["total"]
    for word in ("prunable", "model"):
        zeros = total.get(f"{word}_zeros", total["zeros"])
        weights, sparsity = total[f"{word}_weights"], total[f"{word}_sparsity"]
        if not math.isclose(sparsity * weights, zeros):
            shares = f"{zeros:,} of {weights:,} weights are zero"
            yield f"total: the report says {word}_sparsity {sparsity:g}, and that {shares}"
    # which older reports lack
    if (not_covered := report.get("not_covered")) is not None:
        covered = total["model_weights"] - sum(part["weights"] for part in not_covered.values())
        if total["prunable_weights"] != covered:
            yield (
                f"total: the report says prunable_weights {total['prunable_weights']:,}, and {covered:,} of its "
                "model_weights are not among not_covered"
            )


def not_finite(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """A line for each tensor with values that are NaN or infinite."""
    for name, tensor in tensors.items():
        # the extremes are NaN where a value is; isfinite takes twenty times as long
        floats = tensor.is_floating_point() and tensor.numel()
        if floats and not all(map(torch.isfinite, torch.aminmax(tensor))):
            bad = int((~torch.isfinite(tensor)).sum())
            yield f"{name}: {bad:,} of {tensor.numel():,} saved values are NaN or infinite"


def _untied(model: nn.Module, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor] | None) -> Iterator[str]:
    if state is not None:
        pairs = [sorted(names) for names in _ties(state) - _ties(model.state_dict(keep_vars=True))]
    else:
        expected = model.get_expanded_tied_weights_keys(all_submodels=True)
        pairs = [pair for pair in expected.items() if tensors[pair[0]].data_ptr() != tensors[pair[1]].data_ptr()]
    for pair in pairs:
        yield f"{' and '.join(pair)} are one weight, and two in the saved model"


def _ties(state: Mapping[str, Tensor]) -> set[frozenset[str]]:
    """The groups of names that stand for one tensor."""
    names = defaultdict(set)
    for name, tensor in state.items():
        if tensor.numel():
            names[id(tensor) if tensor.is_meta else tensor.data_ptr()].add(name)
    return {frozenset(group) for group in names.values() if len(group) > 1}


def _unlike(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    for name, written in state.items():
        if name not in tensors:
            yield f"{name} is not in the saved model"
        elif tensors[name].dtype != written.dtype or not torch.equal(tensors[name], written.cpu()):
            yield f"{name} is not in the saved model what it was in memory"
