"""Whether a GPU gives what the CPU gives. Every check runs on a CPU too, which then is compared with itself.

A check is a function (device, folder) -> figures that is listed in CHECKS; `runner` says what it may raise.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.runner import Check

# largest relative differences: of neighbours' distances and IDs of the same points, of IDs of layers that each device
# computed itself, of losses, of losses in half precision from those in float32
DISTANCES, IDS, LAYERS, LOSSES, HALF = 1e-10, 1e-6, 1e-3, 1e-4, 0.05
# the share of a mask that may differ where it follows from gradients
MASKS = 1e-3
CPU = torch.device("cpu")
# commands that are starved of memory, and their options
COMMANDS = {
    "estimate-id": ["--samples", "100"],
    "prune": ["--id-weight", "none", "--max-steps", "4", "--sparsity", "0.5"],
    "eval": ["--task", "caption", "--limit", "8"],
}
LEARNT = ("blip", "blip-vqa", "blip-itm", "clip", "vit", "vilt-nlvr2", "git")


def neighbours(device: torch.device, folder: Path, *, n: int = 600) -> dict[str, Any]:
    """Nearest neighbours of points that are hard on rounding, with each backend, and their IDs by each estimator."""
    from idvl.geometry import backend
    from tests.support.clouds import HARD

    backends = ["torch", *(["faiss"] if backend.works_on(device) else [])]
    clouds = [name for name in HARD if name != "ties"]
    distances = max(distance_gap(HARD[name](n), device, each) for name in clouds for each in backends)
    ids = max(id_gap(HARD[name](n), device) for name in ("gaussian", "helix", "swiss roll", "float16"))
    assert ids <= IDS, f"dimensions differ by {ids:.1e} of their value"
    return {"clouds": len(clouds), "backends": backends, "distances": distances, "dimensions": ids}


def distance_gap(points: Tensor, device: torch.device, backend: str) -> float:
    """The largest relative difference of neighbours' distances between device and CPU; the neighbours are the same."""
    from idvl.geometry.neighbors import DenseRows, nearest

    here, there = nearest(DenseRows(points)), nearest(DenseRows(points, device=device), backend=backend)
    assert torch.equal(there.indices.cpu(), here.indices), f"{backend} finds other neighbours on {device}"
    gap = float(((there.distances.cpu() - here.distances) / here.distances).abs().max())
    assert gap <= DISTANCES, f"{backend} on {device}: distances differ by {gap:.1e} of their value"
    return gap


def id_gap(points: Tensor, device: torch.device) -> float:
    """The largest relative difference of a dimension between device and CPU, over all estimators."""
    from idvl.geometry.estimators import ESTIMATORS, estimate, requirements
    from idvl.geometry.neighbors import DenseRows, nearest

    gaps = []
    for name in ESTIMATORS:
        found = [
            estimate(nearest(DenseRows(points, device=each), **requirements(name)), name) for each in (CPU, device)
        ]
        gaps.append(_relative(*(one.dimension for one in found)))
    return max(gaps)


def layers(device: torch.device, folder: Path, *, n: int = 120) -> dict[str, Any]:
    """IDs of all layers of a small BLIP, whose activations each device computes itself, and with offloaded weights.

    Which points count as duplicates follows from each device's own rounding: layers with as many of them are compared.
    """
    from idvl.measurement.measurement import Measurement
    from idvl.measurement.settings import Settings
    from idvl.models.layers import find_layers
    from tests.support import tiny

    found = []
    for each, offload in ((CPU, False), (device, False), (device, True)):
        loaded = _load(folder, each, offload=offload)
        chosen = find_layers(loaded.model, loaded.family)
        work = Measurement(loaded, tiny.samples(n), chosen, Settings(batch_size=16), memory=2**30)
        found.append({name: layer.estimate for name, layer in work.estimates()})
    here, *others = found
    gaps, same = [], []
    for there in others:
        same = [name for name, one in here.items() if one.n_duplicates == there[name].n_duplicates]
        gaps += [_relative(there[name].dimension, here[name].dimension) for name in same]
        assert len(same) > len(here) / 2, f"{len(here) - len(same)} of {len(here)} layers have other duplicates"
    assert max(gaps) <= LAYERS, f"dimensions of layers differ by {max(gaps):.1e} of their value"
    return {"layers": len(here), "compared": len(same), "dimensions": max(gaps)}


