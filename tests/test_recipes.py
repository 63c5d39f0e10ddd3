"""The recipes that ship: they load, say what they are for, and hold the numbers of the paper's Table 8."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from idvl.errors import UsageError
from idvl.recipe import load

FOLDER = Path(__file__).parents[1] / "recipes"
FILES = sorted(FOLDER.glob("*.yaml"))
PRUNING = [path for path in FILES if "prune" in yaml.safe_load(path.read_text())]
NEEDY = [path for path in PRUNING if "needs" in yaml.safe_load(path.read_text())]

# file -> Table 8: batch size, epochs, i, f, learning rate, weight decay
TABLE_8 = {
    "blip-coco-platon-id-80": (20, 5, 1, 1, 1e-5, 0.0),
    "blip-nlvr2-platon-id-40": (10, 10, 0, 5, 3e-5, 0.05),
    "vit-cifar100-platon-id-40": (128, 50, 0, 20, 5e-4, 0.05),
    "vit-imagenet-platon-id-40": (128, 15, 0, 10, 5e-4, 0.05),
    "blip-coco-one-shot-80": (20, 0, None, None, 1e-5, 0.0),
    "clip-flickr30k-one-shot-40": (2, 0, None, None, 1e-5, 0.05),
}


def without_needs(path: Path, folder: Path) -> Path:
    copy = folder / path.name
    copy.write_text(re.sub(r"(?m)^needs: .*\n", "", path.read_text()))
    return copy


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_opens_with_its_command_and_resolves(path: Path, tmp_path: Path) -> None:
    command = "prune" if path in PRUNING else "estimate-id"
    assert path.read_text().startswith(f"# idvl {command} --recipe recipes/{path.name}")
    assert load(without_needs(path, tmp_path)).model.name


def test_every_row_of_table_8_has_a_recipe() -> None:
    assert {path.stem for path in PRUNING} >= set(TABLE_8)


@pytest.mark.parametrize("name", TABLE_8)
def test_a_recipe_holds_its_row(name: str, tmp_path: Path) -> None:
    recipe = load(without_needs(FOLDER / f"{name}.yaml", tmp_path))
    batch, epochs, initial, final, rate, decay = TABLE_8[name]
    train, prune = recipe.train, recipe.prune
    assert (train.batch_size, train.epochs, train.learning_rate, train.weight_decay) == (batch, epochs, rate, decay)
    assert prune.sparsity == int(name[-2:]) / 100
    assert (prune.criterion, prune.mask_every, prune.beta1, prune.beta2, prune.window) == ("platon", 10, 0.85, 0.95, 10)
    if epochs:
        # i and f are epochs in the table, shares of all steps here
        assert prune.schedule == "cubic"
        assert (prune.initial * epochs, prune.final * epochs) == pytest.approx((initial, final), rel=1e-12)
    else:
        assert (prune.schedule, train.max_steps, prune.initial, prune.final) == ("one-shot", 50, 0, 0)


@pytest.mark.parametrize("path", [FOLDER / f"{name}.yaml" for name in TABLE_8], ids=lambda path: path.stem)
def test_a_recipe_says_its_hardware_time_and_number_with_its_table(path: Path) -> None:
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert all(word in head for word in ("Hardware: ", "Time: ", "estimated", "Table 8, row "))
    assert re.search(r"Expected[:,].*\n?.*Table [123457]", head)


@pytest.mark.parametrize("path", NEEDY, ids=lambda path: path.stem)
def test_what_cannot_be_carried_out_yet_is_refused_in_one_line(path: Path) -> None:
    with pytest.raises(UsageError, match="yet: it needs .*NLVR2") as refusal:
        load(path)
    assert "\n" not in str(refusal.value)


def test_only_rows_without_their_family_or_dataset_need_something() -> None:
    assert {path.stem.split("-")[1] for path in NEEDY} == {"nlvr2"}
