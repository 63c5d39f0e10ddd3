"""The recipes that ship: they load, say what they are for, and hold the numbers of the paper's Table 8."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from idvl.errors import UsageError
from idvl.recipe import Recipe, load
from idvl.recipes import find, names
from idvl.reporting.expected import PAPER
from idvl.sweep.grid import read

FOLDER = Path(__file__).parents[1] / "recipes"
FILES = sorted(FOLDER.glob("*.yaml"))
PRUNING = [path for path in FILES if "prune" in yaml.safe_load(path.read_text())]

# file -> Table 8: batch size, epochs, i, f, learning rate, weight decay
TABLE_8 = {
    "blip-coco-platon-id-80": (20, 5, 1, 1, 1e-5, 0.0),
    "blip-nlvr2-platon-id-40": (10, 10, 0, 5, 3e-5, 0.05),
    "vit-cifar100-platon-id-40": (128, 50, 0, 20, 5e-4, 0.05),
    "vit-imagenet-platon-id-40": (128, 15, 0, 10, 5e-4, 0.05),
    "blip-coco-one-shot-80": (20, 0, None, None, 1e-5, 0.0),
    "clip-flickr30k-one-shot-40": (2, 0, None, None, 1e-5, 0.05),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_opens_with_its_command_and_resolves(path: Path) -> None:
    command = "prune" if path in PRUNING else "estimate-id"
    assert path.read_text().startswith(f"# idvl {command} --recipe {path.stem}")
    assert load(path).model.name


def test_every_row_of_table_8_has_a_recipe() -> None:
    assert {path.stem for path in PRUNING} >= set(TABLE_8)


@pytest.mark.parametrize("name", TABLE_8)
def test_a_recipe_holds_its_row(name: str) -> None:
    recipe = load(FOLDER / f"{name}.yaml")
    batch, epochs, initial, final, rate, decay = TABLE_8[name]
    train, prune = recipe.train, recipe.prune
    assert (train.batch_size, train.epochs, train.learning_rate, train.weight_decay) == (batch, epochs, rate, decay)
    assert prune.sparsity == int(name[-2:]) / 100
    assert (prune.criterion, prune.beta1, prune.beta2, prune.window) == ("platon", 0.85, 0.95, 10)
    if epochs:
        # i and f are epochs in the table, shares of all steps here
        assert (prune.schedule, prune.mask_every) == ("cubic", 10)
        assert (prune.initial * epochs, prune.final * epochs) == pytest.approx((initial, final), rel=1e-12)
    else:
        assert (prune.schedule, train.max_steps, prune.initial, prune.final) == ("one-shot", 50, 0, 0)


def test_a_packaged_recipe_is_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names("recipe") == sorted(path.stem for path in FILES)
    assert names("matrix") == sorted(map(key_of, MATRICES))
    for kind in ("recipe", "matrix"):
        assert all(find(name, kind).samefile(FOLDER / f"{name}.yaml") for name in names(kind))
    assert load("demo-prune") == load(FOLDER / "demo-prune.yaml")
    assert len(read("small/core").cells) == CELLS["small/core"]


def test_a_file_that_exists_comes_before_a_packaged_recipe_and_a_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # such as --output demo
    assert load("demo").model.name == "builtin/blip"
    (tmp_path / "demo-prune").write_text("model: {name: mine}")
    assert load("demo-prune").model.name == "mine"


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("recipe", "demo-prun", "there is no recipe 'demo-prun'; did you mean 'demo-prune' or 'demo'?"),
        ("recipe", "recipes/demo.yaml", "did you mean 'demo'"),
        ("recipe", "small/core", "there is no recipe 'small/core'; it is a matrix: give it to --matrix"),
        ("recipe", "zzz", "there is no recipe 'zzz'; idvl has blip-coco, blip-coco-one-shot-80, .*, demo, "),
        ("matrix", "small/cor", "there is no matrix 'small/cor'; did you mean 'small/core'"),
        ("matrix", "demo", "there is no matrix 'demo'; it is a recipe: give it to --recipe"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    kind: str, name: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=hint.replace("?", r"\?")) as refusal:
        {"recipe": load, "matrix": read}[kind](name)
    assert "\n" not in str(refusal.value)


def test_blip_is_trained_and_decoded_on_coco_as_by_its_authors() -> None:
    """BLIP's med_config.json, models/med.py, data/__init__.py and utils.py."""
    cells = [cell.recipe for path in MATRICES if path.parent.name == "paper" for cell in read(path).cells]
    recipes = [load(FOLDER / "blip-coco-platon-id-80.yaml"), load(FOLDER / "blip-coco-one-shot-80.yaml"), *cells]
    coco = [recipe for recipe in recipes if recipe.data.dataset == "coco" and "blip" in recipe.model.name]
    assert {recipe.eval.beam_length for recipe in coco if "prune" in recipe.model_fields_set} == {"whole"}
    trained = [recipe for recipe in coco if recipe.train.epochs]
    assert len(trained) > 50
    for recipe in trained:
        train = recipe.train
        assert (train.texts, train.augmentation, train.lr_schedule) == ("all", "blip", "cosine_by_epoch")
        assert (train.label_smoothing, train.text_dropout, recipe.model.clean_texts) == (0.1, 0.1, True)