def _relative(one: float | None, other: float | None) -> float:
    """The relative difference of two dimensions: infinite where only one of them is there."""
    if one and other:
        return abs(one / other - 1)
    return 0.0 if one == other else math.inf


def _load(folder: Path, device: torch.device, kind: str = "blip", *, offload: bool = False) -> Any:
    """A small model on the device, with Accelerate as at the start of a process."""
    from accelerate.state import AcceleratorState

    from idvl.models.loading import load
    from tests.support import tiny

    # it would keep the device of an earlier training
    AcceleratorState._reset_state(reset_partial_state=True)
    model = folder / f"tiny-{kind}"
    return load(str(model if model.exists() else tiny.save(kind, model)), device=str(device), offload=offload)


def losses(device: torch.device, folder: Path, *, kinds: Sequence[str] = LEARNT) -> dict[str, Any]:
    """The loss of each kind of model on one batch, and the norm of its gradient."""
    from tests.support import tiny

    samples = [replace(one, answers=("two red",), label=i % 2) for i, one in enumerate(tiny.samples(6))]
    gaps = {}
    for kind in kinds:
        found = []
        for each in (CPU, device):
            loaded = _load(folder, each, kind)
            task, length = loaded.family.training_task, loaded.family.text_length(loaded.processor, samples)
            inputs = task.inputs(loaded.processor, samples, length, loaded.model.config)
            with ieee():
                total = task.loss(loaded.model, {key: value.to(each) for key, value in inputs.items()}, None).total
                total.backward()
            norm = nn.utils.get_total_norm([w.grad for w in loaded.model.parameters() if w.grad is not None])
            found.append(torch.stack([total.detach(), norm]).double().cpu())
        gaps[kind] = float(((found[1] - found[0]) / found[0]).abs().max())
        assert gaps[kind] <= LOSSES, f"{kind}: the loss or the gradient's norm differs by {gaps[kind]:.1e} of its value"
    return gaps


def masks(device: torch.device, folder: Path, *, structures: Sequence[str] = ("unstructured", "2:4")) -> dict[str, Any]:
    """The first masks of each criterion, from a real step of the training loop, unstructured and 2:4."""
    from idvl.sparsity import criteria

    found = {}
    for criterion in criteria.observed():
        for structure in structures:
            here, there = (first_masks(folder, each, criterion, structure) for each in (CPU, device))
            differing = sum(int((here.kept(name) != there.kept(name).cpu()).sum()) for name in here.shapes)
            share = found[f"{criterion} {structure}"] = differing / here.total
            # magnitudes do not depend on the device
            most = 0.0 if criterion == "magnitude" else MASKS
            assert share <= most, f"{criterion} {structure}: {share:.1e} of the mask differs"
    return found


def first_masks(folder: Path, device: torch.device, criterion: str, structure: str) -> Any:
    """The masks of half of a small BLIP's weights after one step that leaves the weights alone."""
    from idvl.training import Training, train
    from tests.support import tiny

    pruner, loaded = _pruner(folder, device, criterion, structure=structure, target=0.5, total_steps=1)
    settings = Training(max_steps=1, batch_size=8, update_weights=False, checkpoint_every=None, workers=0)
    with ieee():
        train(loaded, tiny.samples(16), settings, on_step=pruner.step)
    return pruner.masks


def _pruner(folder: Path, device: torch.device, criterion: str, *, structure: str = "unstructured", **schedule: Any):
    """A pruner of a small BLIP on the device, and the BLIP."""
    from idvl.models.layers import find_layers
    from idvl.sparsity import criteria
    from idvl.sparsity.pruner import WeightPruner
    from idvl.sparsity.schedule import Schedule

    loaded = _load(folder, device)
    weights = {name: layer.module.weight for name, layer in find_layers(loaded.model, loaded.family).items()}
    allocation = "global" if structure == "unstructured" else "uniform"
    options = {"criterion": criteria.load(criterion), "structure": structure, "allocation": allocation}
    return WeightPruner(weights, schedule=Schedule(**schedule), **options), loaded


