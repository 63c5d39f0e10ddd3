"""The command line of prune: which flag sets which key, what is printed, and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from idvl.commands import main
from idvl.recipe import PruneSection, TrainSection

SUM = {"layers": 1, "weights": 10, "zeros": 8, "asked": None, "sparsity": 0.8}
REPORT = {
    "schema": "idvl/report/1",
    "layers": {
        "blocks.0.fc": {
            "modality": "vision", "block": "blocks.0", "weights": 10, "zeros": 8, "asked": None, "sparsity": 0.8,
            "dimension": 12.5, "stderr": 0.3, "factor": 12.5, "substituted": None,
        },
    },
    "modalities": {"vision": SUM},
    "total": {
        **SUM, "asked": 0.8, "prunable_weights": 10, "prunable_sparsity": 0.8, "model_weights": 20,
        "model_sparsity": 0.4,
    },
}  # fmt: skip


class Workflow(ModuleType):
    """Stands in for the workflow: remembers what it was asked, and answers with a report."""

    def __init__(self) -> None:
        super().__init__("idvl.workflows.prune")
        self.asked: dict[str, Any] = {}
        self.recipe: Any = None

    def run(self, recipe: Any, **asked: Any) -> SimpleNamespace:
        self.recipe, self.asked = recipe, asked
        print("a library talks")
        plan = SimpleNamespace(report=REPORT, lines=lambda: ["60 steps"], to_json=lambda: {"steps": 60})
        if asked["plan_only"]:
            return SimpleNamespace(plan=plan, report=None, folder=None, downloads=())
        return SimpleNamespace(plan=plan, report=REPORT, folder=Path("runs/x"))


@pytest.fixture
def workflow(monkeypatch: pytest.MonkeyPatch) -> Workflow:
    import idvl.workflows

    made = Workflow()
    monkeypatch.setitem(sys.modules, "idvl.workflows.prune", made)
    monkeypatch.setattr(idvl.workflows, "prune", made, raising=False)
    monkeypatch.delenv("RANK", raising=False)
    return made


def test_flags_set_what_they_name(workflow: Workflow) -> None:
    given = {
        "sparsity": 0.5, "criterion": "gradient", "calibration": "dense", "calibration_samples": 64,
        "tokens_from": "text", "compare_within": "layer", "repair": "obs", "id_weight": "divide", "id_exponent": 2.0,
        "profile": "p.json",
        "missing_id": "refuse", "refresh_profile": 2, "scope": "vision", "allocation": "uniform", "structure": "2:4",
        "floor": 0.1, "ceiling": 0.9, "min_keep": 3, "schedule": "linear", "initial": 0.1, "final": 0.3,
        "sparsity_ratio": "30:70", "repair_epochs": 3, "allocate_by": "block", "spread": 0.2, "ecoflap_order": "first",
        "mask_every": 5, "monotone": True, "compat": "icml24",
    }  # fmt: skip
    training = {
        "epochs": 3, "max_steps": 9, "batch_size": 4, "accumulate": 2, "learning_rate": 0.1, "weight_decay": 0.2,
        "clip": 1.5, "mixed_precision": "bf16", "gradient_checkpointing": True, "distill": 0.4, "checkpoint_every": 7,
        "report_to": ["tensorboard"], "new_head": True,
    }  # fmt: skip
    args = []
    for name, value in {**given, **training}.items():
        flag = f"--{name.replace('_', '-')}"
        args += [flag] if value is True else [flag, str(value[0] if isinstance(value, list) else value)]
    assert main(["prune", "some/model", *args]) == 0
    found = workflow.recipe.to_dict()
    by_set_alone = {"beta1", "beta2", "window", "smoothing_dtype", "modality_sparsity"}
    assert given == {key: value for key, value in found["prune"].items() if key not in by_set_alone}
    assert given.keys() | by_set_alone == PruneSection.model_fields.keys()
    others = TrainSection.model_fields.keys() - training.keys()
    assert training == {key: value for key, value in found["train"].items() if key not in others}
    alone = {"samples", "texts", "augmentation", "lr_schedule", "warmup", "label_smoothing", "text_dropout"}
    assert others == alone


def test_the_run_is_passed_on(workflow: Workflow, tmp_path: Path) -> None:
    assert main(["prune", "m", "--output", str(tmp_path), "--resume", "--push-to-hub", "me/it", "--public"]) == 0
    del workflow.asked["reporter"]
    assert workflow.asked == {
        "folder": tmp_path, "resume": True, "overwrite": False, "plan_only": False, "push_to": "me/it",
        "private": False,
    }  # fmt: skip


def test_a_tilde_in_output_is_the_home_folder(workflow: Workflow, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["prune", "m", "--output=~/zz"]) == 0
    assert workflow.asked["folder"] == tmp_path / "zz"


def test_the_tables_are_on_stdout_and_the_rest_on_stderr(workflow: Workflow, capsys: Any) -> None:
    assert main(["prune", "m"]) == 0
    shown = capsys.readouterr()
    assert "12.5" in shown.out and "80.00 %" in shown.out and "a library talks" not in shown.out
    assert "report.json" in shown.err


def test_json_alone_is_on_stdout(workflow: Workflow, capsys: Any) -> None:
    assert main(["prune", "m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == REPORT
    assert main(["prune", "m", "--json", "--plan"]) == 0
    assert json.loads(capsys.readouterr().out) == {"steps": 60, "downloads": []}


def test_a_plan_is_shown_alone(workflow: Workflow, capsys: Any) -> None:
    assert main(["prune", "m", "--plan"]) == 0
    assert "60 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--sparsity", "1.5"], "prune.sparsity: must be less than 1, not '1.5'; 1.5 % is 0.015"),
        (["--criterion", "plato"], "plato"),
        (["--structure", "2-4"], "prune.structure"),
        (["--id-weight", "none", "--profile", "nothere.json"], "profile nothere.json and id_weight none: no dim"),
        (["--id-weight", "none", "--set", "prune.profile=nothere.json"], "profile nothere.json and id_weight none: no"),
        (["--criterion", "wanda", "--schedule", "cubic"], "from calibration samples: it has no schedule; leave"),
        (["--calibration", "dense", "--criterion", "magnitude", "--set", "prune.final=0.2"], "leave final out"),
        (
            ["--schedule", "one-shot", "--mask-every", "25"],
            "mask_every and schedule one-shot, which sets",
        ),
        (["--public"], "--public is for an upload: add --push-to-hub ID"),
        (["--output", "~nobody-of-this-name/a"], "no user has that name; choose another --output"),
        (["--resume"], "--resume needs the folder of the run: --output DIR"),
        (["--set", "prune=3"], "prune is a section: set one of its keys, as in --set prune.sparsity=..."),
        (["--set", "prune.sparsty=3"], "did you mean 'prune.sparsity'"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(workflow: Workflow, capsys: Any, args: list[str], said: str) -> None:
    assert main(["prune", "m", *args]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1