MATRICES = sorted(FOLDER.glob("*/*.yaml"))
# file -> its cells
CELLS = {
    "small/settings": 9, "small/core": 54, "small/rates": 54, "small/exponents": 18, "small/sparsities": 54,
    "small/scopes": 36, "small/after": 14, "small/dense-eval": 6, "small/dimensions": 26, "small/vit": 108,
    "small/ratios": 18, "small/fashion": 12,
    "paper/table-1": 24, "paper/table-2": 12, "paper/table-3": 12, "paper/table-4": 12, "paper/table-5": 2,
    "paper/table-6": 9, "paper/table-7": 4,
    "paper/figure-1": 15, "paper/figure-2": 3, "paper/figure-2-others": 3, "paper/figure-3": 6, "paper/figure-4": 36,
    "paper/figure-5": 4, "paper/figure-6": 12,
    "ecoflap/blip-coco": 2, "ecoflap/blip-flickr30k": 2, "ecoflap/blip-vqa": 2, "ecoflap/blip-nlvr2": 2,
    "ecoflap/blip2": 2,
}  # fmt: skip


def key_of(path: Path) -> str:
    return path.relative_to(FOLDER).with_suffix("").as_posix()


def test_every_matrix_is_known() -> None:
    assert {key_of(path) for path in MATRICES} == set(CELLS)


@pytest.mark.parametrize("path", MATRICES, ids=key_of)
def test_every_cell_of_a_matrix_is_accepted(path: Path) -> None:
    found = read(path)
    assert (len(found.cells), found.left_out) == (CELLS[key_of(path)], {})
    assert len({cell.name for cell in found.cells}) == len(found.cells)


def test_matrices_open_with_their_command() -> None:
    command = "# idvl prune --matrix {0} --output runs/{0} --resume\n"
    assert [path for path in MATRICES if not path.read_text().startswith(command.format(key_of(path)))] == []


def rows_of_the_paper(recipe: Recipe) -> list[tuple[str, dict[str, float]]]:
    """Table and metric -> number of every row of the paper that a cell's recipe repeats."""
    prune = recipe.prune
    repeated = (prune.criterion, prune.id_weight, prune.scope, prune.sparsity)
    return [
        (table["name"], dict(zip(table["metrics"], row[4:], strict=True)))
        for table in json.loads(PAPER.read_text())["tables"]
        if (table["dataset"], table["schedule"]) == (recipe.data.dataset, prune.schedule)
        for row in table["rows"]
        if tuple(row[:4]) == repeated
    ]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7])
def test_a_table_of_the_paper_is_repeated_whole_with_its_numbers(number: int) -> None:
    cells = read(FOLDER / "paper" / f"table-{number}.yaml").cells
    for cell in cells:
        rows = [row for table, row in rows_of_the_paper(cell.recipe) if table.startswith(f"Table {number}")]
        assert rows == [cell.published]
    tables = json.loads(PAPER.read_text())["tables"]
    rows = [row for table in tables if table["name"].startswith(f"Table {number}") for row in table["rows"]]
    assert len(cells) == len(rows)


# magnitude without ID at 80 % has other numbers in Table 7 than in Table 1
@pytest.mark.parametrize(("number", "tables"), [(3, "16"), (4, "16"), (5, "7"), (6, "6")])
def test_a_figure_drawn_from_a_table_has_its_numbers(number: int, tables: str) -> None:
    cells = read(FOLDER / "paper" / f"figure-{number}.yaml").cells
    assert any(cell.published for cell in cells)
    for cell in cells:
        rows = [row for table, row in rows_of_the_paper(cell.recipe) if table.removeprefix("Table ")[0] in tables]
        assert bool(rows) == bool(cell.published)
        assert all(row["CIDEr"] == cell.published["CIDEr"] for row in rows)


@pytest.mark.parametrize(
    ("number", "sparsities"), [(4, {0.2, 0.4, 0.6, 0.8, 0.9, 0.95}), (5, {0.8}), (6, {0.8, 0.9, 0.95})]
)
def test_a_figure_of_dimensions_or_scopes_has_the_papers_sparsities(number: int, sparsities: set[float]) -> None:
    matrix = read(FOLDER / "paper" / f"figure-{number}.yaml")
    assert {cell.recipe.prune.sparsity for cell in matrix.cells} == sparsities
    # what a figure of dimensions shows has to be measured too
    assert (number == 4) or "estimate-id" in matrix.run


def test_the_losses_named_beside_figure_1_are_there() -> None:
    found = {cell.name: cell.published for cell in read(FOLDER / "paper" / "figure-1.yaml").cells if cell.published}
    lost = {name: 133.3 - numbers["CIDEr"] for name, numbers in found.items()}
    assert lost == pytest.approx({"sparsity-0.4-vision": 75.4, "sparsity-0.4-language": 1.9})
