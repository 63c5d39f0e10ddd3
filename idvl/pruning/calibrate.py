"""A calibration carried out: each block measured, pruned, and run again as pruned, so that the next sees its outputs.

With dense calibration every block is measured as the dense model runs it. A finished block is on disk: a resumed run
prunes it as it was pruned, and goes on. It does not know what is kept of the model.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from idvl import runs
from idvl.device import cost_since
from idvl.errors import RunError
from idvl.geometry.gram import full_precision
from idvl.models.capture import Tap, tapped_walk
from idvl.models.joining import size_of
from idvl.pruning.counts import oriented
from idvl.pruning.finished import FinishedBlocks
from idvl.pruning.gradients import of_weights
from idvl.pruning.inputs import totals
from idvl.pruning.reconstruct import BlockError, reconstruct
from idvl.sparsity.masks import Masks
from idvl.training.ranks import agree

if TYPE_CHECKING:
    from idvl.models.layers import Layer
    from idvl.models.walk import Passes, Segment
    from idvl.pruning.calibration import Calibration
    from idvl.pruning.calibration_plan import CalibrationPlan
    from idvl.reporter import Progress, Reporter
    from idvl.sparsity.layerwise import PrunedLayer

# the folder inside a run's that holds its finished blocks
BLOCKS = "blocks"


def calibrate(
    job: Calibration, plan: CalibrationPlan, folder: Path, opened: runs.Run | None, reporter: Reporter
) -> tuple[Masks, dict[str, Any]]:
    """Prune the model in place. Its masks, and how it went: seconds, peak of memory, what did not go as planned.

    Of a resumed run the seconds are those of this session, and of the blocks that it found finished.
    """
    start, gradients = time.perf_counter(), {}
    if "gradient" in job.layerwise.criterion.needs:
        with reporter.progress("measuring gradients") as progress:
            gradients = of_weights(job, progress)
    with reporter.progress("pruning block by block") as progress:
        work = CalibratedPruning(job, plan, FinishedBlocks(folder / BLOCKS), opened, progress, gradients)
        work.execute()
    agree(work.masks.hash(), "the masks", work.masks.hashes)
    for name, note in work.notes.items():
        reporter.warn(f"{name}: {note}")
    facts = {
        **runs.total_cost(cost_since(start, job.device), *work.earlier),
        "planned_seconds": round(plan.seconds, 3),
        "forward_passes": round(plan.forwards, 3),
        "notes": work.notes,
    }
    return work.masks, facts


class CalibratedPruning:
    """The walk of one run. `masks` and `notes` (by layer) grow with it; `earlier`: what finished blocks took."""

    def __init__(
        self,
        job: Calibration,
        plan: CalibrationPlan,
        finished: FinishedBlocks,
        opened: runs.Run | None,
        progress: Progress,
        gradients: Mapping[str, Tensor],
    ):
        self._gradients = {name: oriented(job.layers[name], gradient) for name, gradient in gradients.items()}
        self.job, self.plan, self._finished, self._opened, self._progress = job, plan, finished, opened, progress
        self.masks = Masks({name: layer.module.weight.shape for name, layer in job.layers.items()}, job.device)
        self.notes: dict[str, str] = {}
        self.earlier: list[dict[str, Any]] = []
        self._sums = job.new_sums(products=job.layerwise.needs_products)
        self._due = _due(job, plan)
        self._seconds = 0.0
        # whole passes that must all see the dense model
        self._waits = not plan.capture.walks and not job.is_sequential
        self._waiting: dict[str, PrunedLayer] = {}

    def execute(self) -> None:
        """Prune all blocks, in the order in which they run."""
        job, family = self.job, self.job.loaded.family
        with torch.inference_mode(False), full_precision(job.device), ExitStack() as stack:
            walk, tap = stack.enter_context(
                tapped_walk(
                    job.loaded.model,
                    job.batches,
                    family.call,
                    job.users,
                    by_block=self.plan.capture.walks,
                    capture="input",
                    token_mask=job.token_mask,
                    device=job.loaded.inputs_device,
                    axes=job.trace.axes,
                    ran=lambda block: self._spend(self.plan.capture.batch_seconds[block]),
                    offload=job.loaded.offload,
                )
            )
            blocks = list(self.plan.blocks)
            for segment in walk:
                # whole passes are one segment, in which every block has its turn
                for block in [segment.name] if self.plan.capture.walks else blocks:
                    if block in self.plan.blocks:
                        self._block(blocks.index(block), block, segment, tap)
                if segment.name == blocks[-1]:
                    break
        self._apply(self._waiting)
        if job.loaded.offload:
            job.loaded.offload.release()

    def _weight(self, name: str) -> Tensor:
        """The weight of a module, (out, in). Of an offloaded model, the module's block must be held."""
        user = self.job.users[name]
        return oriented(user, user.module.weight.detach())

    def _block(self, number: int, block: str | None, segment: Segment | Passes, tap: Tap) -> None:
        start, groups, errors = time.perf_counter(), self.plan.blocks[block], {}
        if self.job.loaded.offload:
            self.job.loaded.offload.hold(block)
        dense = {name: self._weight(name) for index in range(len(groups)) for name in self._due[block, index]}
        layers = self.job.team.each(lambda: self._finished.load(number, dense))
        if layers is not None:
            self.earlier.append(self._finished.cost(number))
        else:
            layers = {}
            error = self._error(block, segment) if self.job.epochs else None
            for index, group in enumerate(groups):
                # with dense calibration the last run feeds the next block
                is_last = group is groups[-1] and not self.job.is_sequential and error is None
                self._measure(group, segment, tap, last=is_last)
                layers |= self._prune(self._due[block, index])
                self._forget(self._due[block, index])
            if error and layers:
                layers, errors = self._reconstruct(error, block, layers)
            if self._opened:
                self._opened.path(BLOCKS)
                cost = runs.total_cost(cost_since(start, self.job.device))
                self._finished.save(number, layers, dense, cost)
                self._log(block, layers, errors | {"seconds": cost["seconds"]})
        if self.job.loaded.offload and self._opened:
            self._replace(number, layers)
        if not self.job.is_sequential:
            segment.leave()
        self._waiting |= layers
        if not self._waits:
            self._apply(self._waiting)
            self._waiting = {}
        self._spend(sum(self.plan.capture.layer_seconds[name] for group in groups for name in group))

    def _measure(self, group: Sequence[str], segment: Segment | Passes, tap: Tap, *, last: bool) -> None:
        """Run the block once, and take in what enters some of its layers."""

        def run() -> None:
            with tap.feeding(self._sums, group):
                segment.run(last=last)

        self.job.team.each(run)

    def _error(self, block: str | None, segment: Segment) -> BlockError:
        """The error of a block that is still dense, over the real tokens of this process, images and texts apart."""
        last = self.plan.blocks[block][-1][-1]

        def classes(batch: int, output: Tensor) -> list[Tensor | None]:
            inputs = self.job.batches[batch]
            if output.dim() != 3 or len(output) != size_of(inputs):
                return [None]
            real = self.job.token_mask(last, output.shape[1], inputs)
            image = self.job.loaded.family.image_tokens(last, output.shape[1], inputs)
            masks = [real] if image is None else [image, ~image]
            if image is not None and real is not None:
                masks = [mask & real for mask in masks]
            return [mask if mask is None else mask.to(output.device) for mask in masks]

        return BlockError(segment.calls(), classes)

    def _reconstruct(
        self, error: BlockError, block: str | None, layers: dict[str, PrunedLayer]
    ) -> tuple[dict[str, PrunedLayer], dict[str, float]]:
        """Train the weights that layers keep. The weights of the model are afterwards what they were."""
        weights = {name: self._weight(name) for name in layers}
        dense = {name: weight.clone() for name, weight in weights.items()}
        # a weight that other blocks use too is pruned and left
        modules = {name: self.job.layers[name] for name in layers if len(self.job.users_of(name)) == 1}
        for name, layer in layers.items():
            weights[name].copy_(layer.weight)
        before, after = reconstruct(
            error,
            {name: layer.module.weight for name, layer in modules.items()},
            {name: oriented(layer, layers[name].kept) for name, layer in modules.items()},
            epochs=self.job.epochs,
            # a backward pass takes two forwards
            trained=lambda: self._spend(2 * self.plan.capture.batch_seconds[block]),
        )
        repaired = {name: replace(layer, weight=weights[name].clone()) for name, layer in layers.items()}
        for name, weight in dense.items():
            weights[name].copy_(weight)
        return repaired, {"error_pruned": before, "error_repaired": after}

    def _forget(self, names: Iterable[str]) -> None:
        """Drop the sums of layers that are pruned, unless a later block reads the same tensors."""
        spread = [name for group in self.job.spread for name in group]
        self._sums.forget([user for name in names for user in self.job.users_of(name)], keep=spread)

    def _prune(self, names: Iterable[str]) -> dict[str, PrunedLayer]:
        """Prune layers from what was measured, those that read one input together."""
        layers: dict[str, PrunedLayer] = {}
        users = {name: self.job.users_of(name) for name in names}
        for group, statistics in totals(self._sums, users, self.job.team):
            sums, weights = statistics.total(), {name: self._weight(name).contiguous() for name in group}
            if not sums.count:
                raise RunError(f"no token entered {group[0]}: leave it out of the scope")
            gradients = {name: self._gradients[name].to(self.job.device) for name in group if name in self._gradients}
            layers |= self.job.layerwise.prune(weights, sums, self.job.zeros, gradients)
        return layers

    def _replace(self, number: int, layers: Iterable[str]) -> None:
        """Have offloaded weights read as they are pruned, from the file of a finished block and that of the model."""

        def pruned(name: str, user: Layer, dense: Tensor) -> Tensor:
            return oriented(user, self._finished.load(number, {name: oriented(user, dense)})[name].weight).contiguous()

        for name in layers:
            for user in self.job.users_of(name):
                self.job.loaded.offload.changes[f"{user}.weight"] = partial(pruned, name, self.job.users[user])

    @torch.no_grad()
    def _apply(self, layers: dict[str, PrunedLayer]) -> None:
        for name, layer in layers.items():
            # which have weights of their own while the block of an offloaded model is held
            for user in self.job.users_of(name):
                self._weight(user).copy_(layer.weight)
            self.masks.set(name, oriented(self.job.layers[name], layer.kept))
            if layer.note:
                self.notes[name] = layer.note

    def _log(self, block: str | None, layers: dict[str, PrunedLayer], more: dict[str, float]) -> None:
        weights = sum(layer.kept.numel() for layer in layers.values())
        zeros = sum(int((~layer.kept).sum()) for layer in layers.values())
        line = {"block": block, "layers": len(layers), "weights": weights, "zeros": zeros}
        self._opened.log_metric({**line, **more})

    def _spend(self, seconds: float) -> None:
        self._seconds += seconds
        total = int(self.plan.seconds * 1000)
        self._progress(min(int(self._seconds * 1000), total), total)


def _due(job: Calibration, plan: CalibrationPlan) -> dict[tuple[str | None, int], list[str]]:
    """The layers that are pruned after each group of a block: those whose last module has been measured then."""
    last: dict[str, tuple[str | None, int]] = {}
    turns = [((block, index), group) for block, groups in plan.blocks.items() for index, group in enumerate(groups)]
    for turn, group in turns:
        last |= {job.owner[name]: turn for name in group}
    return {turn: [name for name in job.layers if last[name] == turn] for turn, _ in turns}
