"""Recipes: files, overrides and defaults, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from idvl.errors import UsageError
from idvl.recipe import described, keys, load, parse_assignments, parse_bytes

NAME = {"model.name": "builtin/blip"}


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_overrides_go_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "model:\n  name: a\ndata:\n  samples: 7\n  seed: 3\nestimate:\n")
    recipe = load(path, {"data.samples": 9, "estimate.tokens": "mean"})
    assert (recipe.model.name, recipe.data.samples, recipe.data.seed) == ("a", 9, 3)
    assert (recipe.estimate.tokens, recipe.estimate.estimator) == ("mean", "twonn")


def test_a_resolved_recipe_reads_back_the_same(tmp_path: Path) -> None:
    overrides = {**NAME, "estimate.modality": "vision, cross", "estimate.memory": "1.5 GiB", "data.data_dir": "/data"}
    recipe = load(None, overrides)
    recipe.save(tmp_path / "recipe.yaml")
    assert load(tmp_path / "recipe.yaml") == recipe
    assert recipe.estimate.modality == ["vision", "cross"]
    assert recipe.estimate.memory_bytes == 3 * 2**29
    assert load(None, NAME).estimate.memory_bytes is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"estimate.estimater": "twonn"}, "unknown key 'estimate.estimater'; did you mean 'estimate.estimator'?"),
        ({"estimater": "twonn"}, "unknown key 'estimater'; did you mean 'estimate.estimator'?"),
        ({"data.tokens": "mean"}, "unknown key 'data.tokens'; did you mean 'estimate.tokens'?"),
        ({"data.qqq": "1"}, "unknown key 'data.qqq'; known are data.dataset, data.data_dir"),
        ({"modle.name": "a"}, "unknown key 'modle'; did you mean 'model'?"),
        ({"qqq.zzz": "1"}, "unknown key 'qqq'; known are model, data, estimate"),
        (
            {"estimate.tokens": "mena"},
            "estimate.tokens: 'mena' is not one of flatten, mean, first, last, each; did you",
        ),
        ({"estimate.modality": "vison"}, "estimate.modality: 'vison' is not one of vision, .*; did you mean 'vision'?"),
        ({"estimate.memory": "8 apples"}, "estimate.memory takes a size such as 8GiB or 500MB, not '8 apples'"),
        ({"data.samples": "many"}, "data.samples takes a whole number, not 'many'"),
        ({"train.epochs": 2.5}, "train.epochs takes a whole number, not 2.5"),
        ({"train.epochs": "2.5"}, "train.epochs takes a whole number, not '2.5'"),
        ({"train.epochs": [1]}, "train.epochs takes a whole number, not .1."),
        ({"prune.sparsity": "80%"}, "prune.sparsity takes a number, not '80%'; 80 % is 0.8"),
        ({"prune.sparsity": "most"}, "prune.sparsity takes a number, not 'most'"),
        ({"eval.task": "captioning"}, "eval.task: 'captioning' is not one of caption, .*; did you mean 'caption'?"),
        ({"data.samples": 0}, "data.samples: .*greater than or equal to 1, not 0"),
        ({"data.samples": 10**400}, "data.samples: .*less than or equal to 1000000000, not 10000"),
        ({"train.max_steps": "1_0"}, "train.max_steps takes a number without underscores, not .1_0"),
        ({"train.epochs": True}, "train.epochs takes a number or text, not true"),
        ({"train.warmup": 1}, "train.warmup: must be less than 1, not 1"),
        ({"train.clip": "inf"}, "train.clip: must be a finite number, not 'inf'"),
        ({"prune.id_exponent": float("inf")}, "prune.id_exponent: .*, not inf"),
        ({"prune.id_exponent": 1e308}, "prune.id_exponent: .*less than or equal to 40, not 1e.308"),
        ({"eval.resamples": 10**12}, "eval.resamples: .*less than or equal to 100000"),
        ({"prune.sparsity": 80.0}, "prune.sparsity: must be less than 1, not 80.0; 80 % is 0.8"),
        ({"prune.sparsity": "1"}, "prune.sparsity: must be less than 1, not '1'$"),
        ({"prune.beta1": 1.5}, "prune.beta1: must be less than or equal to 1, not 1.5$"),
        ({"prune.floor": "50"}, "prune.floor: .*, not '50'; 50 % is 0.5"),
        ({"train.max_steps": "none"}, "train.max_steps takes a whole number, not 'none'; no value at all is null"),
        ({"prune.structure": "\uff12:\uff14"}, "prune.structure takes unstructured or N:M, such as 2:4, not"),
        ({"model.name": "x" * 5000}, "model.name: string should have at most 4096 characters, not 'xxx"),
        ({"data.data_dir": "a\0b"}, r"data.data_dir takes text without NUL characters, not 'a\\x00b'"),
        ({"train.report_to": ["a\udcffb"]}, r"train.report_to takes valid UTF-8, not 'a\\udcffb'"),
        ({"data.split": ""}, "data.split takes a value, not ''; leave it out for the default"),
        ({"eval.batch_size": "0"}, 'eval.batch_size takes a number of samples, or "auto", not .0'),
        ({"eval.templates": {"a": ["x" * 1000] * 1000}}, "eval.templates: .*, not {'a'"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_the_nearest_word(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")) as refusal:
        load(None, NAME | overrides)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no sections"),
        ("- a", "holds no sections"),
        ("model: [", "is not valid YAML"),
        ("model: blip", "model: .*'blip'"),
        ("1: 2\n", "unknown key '1'; known are model, data"),
        ("model:\n  name: a\n  1: 2\n", "unknown key 'model.1'; known are model.name"),
        ("model:\n  name: 12\n", "model.name takes text, not 12"),
        ("data:\n  samples: 5\n", "no model: name one"),
        ("model:\n  name: a\n  nam: b\n", "did you mean 'model.name'"),
    ],
)
def test_a_bad_file_is_told_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError, match=message) as refusal:
        load(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no recipe"):
        load(tmp_path / "none.yaml")


def test_an_override_of_a_value_that_is_no_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.name"):
        load(write(tmp_path, "model: blip"), {"model.name": "a"})


def test_assignments() -> None:
    found = parse_assignments(["data.seed=3", "model.revision = a=b", "estimate.memory=null"])
    assert found == {"data.seed": "3", "model.revision": "a=b", "estimate.memory": None}
    assert load(None, NAME | found).data.seed == 3
    # a word where it is a choice, or a column's name
    chosen = load(
        None, NAME | parse_assignments(["prune.id_weight=none", "prune.compat=none", "data.text_column=none"])
    )
    assert (chosen.prune.id_weight, chosen.prune.compat, chosen.data.text_column) == ("none", "none", "none")
    with pytest.raises(UsageError, match="--set takes key=value"):
        parse_assignments(["data.seed"])


def test_a_lone_text_is_a_list_of_one() -> None:
    words = [
        "eval.templates=a photo, of a {}.",
        "eval.metrics=bleu",
        "train.report_to=wandb",
        "estimate.modality=cross",
    ]
    recipe = load(None, NAME | parse_assignments(words))
    assert recipe.eval.templates == ["a photo, of a {}."] and recipe.eval.metrics == ["bleu"]
    assert recipe.train.report_to == ["wandb"] and recipe.estimate.modality == ["cross"]
    lists = [key for key, schema in described().items() if schema["type"] == "array"]
    assert sorted(lists) == sorted(word.partition("=")[0] for word in words)


def test_every_setting_is_a_key() -> None:
    assert {"model.name", "data.samples", "estimate.spill"} <= set(keys())
    assert len(keys()) == len(set(keys()))


@pytest.mark.parametrize(
    ("text", "number"),
    [("8GiB", 8 * 2**30), ("500MB", 500_000_000), ("1.5 gib", 3 * 2**29), ("8G", 8 * 2**30), ("1024", 1024), ("3B", 3)],
)
def test_sizes(text: str, number: int) -> None:
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "8 giraffes", "0", "1e9", "0.1B", "\uff18GiB", "9" * 400])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="a size such as 8GiB"):
        parse_bytes(text)


def test_set_reads_a_list_in_brackets() -> None:
    words = ['eval.templates=["a red {}.", "a photo, of a {}."]', "estimate.modality=[vision, language]"]
    recipe = load(None, NAME | parse_assignments(words))
    assert recipe.eval.templates == ["a red {}.", "a photo, of a {}."]
    assert recipe.estimate.modality == ["vision", "language"]
    with pytest.raises(UsageError, match=r"eval\.templates takes a list of texts such as .*, not '\[a \{\}'"):
        load(None, NAME | parse_assignments(["eval.templates=[a {}"]))
