"""A model learns and is evaluated on whether sentences are true by what their labels mean, not by how these sort."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from idvl.data.samples import Selection, select
from idvl.errors import UsageError
from idvl.models.classes import with_labels_of_head
from idvl.models.loading import Loaded, load
from idvl.recipe import load as load_recipe
from idvl.workflows import evaluate, prune, recover, sensitivity
from tests.support import tiny
from tests.support.reporter import Silent

TRUE = [True, False, False, True, False, True, True, True, False, True]
ASK = "labels must say whether a sentence is true: write true or false, or 1 or 0, in place of"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truths")
    for number, sample in enumerate(tiny.samples(len(TRUE))):
        sample.source.save(folder / f"{number}.png")
        sample.second.save(folder / f"{number}b.png")
    tiny.save("vilt-nlvr2", folder / "model")
    return folder


@pytest.fixture(scope="module")
def loaded(place: Path) -> Loaded:
    return load(str(place / "model"), device="cpu")


def labelled(place: Path, cells: list[Any], name: str = "pairs") -> str:
    """A table of statements with these labels; its path."""
    rows = [
        {"left_image": f"{i % 10}.png", "right_image": f"{i % 10}b.png", "sentence": "a red star", "label": cell}
        for i, cell in enumerate(cells)
    ]
    (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(place / f"{name}.jsonl")


def selected(place: Path, cells: list[Any], n: int | None = None) -> Selection:
    return select(labelled(place, cells), label_column="label", force=True, distinct=False, n=n)


@pytest.mark.parametrize(
    ("true", "false"),
    [("True", "False"), ("yes", "NO"), ("T", "f"), ("y", "n"), ("1", "0"), (1, 0), (1.0, 0.0), (True, False)],
)
def test_words_and_numbers_that_mean_true_and_false(true: Any, false: Any, place: Path, loaded: Loaded) -> None:
    for truths in (TRUE, [True] * len(TRUE)):  # a label that stands alone means the same
        read = with_labels_of_head(loaded, selected(place, [true if truth else false for truth in truths]))
        assert [sample.label for sample in read.samples] == truths
        assert read.description["classes"] == ["false", "true"]


def test_names_of_classes_are_read_by_what_they_mean(place: Path, loaded: Loaded) -> None:
    numbers = selected(place, [int(truth) for truth in TRUE])

    def read(names: list[str]) -> Selection:
        return with_labels_of_head(loaded, replace(numbers, description=numbers.description | {"classes": names}))

    turned = read(["True", "False"])
    assert [sample.label for sample in turned.samples] == [not truth for truth in TRUE]
    assert turned.description["classes"] == ["false", "true"]
    with pytest.raises(UsageError, match=f"{ASK} 'right', 'wrong'$"):
        read(["right", "wrong"])
    config = loaded.model.config
    try:  # a head of other words, which are those of the dataset
        config.id2label = {0: "mismatch", 1: "match"}
        assert [sample.label for sample in read(["Match", "Mismatch"]).samples] == [not truth for truth in TRUE]
    finally:
        config.id2label = {0: "False", 1: "True"}


@pytest.mark.parametrize(
    ("true", "false", "said"),
    [
        ("right", "wrong", f"{ASK} 'right', 'wrong'$"),
        ("maybe", "no", f"{ASK} 'maybe'$"),
        (2, 1, f"{ASK} numbers up to 2$"),
        (1, -1, "every label is 1 or missing .* does not say that a sentence is false"),
        (True, None, "every label is 1 or missing .* does not say that a sentence is false"),
        (None, 0, "every label is 0 or missing .* does not say that a sentence is true"),
    ],
)
def test_other_labels_are_refused(true: Any, false: Any, said: str, place: Path, loaded: Loaded) -> None:
    with pytest.raises(UsageError, match=said):
        with_labels_of_head(loaded, selected(place, [true if truth else false for truth in TRUE]))


def test_a_third_label_is_refused_though_no_sample_of_it_is_drawn(place: Path, loaded: Loaded) -> None:
    drawn = selected(place, [0, 1] * 20 + [2], n=4)
    assert {sample.label for sample in drawn.samples} <= {0, 1}
    with pytest.raises(UsageError, match=f"{ASK} numbers up to 2$"):
        with_labels_of_head(loaded, drawn)


def test_training_calibration_and_evaluation_read_labels_alike(place: Path, tmp_path: Path) -> None:
    def recipe_of(words: tuple[str, str], settings: dict[str, Any]) -> Any:
        dataset = labelled(place, [words[0] if truth else words[1] for truth in TRUE])
        named = {"model.name": str(place / "model"), "data.dataset": dataset, "data.label_column": "label"}
        return load_recipe(None, named | settings)

    training = {"train.batch_size": 4, "train.max_steps": 1, "eval.after": False}
    platon = {**training, "prune.id_weight": "none", "prune.sparsity": 0.5}
    gradient = {"prune.criterion": "gradient", "prune.calibration": "dense", "prune.sparsity": 0.5}
    pruned, run = tmp_path / "pruned", {"folder": tmp_path / "run", "reporter": Silent()}
    prune.run(recipe_of(("yes", "no"), platon), folder=pruned, reporter=Silent())
    for work, settings in (
        (prune.run, platon),
        (prune.run, {**gradient, "prune.calibration_samples": 8}),
        (lambda recipe, **how: sensitivity.run(recipe, ratios=[0.5], **how), {}),
        (recover.run, {**training, "model.name": str(pruned), "recover.method": "full"}),
        (evaluate.run, {}),
    ):
        with pytest.raises(UsageError, match=f"{ASK} 'right', 'wrong'$"):
            work(recipe_of(("right", "wrong"), settings), **run)
    assert not (tmp_path / "run").exists()
    evaluate.run(recipe_of(("yes", "no"), {"eval.resamples": 100}), **run)
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == TRUE
