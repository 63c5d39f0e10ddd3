"""The commands of calibrated pruning, on a tiny model of every family and on both built-in models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from idvl.errors import UsageError
from idvl.models.inputs import encode
from idvl.models.loading import load
from idvl.recipe import Recipe
from idvl.recipe import load as load_recipe
from idvl.session import choose_samples
from idvl.sparsity import obs
from idvl.sparsity.criteria.wanda import Wanda
from idvl.sparsity.masks import Masks
from idvl.workflows import compare_allocations
from idvl.workflows.prune import run
from tests.coverage.architectures import build
from tests.pruning.test_calibrate import BATCH, COMMON, N, checkpoint, inputs_of
from tests.support import tiny
from tests.support.reporter import Silent

# one of each family that tests/support/tiny.py has none of, built by tests/coverage
OTHERS = ("internvl", "qwen2_5_vl", "smolvlm", "gemma3", "bridgetower", "lfm2_vl", "vit_gpt2", "pix2struct")
BUILTIN = {"builtin/blip": "shapes", "builtin/vit": "digits"}
# what cannot be done: models without a loss on these samples, weights that store inputs as rows
NO_LOSS, NO_GROUPS = {"blip-vqa", "dinov2", "vilt"}, {"gpt2", "vit_gpt2"}

pytestmark = pytest.mark.slow


def recipe(kind: str, folder: Path, **settings: Any) -> Recipe:
    if kind in BUILTIN:
        named = {"model.name": kind, "data.dataset": BUILTIN[kind]}
    else:
        place = (
            folder if (folder / "model").exists() else checkpoint(folder, kind, build if kind in OTHERS else tiny.save)
        )
        named = {"model.name": str(place / "model"), "data.dataset": str(place / "pictures")}
    if kind.endswith("nlvr2"):
        named["data.second_image_column"] = "second"
    return load_recipe(None, named | COMMON | {"eval.after": False} | settings)


def tensors(loaded: Any, model: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """All that a forward pass gives."""
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(dict(loaded.family.call(model, batch))) if isinstance(leaf, Tensor)]


def pruned(kind: str, folder: Path, name: str, **settings: Any) -> tuple[Any, dict[str, Any], Masks]:
    """The model of a run, exact and equal to what the plain class opens; its report and masks."""
    made = recipe(kind, folder, **settings)
    report = run(made, folder=folder / name, reporter=Silent()).report
    masks, total = Masks.load(folder / name / "masks.safetensors"), report["total"]
    assert total["zeros"] == sum(masks.zeros.values()) == sum(layer["zeros"] for layer in report["layers"].values())
    assert total["zeros"] == round(total["asked"] * total["weights"])
    loaded = load(str(folder / name / "model"), device="cpu")
    plain = type(loaded.model).from_pretrained(folder / name / "model", dtype="float32").eval()
    for layer in masks.shapes:
        assert not plain.get_submodule(layer).weight[~masks.kept(layer)].any()
    dense = load(made.model.name, device="cpu")
    if "sparsegpt" not in settings.values():
        with torch.no_grad():
            for layer in masks.shapes:
                weight = dense.model.get_submodule(layer).weight
                weight.copy_(weight.masked_fill(~masks.kept(layer), 0))
        loaded = dense
    (batch,) = encode(loaded, samples_of(made)[:BATCH], batch_size=BATCH)
    both = tensors(loaded, loaded.model, batch), tensors(loaded, plain, batch)
    assert both[0] and all(torch.equal(one, other) for one, other in zip(*both, strict=True))
    return loaded, report, masks


def samples_of(made: Recipe) -> list[Any]:
    from idvl.data.splits import TRAINING
    from idvl.distributed import Team

    return choose_samples(made, Team(), split=TRAINING, n=N, force=True, distinct=False).samples


@pytest.mark.parametrize("kind", [*BUILTIN, *sorted(tiny.KINDS), *OTHERS])
def test_every_command(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idvl.reliability.FEWEST_RELIABLE_POINTS", 10)
    torch.set_num_threads(1)
    scored, score = [], Wanda.score
    monkeypatch.setattr(
        Wanda, "score", lambda *given: scored.append((given[1].clone(), score(*given))) or scored[-1][1]
    )
    factors, select = [], obs.select
    monkeypatch.setattr(
        obs, "select", lambda *given: factors.append((given[0].clone(), given[1].upper.diagonal())) or select(*given)
    )
    wanda, ecoflap = {"prune.criterion": "wanda"}, {"prune.allocation": "ecoflap", "prune.sparsity": 0.6}
    _, report, masks = pruned(kind, tmp_path, "wanda", **wanda)
    made = recipe(kind, tmp_path)
    dense = load(made.model.name, device="cpu")
    weight, scores = scored[0]
    check_scores(dense, samples_of(made), weight, scores, masks, wanda_scores)
    if kind in NO_GROUPS:
        with pytest.raises(UsageError, match="2:4 groups inputs, which .* stores as rows"):
            pruned(kind, tmp_path, "groups", **wanda, **{"prune.structure": "2:4"})
    else:
        _, _, masks = pruned(kind, tmp_path, "groups", **{"prune.criterion": "sparsegpt", "prune.structure": "2:4"})
        weight, diagonal = factors[0]
        check_scores(dense, samples_of(made), weight, (weight / diagonal).square(), masks, sparsegpt_scores)
    if kind in NO_LOSS:
        with pytest.raises(UsageError, match="no loss (for|of)"):
            pruned(kind, tmp_path, "ecoflap", **wanda, **ecoflap)
        assert not (tmp_path / "ecoflap").exists()
    else:
        pruned(kind, tmp_path, "ecoflap", **wanda, **ecoflap)
    modalities = set(report["modalities"])
    both = {"prune.modality_sparsity": "vision=0.5,language=0.7", "prune.sparsity": None}
    budget = both if {"vision", "language"} <= modalities <= {"vision", "language", "cross"} else {}
    settings = {**wanda, "prune.allocation": "id", "data.force": True, **budget}
    _, report, _ = pruned(kind, tmp_path, "id", **settings)
    if budget:
        vision = [layer for layer in report["layers"].values() if layer["modality"] == "vision"]
        assert sum(layer["zeros"] for layer in vision) == round(0.5 * sum(layer["weights"] for layer in vision))
    names = ["uniform", "id", "owl", "alpha", *(["ecoflap"] if kind not in NO_LOSS else [])]
    compared = recipe(kind, tmp_path, **wanda, **{"data.force": True, "prune.sparsity": 0.6})
    document = compare_allocations.run(compared, names, folder=tmp_path / "plan", reporter=Silent()).document
    weights = {name: layer["weights"] for name, layer in document["layers"].items()}
    for name in names:
        zeros = [round(share * weights[one]) for one, share in document["allocations"][name]["sparsity"].items()]
        assert sum(zeros) == round(0.6 * sum(weights.values()))


def wanda_scores(weight: Tensor, inputs: Tensor) -> Tensor:
    """|w| times the root mean square of its input."""
    return weight.abs() * inputs.square().mean(0).sqrt()


def sparsegpt_scores(weight: Tensor, inputs: Tensor) -> Tensor:
    """w_j^2 / [H_j^-1]_jj: each H_j, the damped H without the columns before j, is inverted by itself."""
    hessian = inputs.T @ inputs
    assert hessian.diagonal().all()
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    return weight.square() / torch.stack([hessian[j:, j:].inverse()[0, 0] for j in range(len(hessian))])


def check_scores(
    dense: Any,
    samples: list[Any],
    weight: Tensor,
    scores: Tensor,
    masks: Masks,
    reference: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """The scores of the layer that was pruned first are those of the reference in float64."""
    modules = {name: dense.model.get_submodule(name) for name in masks.shapes}
    values = {
        name: module.weight.detach() if isinstance(module, torch.nn.Linear) else module.weight.detach().T
        for name, module in modules.items()
    }
    (name, *_) = [name for name, value in values.items() if value.shape == weight.shape and torch.equal(value, weight)]
    expected = reference(values[name].double(), inputs_of(dense, samples, [name])[name])
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=0)