def half_precision(device: torch.device, folder: Path) -> dict[str, Any]:
    """Four training steps in bf16 and fp16: all are made, the losses are near those in float32, weights are finite."""
    expected, found = _trained(device, folder, "no")[0], {}
    for precision in ("bf16", "fp16"):
        if precision == "fp16" and device.type == "cpu":
            found[precision] = "needs a GPU"
            continue
        seen, outcome, model = _trained(device, folder, precision)
        assert outcome.steps == 4, f"{precision}: {outcome.steps} of 4 steps"
        assert all(bool(weight.isfinite().all()) for weight in model.parameters()), f"{precision}: weights not finite"
        # steps that fp16 skips while it looks for a scale read other batches
        gap = abs(seen[0] / expected[0] - 1) if outcome.skipped else max(map(_gap, seen, expected))
        assert gap <= HALF * (1 + outcome.skipped), f"{precision}: the loss differs by {gap:.1e} of its value"
        found[precision] = {"loss": gap, "skipped": outcome.skipped}
    return found


def _gap(one: float, other: float) -> float:
    return abs(one / other - 1)


def _trained(device: torch.device, folder: Path, precision: str) -> tuple[list[float], Any, nn.Module]:
    """Losses of four steps of a small BLIP, their outcome, the model."""
    from idvl.training import Training, train
    from tests.support import tiny

    loaded, seen = _load(folder, device), []
    settings = Training(
        max_steps=4, batch_size=8, learning_rate=1e-4, mixed_precision=precision, checkpoint_every=None, workers=0
    )
    outcome = train(loaded, tiny.samples(64), settings, progress=lambda step, total, said: seen.append(said["loss"]))
    return seen, outcome, loaded.model


def out_of_memory(
    device: torch.device, folder: Path, *, commands: Mapping[str, list[str]] = COMMANDS
) -> dict[str, Any]:
    """Each command ends with exit code 1 and one clear line where the device's memory is full."""
    _load(folder, device)
    model, said = str(folder / "tiny-blip"), {}
    data = ["--dataset", "shapes", "--device", str(device), "--quiet", "--output"]
    for command, options in commands.items():
        code, lines = starved([command, model, *options, *data, str(folder / f"full-{command}")])
        assert code == 1, f"{command} ended with {code}: {lines}"
        assert len(lines) == 1 and lines[0].startswith("idvl: "), f"{command} wrote {lines}"
        assert "memory" in lines[0] and "batch" in lines[0], f"{command} names no way out: {lines[0]}"
        said[command] = lines[0]
    return said


def starved(args: list[str]) -> tuple[int, list[str]]:
    """The exit code and the lines on stderr of a command whose model asks for more memory than any device has."""
    from idvl.commands import main

    forward = nn.Linear.forward

    def greedy(self: nn.Linear, x: Tensor) -> Tensor:
        torch.empty(2**50, dtype=torch.uint8, device=x.device)
        return forward(self, x)

    told = io.StringIO()
    nn.Linear.forward = greedy
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            return main(args), told.getvalue().splitlines()
    finally:
        nn.Linear.forward = forward


def resume(device: torch.device, folder: Path) -> dict[str, Any]:
    """A pruning training that breaks off and is resumed ends with the bits of one that was not interrupted."""
    before = torch.are_deterministic_algorithms_enabled()
    # on a GPU only deterministic kernels give the same bits twice; whether the rest does is what is compared
    torch.use_deterministic_algorithms(device.type == "cuda" or before, warn_only=True)
    try:
        whole = _pruned(folder, device, folder / "whole", stop=None)
        assert _pruned(folder, device, folder / "cut", stop=5) is None
        again = _pruned(folder, device, folder / "cut", stop=None)
    finally:
        torch.use_deterministic_algorithms(before)
    differing = [name for name, value in whole.items() if not torch.equal(value, again[name])]
    assert not differing, f"{len(differing)} of {len(whole)} tensors differ, {differing[0]} first"
    return {"tensors": len(whole)}


