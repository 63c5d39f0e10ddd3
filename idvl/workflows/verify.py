"""idvl verify: a checkpoint, whoever made it, compared with its masks, its report, its base model and what is claimed.

It needs no samples and runs no model.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from idvl.checkpoints.report import counted, plan
from idvl.checkpoints.report import report as finished_report
from idvl.checkpoints.verify import defects, opened
from idvl.errors import UsageError, quoted
from idvl.models.layers import Layer, find_layers, in_scope
from idvl.models.loading import Loaded, load
from idvl.models.locating import locate
from idvl.models.stated import stored_dtypes
from idvl.recovery.start import Start, find, is_changed
from idvl.reporter import Reporter
from idvl.sparsity.masks import ACCIDENTAL, MASKS, Masks
from idvl.sparsity.structure import Structure, parse
from idvl.units import percent

# how far a sparsity may lie below the one claimed: tools that prune row by row round down in each row
ROUNDING = 0.001


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a checkpoint holds, as in report.json, and a line for each defect."""

    model: str
    report: dict[str, Any]
    defects: list[str]


def run(
    model: str,
    *,
    masks: Path | None = None,
    sparsity: float | None = None,
    structure: str | None = None,
    scope: str = "all",
    base: str | None = None,
    reporter: Reporter,
    **options: Any,
) -> Verification:
    """Open a model and compare it with what it should be.

    `model`: a Hub id, a folder, a built-in name, or the run folder of a pruned model, whose masks, structure and report
    must then hold. `masks`: a file or a run folder; where they are not the run's own, its structure and report say
    nothing of them. Without masks, what is zero counts as pruned. `sparsity`: that of the layers that have a mask, or
    else of those in `scope`. `base`: the dense model. `options`: revision and trust_remote_code. Raises UsageError
    where there is nothing to verify, and for a scope beside masks, RunError for a folder that does not open.
    """
    if sparsity is not None and not 0 <= sparsity <= 1:
        raise UsageError(f"--sparsity is between 0 and 1, not {sparsity:g}")
    pruned = find(model)
    model, report = pruned.model, pruned.report()
    locate(model, options.get("revision"))
    own = not masks or (pruned.run is not None and _is_same(masks, pruned.run))
    if not own and pruned.run:
        reporter.note(f"{masks} are not the masks of {pruned.run}, whose report.json is not compared with them")
    name = structure or (pruned.recipe.prune.structure if own and pruned.recipe else "unstructured")
    rule = parse(name)
    masks = masks or pruned.run
    if masks and scope != "all":
        raise UsageError(
            f"--scope {scope} is for a model without masks, which are in {quoted(str(masks))}: leave it out"
        )
    stated = Masks.load(masks) if masks else None
    with reporter.progress("opening the model"):
        loaded = opened(model, **options)
    prunable = find_layers(loaded.model, loaded.family)
    layers = in_scope(loaded.model, loaded.family, scope)
    kept = stated or Masks.from_zeros({name: layer.module.weight for name, layer in layers.items()})
    # masks taken from the zeros hold by themselves
    lines = [*defects(loaded, stated or Masks({}), name, report=report if own else None)]
    if stated is None:
        lines += _ungrouped(kept, layers, rule)
        for note in _accidental(kept):
            reporter.warn(note)
        if not sum(kept.zeros.values()):
            reporter.warn(f"no weight of {kept.total:,} is zero: nothing in {model} is pruned")
    lines += [*_too_dense(kept, sparsity), *_unlike_record(report, loaded), *_stored_otherwise(loaded, options)]
    if base:
        lines += _unlike_base(pruned, loaded, load(base, dtype="auto", device="cpu"), reporter)
    masked = {name: prunable[name] for name in kept.shapes if name in prunable}
    if len(masked) < len(kept.shapes):
        return Verification(model=model, report={}, defects=lines)
    planned = plan(loaded.model, masked, family=loaded.family, asked=sparsity)
    found = counted(finished_report(planned, kept), loaded.model, loaded.family)
    return Verification(model=model, report=found, defects=lines)


def _is_same(masks: Path, run: Path) -> bool:
    """Whether masks, a file or a run folder, are those of a run."""
    path = os.path.expanduser(masks)
    return os.path.realpath(path) in (os.path.realpath(run), os.path.realpath(run / MASKS))


