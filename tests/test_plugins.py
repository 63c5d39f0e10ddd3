"""Packages outside idvl add criteria and families; one that is broken ends in one line that names it."""

from __future__ import annotations

import importlib
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AltCLIPConfig

import idvl
from idvl import recipe as recipes
from idvl.models import families
from idvl.sparsity import axes, criteria
from tests.support import tiny

CRITERION = """
    import torch

    class Largest:
        needs, compares, bytes_per_weight = frozenset(), "scope", 0

        def __init__(self, power: float = 2.0, window: int = 3):
            self.power, self.window = power, window

        def observe(self, name, weight, grad): ...

        def score(self, name, weight, grad):
            return weight.detach().float().abs() ** self.power

        def state_dict(self):
            return {}

        def load_state_dict(self, state): ...
"""
FAMILY = """
    from dataclasses import replace
    from idvl.models.families.clip import FAMILY

    MINE = replace(FAMILY, model_types=("altclip",), classes=("AltCLIPModel",))
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that installs a package of one module, with one entry point."""
    monkeypatch.syspath_prepend(tmp_path)

    def written(package: str, group: str, key: str, value: str, code: str = "") -> None:
        module = value.partition(":")[0]
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
        folder = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{group}]\n{key} = {value}\n")
        importlib.invalidate_caches()
        idvl.plugins._registered.cache_clear()

    yield written
    idvl.plugins._registered.cache_clear()


def test_a_package_adds_a_criterion(install) -> None:
    install("idvl-largest", "idvl.criteria", "largest", "largest_plugin:Largest", CRITERION)
    assert criteria.names() == ["gradient", "magnitude", "multiflow", "platon", "sparsegpt", "wanda", "largest"]
    assert criteria.load("largest", power=3.0).power == 3.0
    axes.refuse(criterion="largest")
    recipe = recipes.load(None, {"model.name": "m", "prune.criterion": "largest"})
    assert recipe.to_dict("prune")["prune"]["criterion"] == "largest"

    masks = []
    for criterion in ("largest", "magnitude"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
        pruner = idvl.Pruner.from_model(model, sparsity=0.5, total_steps=1, criterion=criterion, initial=0, final=0)
        pruner.step()
        masks.append(pruner.finish().masks.hash())
    assert pruner.weights.scores.criterion.needs == frozenset() and masks[0] == masks[1]


def test_a_package_adds_a_family(install) -> None:
    config = AltCLIPConfig()
    assert families.family_of(config).key == "generic"
    install("idvl-altclip", "idvl.families", "altclip", "altclip_plugin:MINE", FAMILY)
    assert families.family_of(config).key == "altclip" and families.names()[-2:] == ["altclip", "generic"]
    assert families.family_of(tiny.KINDS["clip"]()[0].config).key == "clip"


def test_a_package_that_describes_a_class_of_ours_is_named(install) -> None:
    code = "from idvl.models.families.clip import FAMILY"
    install("idvl-clip", "idvl.families", "my_clip", "clip_plugin:FAMILY", code)
    clip, vit = (tiny.KINDS[kind]()[0] for kind in ("clip", "vit"))
    clip.config.architectures = ["CLIPModel"]
    with pytest.raises(idvl.RunError, match=r"^the families clip and my_clip both describe CLIPModel: remove it from"):
        families.family_of(clip.config)
    assert families.family_of(vit.config).key == "vit"


@pytest.mark.parametrize(
    ("key", "value", "code", "why"),
    [
        ("raises", "raising_plugin:Any", "1 / 0", r"ZeroDivisionError: division by zero"),
        ("lacks", "empty_plugin:Any", "", r"AttributeError: .* has no attribute 'Any'"),
        ("odd", "odd_plugin:Any", "class Any: ...", r"it has no method observe|it is no Family"),
        ("magnitude", "double_plugin:Any", "", r"repeats the key 'magnitude' of idvl.criteria, which idvl has"),
        ("clip", "double_plugin:Any", "", r"repeats the key 'clip' of idvl.families, which idvl has"),
    ],
)
def test_a_broken_package_is_named(install, key: str, value: str, code: str, why: str) -> None:
    groups = {"magnitude": ["idvl.criteria"], "clip": ["idvl.families"]}.get(key, ["idvl.criteria", "idvl.families"])
    for group in groups:
        package = group.replace("idvl.", "broken-")
        install(package, group, key, value, code)
        with pytest.raises(idvl.RunError, match=rf"^the package {package} .*{why}") as refused:
            criteria.load(key) if group == "idvl.criteria" else families.family_of(tiny.KINDS["git"]()[0].config)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ('compares = "scope"', "it does not declare needs"),
        ("needs = frozenset()", "it does not declare compares"),
        ('needs, compares = "gradient", "scope"', "needs must be a frozenset of words, not 'gradient'"),
        (
            'needs, compares = frozenset({"hessian"}), "scope"',
            "needs may hold gradient, moments, second .*, not 'hessian'",
        ),
        ('needs, compares = frozenset(), "column"', "compares must be one of scope, not 'column'"),
        ('needs, compares = frozenset({"moments"}), "scope"', "compares must be one of layer, row, not 'scope'"),
        ('needs, compares = frozenset({"second moments"}), "layer"', "it has no method select"),
        ('needs, compares = frozenset(), "scope"', "it does not declare bytes_per_weight"),
        ('needs, compares, bytes_per_weight = frozenset(), "scope", -1', "bytes_per_weight must be .* or more, not -1"),
    ],
)
def test_a_criterion_must_declare_what_it_needs_and_compares(install, attributes: str, why: str) -> None:
    code = textwrap.dedent(CRITERION).replace('needs, compares, bytes_per_weight = frozenset(), "scope", 0', attributes)
    install("old-largest", "idvl.criteria", "largest", "undeclared_plugin:Largest", code)
    with pytest.raises(idvl.RunError, match=rf"^the package old-largest .*{why}") as refused:
        criteria.load("largest")
    assert "\n" not in str(refused.value)