def _pruned(folder: Path, device: torch.device, place: Path, *, stop: int | None) -> dict[str, Tensor] | None:
    """Weights and masks after 8 steps with PLATON, resumed if there is a checkpoint; None if broken off at `stop`."""
    from idvl.training import Training, train
    from tests.support import tiny

    class Broken(Exception):
        pass

    pruner, loaded = _pruner(folder, device, "platon", target=0.5, total_steps=8, mask_every=2)

    def on_step(step: int) -> None:
        pruner.step(step)
        if step == stop:
            raise Broken

    settings = Training(max_steps=8, batch_size=8, learning_rate=1e-3, checkpoint_every=2, workers=0)
    options = {"folder": place, "resume": True, "state": {"pruner": pruner}, "on_step": on_step}
    try:
        train(loaded, tiny.samples(64), settings, **options)
    except Broken:
        return None
    return {**loaded.model.state_dict(), **{f"mask {k}": v for k, v in pruner.masks.state_dict().items()}}


def calibrated(
    device: torch.device, folder: Path, *, criteria: Sequence[str] = ("wanda", "sparsegpt", "multiflow", "gradient")
) -> dict[str, Any]:
    """The masks of pruning from calibration samples, one criterion after the other, with ECoFLaP's layer sparsities."""
    from idvl.sparsity.masks import Masks

    _load(folder, device)
    data, found = folder / "calibration", {}
    if not data.exists():
        from tests.support import tiny

        tiny.save_samples(data, tiny.samples(12), lambda _, sample: [{"text": sample.texts[0]}])
    for criterion in criteria:
        here, there = (
            Masks.load(_calibrated(folder / "tiny-blip", data, each, criterion, folder / f"{criterion}-{each.type}"))
            for each in (CPU, device)
        )
        differing = sum(int((here.kept(name) != there.kept(name)).sum()) for name in here.shapes)
        found[criterion] = differing / here.total
        assert found[criterion] <= MASKS, f"{criterion}: {found[criterion]:.1e} of the mask differs"
    return found


def _calibrated(model: Path, data: Path, device: torch.device, criterion: str, folder: Path) -> Path:
    """The masks.safetensors of a run."""
    import idvl

    idvl.prune(
        model,
        dataset=data,
        criterion=criterion,
        calibration="sequential",
        calibration_samples=12,
        allocation="ecoflap",
        sparsity=0.6,
        device=str(device),
        eval=False,
        output=folder,
        overwrite=True,
    )
    return folder / "masks.safetensors"


def masked_lora(device: torch.device, folder: Path) -> dict[str, Any]:
    """Outputs and gradients of a masked LoRA layer, in float32 and under bf16 autocast; its merge keeps every zero."""
    from idvl.recovery.masked_lora import MaskedLoRA

    found = {}
    draw = torch.Generator().manual_seed(0)
    weight, kept = torch.randn(96, 64, generator=draw), torch.rand(96, 64, generator=draw) > 0.5
    x, update = torch.randn(5, 7, 64, generator=draw), torch.randn(96, 4, generator=draw)
    for name, most in (("float32", 1e-5), ("bf16", 0.02)):
        results = []
        for each in (CPU, device):
            layer = nn.Linear(64, 96, bias=False)
            layer.weight.data.copy_(weight * kept)
            own = MaskedLoRA(layer, kept, rank=4, generator=torch.Generator().manual_seed(1)).to(each)
            own.lora_b.data.copy_(update)
            inputs = x.to(each, copy=True).requires_grad_()
            with ieee(), torch.autocast(each.type, torch.bfloat16, enabled=name == "bf16"):
                out = own(inputs)
                out.float().square().mean().backward()
            results.append([t.detach().float().cpu() for t in (out, inputs.grad, own.lora_a.grad, own.lora_b.grad)])
            own.merge()
            assert not own.weight.cpu()[~kept].any(), "the merge fills zeros"
        found[name] = max(float((b - a).norm() / a.norm()) for a, b in zip(*results, strict=True))
        assert found[name] <= most, f"{name}: outputs or gradients differ by {found[name]:.1e} of their norm"
    return found


@contextlib.contextmanager
def ieee() -> Iterator[None]:
    """float32 as on a CPU: no TF32 in products and convolutions."""
    knobs = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]
    before = [knob.fp32_precision for knob in knobs]
    for knob in knobs:
        knob.fp32_precision = "ieee"
    try:
        yield
    finally:
        for knob, value in zip(knobs, before, strict=True):
            knob.fp32_precision = value


CHECKS: tuple[Check, ...] = (
    neighbours,
    layers,
    losses,
    masks,
    half_precision,
    out_of_memory,
    resume,
    calibrated,
    masked_lora,
)