def _accidental(kept: Masks) -> Iterator[str]:
    """Which zeros may be none of pruning's."""
    if few := kept.accidental():
        yield (
            f"{len(few)} layers hold less than {percent(ACCIDENTAL, 0)} zeros, which may be accidental, {few[0]} "
            "first: name the masks with --masks"
        )


def _ungrouped(kept: Masks, layers: Mapping[str, Layer], rule: Structure) -> Iterator[str]:
    """Layers with zeros, not accidental ones, whose groups of inputs have too few."""
    for name, layer in layers.items() if rule.grouped else ():
        mask = kept.kept(name)
        if kept.zeros[name] < ACCIDENTAL * mask.numel():
            continue
        mask = mask if isinstance(layer.module, nn.Linear) else mask.T  # a Conv1D stores (in, out)
        if mask.shape[-1] % rule.group:
            yield f"{name} has {mask.shape[-1]} inputs, which {rule.keep}:{rule.group} does not divide"
        elif wrong := int((mask.reshape(-1, rule.group).sum(1) > rule.keep).count_nonzero()):
            groups = mask.numel() // rule.group
            yield f"{name}: {wrong:,} of {groups:,} groups keep more than {rule.keep} of {rule.group} inputs"


def _too_dense(kept: Masks, sparsity: float | None) -> Iterator[str]:
    actual = sum(kept.zeros.values()) / kept.total
    if sparsity is not None and actual < sparsity - ROUNDING:
        yield f"{percent(actual)} of {kept.total:,} weights in scope are pruned, not {percent(sparsity)}"


def _unlike_record(report: Mapping[str, Any] | None, loaded: Loaded) -> Iterator[str]:
    """What differs from the model that the run verified when it was saved."""
    if report and not report.get("verified"):
        yield "report.json lacks verified: whether the weights are those that were saved is not known"
    if is_changed(report, loaded.description["fingerprint"]):
        yield "the weights differ from those that report.json verified"
    if (dtype := ((report or {}).get("verified") or {}).get("dtype")) not in (None, loaded.description["dtype"]):
        yield f"the weights are {loaded.description['dtype']}, those that report.json verified were {dtype}"


def _stored_otherwise(loaded: Loaded, options: Mapping[str, Any]) -> Iterator[str]:
    """Tensors that are stored in another dtype than config.json says, less those that transformers keeps in float32."""
    stated = loaded.description["stored_dtype"]
    target = loaded.model.config.name_or_path
    exempt = [*(getattr(loaded.model, "_keep_in_fp32_modules", None) or ())]
    exempt += getattr(loaded.model, "_keep_in_fp32_modules_strict", None) or ()
    dtypes = stored_dtypes(target, options) if stated else {}
    floats = {key: dtype for key, dtype in dtypes.items() if "float" in dtype and not set(exempt) & set(key.split("."))}
    for dtype, count in Counter(floats.values()).items():
        if dtype != stated:
            first = next(key for key, other in floats.items() if other == dtype)
            yield f"{count} of {len(floats)} tensors are stored as {dtype}, {first} first; config.json says {stated}"


def _unlike_base(pruned: Start, loaded: Loaded, dense: Loaded, reporter: Reporter) -> Iterator[str]:
    """What cannot be if the model was pruned from that base model.

    Where it got a new head before, the base may be the model with that head, which is known, or the one without.
    """
    name, recipe = dense.name, (pruned.pruned or pruned).recipe
    new_head = recipe is not None and recipe.train.new_head
    if pruned.dense_fingerprint not in (None, dense.description["fingerprint"]):
        if new_head:
            reporter.warn(
                f"the model got a new head before it was pruned, and {name} is not the one with that head, which the "
                "run keeps in dense/: only shapes are compared"
            )
        else:
            yield f"the run pruned other weights than those of {name}"
    if type(loaded.model) is not type(dense.model):
        yield f"the model is a {type(loaded.model).__name__}, {name} a {type(dense.model).__name__}"
        return
    shapes = {key: tuple(tensor.shape) for key, tensor in dense.model.state_dict().items()}
    if new_head:
        layers = find_layers(dense.model, dense.family)
        shapes = {key: shape for key, shape in shapes.items() if key.rpartition(".")[0] in layers}
    tensors = loaded.model.state_dict()
    for key, shape in shapes.items():
        actual = tuple(tensors[key].shape) if key in tensors else "nothing"
        if actual != shape:
            yield f"{key} is {actual}, and {shape} in {name}"
