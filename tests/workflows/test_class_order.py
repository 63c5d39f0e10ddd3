"""A classifier learns and is evaluated on a dataset's classes by their names, in whatever order its head lists them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from idvl.data.samples import select
from idvl.distributed import Team
from idvl.errors import UsageError
from idvl.models.loading import load
from idvl.pruning import calibration, signals
from idvl.pruning.sensitivity import SensitivityRun
from idvl.pruning.settings import resolve
from idvl.recipe import load as load_recipe
from idvl.sparsity.masks import Masks
from idvl.workflows import evaluate, prune, recover, sensitivity
from tests.support import tiny
from tests.support.reporter import Silent

NAMES, ORDER = ["bus", "car", "tram"], [2, 0, 1]
HEAD = ("classifier.weight", "classifier.bias")
TRAINING = {"train.batch_size": 4, "train.max_steps": 4, "train.learning_rate": 1e-2, "eval.after": False}
CALIBRATION = {"prune.calibration_samples": 8, "data.batch_size": 4, "prune.sparsity": 0.5, "eval.after": False}
PLATON = {**TRAINING, "prune.id_weight": "none", "prune.sparsity": 0.5}
GRADIENT = {**CALIBRATION, "prune.criterion": "gradient", "prune.calibration": "dense"}
ECOFLAP = {**CALIBRATION, "prune.criterion": "wanda", "prune.allocation": "ecoflap"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, vehicles/, with a folder for each class, and three classifiers.

    ordered/ lists the classes as the dataset does, permuted/ the same rows in another order, partial/ another class.
    """
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("classes")
    for number, sample in enumerate(tiny.samples(12)):
        path = folder / "vehicles" / NAMES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sample.source.save(path)
    weights = load_file(tiny.save("vit", folder / "ten") / "model.safetensors")
    weights |= {key: weights[key][:3].contiguous() for key in HEAD}
    heads = {"ordered": NAMES, "permuted": [NAMES[row] for row in ORDER], "partial": [*NAMES[:2], "van"]}
    for name, labels in heads.items():
        shutil.copytree(folder / "ten", folder / name)
        config = json.loads((folder / name / "config.json").read_text())
        config |= {"id2label": dict(enumerate(labels)), "label2id": {label: row for row, label in enumerate(labels)}}
        (folder / name / "config.json").write_text(json.dumps(config))
        rows = ORDER if name == "permuted" else [0, 1, 2]
        stored = weights | {key: weights[key][rows].contiguous() for key in HEAD}
        save_file(stored, folder / name / "model.safetensors", metadata={"format": "pt"})
    return folder


def recipe_of(place: Path, model: str | Path, settings: dict[str, Any]) -> Any:
    named = {"model.name": str(place / model), "data.dataset": str(place / "vehicles")}
    return load_recipe(None, {**named, **settings})


def assert_same(ordered: Path, permuted: Path) -> None:
    """Equal masks, and equal weights once the rows of the permuted head are back in order."""
    masks = [Masks.load(folder / "masks.safetensors") for folder in (ordered, permuted)]
    expected, found = (load_file(folder / "model" / "model.safetensors") for folder in (ordered, permuted))
    back = torch.tensor(ORDER).argsort()
    found |= {key: found[key][back] for key in HEAD}
    for name in masks[0].shapes:
        kept = [mask.kept(name) for mask in masks]
        assert torch.equal(kept[0], kept[1][back] if f"{name}.weight" in HEAD else kept[1]), name
    for key in expected:
        # Adam scales up what rounding leaves of the gradient of a key's bias, which is zero
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-3)


def test_training_does_not_depend_on_the_order_of_a_heads_classes(place: Path, tmp_path: Path) -> None:
    for model in ("ordered", "permuted"):
        prune.run(recipe_of(place, model, PLATON), folder=tmp_path / model, reporter=Silent())
    assert_same(tmp_path / "ordered", tmp_path / "permuted")


def test_calibration_and_recovery_do_not_depend_on_the_order_of_a_heads_classes(place: Path, tmp_path: Path) -> None:
    recovered = [tmp_path / f"{model}-recovered" for model in ("ordered", "permuted")]
    for model, folder in zip(("ordered", "permuted"), recovered, strict=True):
        start = tmp_path / model
        prune.run(recipe_of(place, model, GRADIENT), folder=start, reporter=Silent())
        recover.run(recipe_of(place, start, {**TRAINING, "recover.method": "full"}), folder=folder, reporter=Silent())
    assert_same(tmp_path / "ordered", tmp_path / "permuted")
    assert_same(*recovered)
    taught = {**TRAINING, "train.distill": 0.5, "recover.teacher": str(place / "permuted")}
    with pytest.raises(UsageError, match="lists its classes in another order than the model \\('bus' first\\)"):
        recover.run(recipe_of(place, tmp_path / "ordered", taught), folder=tmp_path / "taught", reporter=Silent())
    config = json.loads((shutil.copytree(place / "ordered", tmp_path / "animals") / "config.json").read_text())
    config["id2label"] = dict(enumerate(["cat", "dog", "cow"]))
    (tmp_path / "animals" / "config.json").write_text(json.dumps(config | {"label2id": None}))
    taught["recover.teacher"] = str(tmp_path / "animals")
    with pytest.raises(UsageError, match="the teacher .*animals' knows other classes than the model"):
        recover.run(recipe_of(place, tmp_path / "ordered", taught), folder=tmp_path / "taught", reporter=Silent())


def test_losses_and_gradients_do_not_depend_on_the_order_of_a_heads_classes(place: Path, tmp_path: Path) -> None:
    losses, norms = [], []
    selection = select(str(place / "vehicles"), force=True)
    for model in ("ordered", "permuted"):
        loaded = load(str(place / model), device="cpu")
        work = SensitivityRun(recipe_of(place, model, {}), loaded, selection, Team(), Silent(), [0.5])
        losses.append(work.probe.loss())
        recipe = resolve(recipe_of(place, model, ECOFLAP))
        job = calibration.gather(recipe, torch.device("cpu"), Team(), Silent(), store=tmp_path / "images")
        norms.append(signals.measure(job, Silent()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_a_class_that_the_head_lacks_is_refused_by_training_and_evaluation_alike(place: Path, tmp_path: Path) -> None:
    model, options = "partial", {"folder": tmp_path / "run", "reporter": Silent()}
    said = []
    for run, settings in (
        *((prune.run, settings) for settings in (PLATON, GRADIENT, ECOFLAP)),
        (lambda recipe, **how: sensitivity.run(recipe, ratios=[0.5], **how), {}),
        (evaluate.run, {}),
    ):
        with pytest.raises(UsageError, match=r"lacks classes of the dataset.*\(tram; .* samples\)") as error:
            run(recipe_of(place, model, settings), **options)
        said.append(str(error.value))
    assert len({text.partition("(")[0] for text in said}) == 1 and not (tmp_path / "run").exists()
    # what needs no label takes the images of any classes
    wanda = {**CALIBRATION, "prune.criterion": "wanda"}
    assert prune.run(recipe_of(place, model, wanda), plan_only=True, **options).plan