def test_two_packages_with_one_key_are_both_named(install) -> None:
    install("first", "idvl.criteria", "mine", "first_plugin:Largest", CRITERION)
    install("second", "idvl.criteria", "mine", "second_plugin:Largest", CRITERION)
    with pytest.raises(idvl.RunError, match=r"(first|second) repeats the key 'mine' .* the package (first|second) has"):
        recipes.load(None, {"model.name": "m", "prune.criterion": "mine"})


@pytest.mark.parametrize(
    ("signature", "why"),
    [
        ("self, power", "its argument power has no default"),
        ("self, *powers", "its argument powers has no default"),
        ("self, power=1 / 0, window=3", "ZeroDivisionError"),
    ],
)
def test_every_argument_of_a_criterion_has_a_default(install, signature: str, why: str) -> None:
    code = CRITERION.replace("self, power: float = 2.0, window: int = 3", signature)
    install("greedy", "idvl.criteria", "largest", "greedy_plugin:Largest", code)
    with pytest.raises(idvl.RunError, match=rf"^the package greedy .*{why}"):
        criteria.load("largest")


def test_an_object_is_no_criterion_of_a_package(install) -> None:
    install("made", "idvl.criteria", "largest", "made_plugin:MADE", textwrap.dedent(CRITERION) + "\nMADE = Largest()")
    with pytest.raises(idvl.RunError, match=r"^the package made .*\(it is not a class\)"):
        criteria.load("largest")


def test_a_setting_that_a_criterion_does_not_take_is_named(install) -> None:
    code = CRITERION.replace("self.power, self.window = power, window", "self.log = 1 / (window - 5)")
    install("divides", "idvl.criteria", "largest", "divides_plugin:Largest", code)
    with pytest.raises(idvl.UsageError, match=r"^the criterion largest does not take {.window.: 5} \(ZeroDiv"):
        criteria.load("largest", window=5)
