"""Runs from Python: arguments named like the commands' options, and what a run leaves behind, read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import idvl
from idvl.commands import eval as eval_command
from idvl.commands import prune as prune_command
from idvl.recipe import load as load_recipe
from idvl.workflows.api import EVALUATING, PRUNING, LogReporter, _key
from tests.support import tiny


@pytest.mark.parametrize(("command", "sections"), [(prune_command, PRUNING), (eval_command, EVALUATING)])
def test_an_argument_means_what_the_option_of_its_name_means(command: object, sections: tuple[str, ...]) -> None:
    parameters = {one.name.replace("__", "."): one for one in command.SETTINGS.parameters()}
    assert len(parameters) > 20
    for key, parameter in parameters.items():
        options = parameter.annotation.__metadata__[0].default.split("/")
        names = [option.removeprefix("--").replace("-", "_") for option in options]
        for name in (key.partition(".")[2], *names):
            assert _key(name, sections) == key, name
    assert _key("train__samples", sections) == "train.samples"


def test_prune_and_evaluate_return_what_they_leave_behind(tmp_path: Path) -> None:
    tiny.save("vit", tmp_path / "vit")
    pictures = tiny.save_samples(tmp_path / "pictures", tiny.samples(8), lambda number, _: [{"label": number}])
    common = {"dataset": pictures, "batch_size": 4}
    settings = {"criterion": "magnitude", "id_weight": "none", "sparsity": 0.5, "max_steps": 2, "no_eval": True}
    folder = tmp_path / "run"
    report = idvl.prune(tmp_path / "vit", output=folder, train__samples=6, **common, **settings)
    assert report.pop("folder") == str(folder)
    assert report == idvl.load_report(folder) == idvl.load_report(folder / "report.json")
    masks = idvl.load_masks(folder)
    assert report["total"]["zeros"] == sum(masks.zeros.values()) == round(0.5 * masks.total)
    kept = load_recipe(folder / "recipe.yaml")
    assert (kept.train.batch_size, kept.train.samples, kept.data.batch_size) == (4, 6, 16)
    assert not kept.eval.after and "evaluation" not in report

    results = idvl.evaluate(folder / "model", output=folder / "eval", task="classification", limit=7, **common)
    assert results.pop("folder") == str(folder / "eval")
    assert results == idvl.load_results(folder) == idvl.load_results(folder / "eval")
    assert results["samples"] == 7 and "top-1" in results["metrics"]

    # the model of a run is evaluated on the run's dataset
    again = idvl.evaluate(folder / "model", output=tmp_path / "again", limit=7, batch_size=4)
    assert again["dataset"] == results["dataset"] and again["metrics"] == results["metrics"]
    (folder / "recipe.yaml").unlink()
    with pytest.raises(idvl.UsageError, match="no dataset for '.*/model': set dataset .--dataset."):
        idvl.evaluate(folder / "model")
    with pytest.raises(idvl.UsageError, match="run is not a model: .*; models inside it: .*run/model"):
        idvl.evaluate(folder)


def test_a_long_step_of_a_run_is_logged_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = iter(range(0, 1000, 20))
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    with caplog.at_level("INFO", "idvl"), LogReporter().progress("training") as advance:
        for step in range(1, 4):
            advance(step, 4, "loss 0.5")
    assert [record.message for record in caplog.records] == ["training: 50 %, loss 0.5"]


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda folder: idvl.prune("builtin/vit", sparsitty=0.5), "unknown setting 'sparsitty'; did you mean 'spars"),
        (lambda folder: idvl.prune("builtin/vit", eval_evry=5), "unknown setting 'eval_evry'; did you mean 'eval_ev"),
        (lambda folder: idvl.evaluate("builtin/vit", templat="a {}"), "'templat'; did you mean 'template'"),
        (lambda folder: idvl.evaluate("m", samples=50), "data.samples has no effect on idvl eval: set eval.limit"),
        (lambda folder: idvl.prune("builtin/vit", no_eval="yes"), "no_eval is True or False, not 'yes'"),
        (lambda folder: idvl.prune("builtin/vit", eval=False, no_eval=True), r"eval\.after is set twice, .* no_eval="),
        *(
            (lambda folder, run=run: run("m", chat_template=False, no_chat_template=True), "chat_template is set twice")
            for run in (idvl.prune, idvl.recover, idvl.evaluate)
        ),
        (lambda folder: idvl.evaluate("builtin/vit", metric=["./nothere"]), "no metric folder './nothere'"),
        (lambda folder: idvl.prune("builtin/vit", sparsity=80), "80 % is 0.8"),
        *(
            (
                lambda folder, key=key: idvl.prune("builtin/vit", id_weight="none", **{key: "x"}),
                "profile x and id_weight n",
            )
            for key in ("profile", "prune__profile")
        ),
        (
            lambda folder: idvl.prune("builtin/vit", sparsity_ratio="0:100"),
            "takes two whole numbers from 1 to 9999, su",
        ),
        (
            lambda folder: idvl.prune("builtin/vit", structure="2-4"),
            "takes unstructured or N:M, such as 2:4, not '2-4'",
        ),
        (lambda folder: idvl.evaluate("builtin/vit", resume=True), "resume=True needs the folder of the run"),
        (lambda folder: idvl.evaluate(folder / "nothere"), "nothere does not exist"),
        (lambda folder: idvl.prune("./nothere"), "./nothere does not exist"),
        (lambda folder: idvl.prune("my/model"), "there is no folder 'my/model', and no dataset for .*set dataset"),
        (lambda folder: idvl.prune(sparsity=0.5), "no model: name one"),
        (lambda folder: idvl.prune(recipe="demo-prune", sparsity=80), "80 % is 0.8 .recipe 'demo-prune'"),
        (lambda folder: idvl.evaluate(recipe="demo-pune"), "no recipe 'demo-pune'; did you mean 'demo-prune'"),
        (lambda folder: idvl.load_report(folder), "there is no report '.*report.json'"),
        (lambda folder: idvl.load_results(folder), "there is no results file '.*results.json'; give"),
        (lambda folder: idvl.load_masks(folder), "there are no masks '.*masks.safetensors'"),
        (lambda folder: idvl.prune(torch.nn.Linear(2, 2)), "model is a name .*not Linear.*; for a model in memory see"),
        (lambda folder: idvl.prune("builtin/vit", recipe={}), "recipe is a name or a path, not {}"),
        (lambda folder: idvl.prune("builtin/vit", output=3), "output is a name or a path, not 3"),
        (lambda folder: idvl.evaluate("builtin/vit", compare=3), "compare is a name or a path, not 3"),
        (lambda folder: idvl.evaluate("builtin/vit", overwrite="no"), "overwrite is True or False, not 'no'"),
        (lambda folder: idvl.evaluate("builtin/vit", output="a" * 300), "output 'aaa.*': File name too long"),
        (lambda folder: idvl.prune("builtin/vit", output="\0"), "is no name of a file: embedded null byte"),
        (lambda folder: idvl.load_report(None), "the report is a name or a path, not None"),
        *(
            (lambda folder, load=load: load("a" * 5000), "'aaaaaa.*aaa'.*File name too long")
            for load in (idvl.load_report, idvl.load_results, idvl.load_masks)
        ),
        (lambda folder: idvl.load_profile("a" * 5000), "a profile 'aaa.*File name too long"),
        (lambda folder: idvl.load_profile(None), "a profile is a name or a path, not None"),
        (lambda folder: idvl.merge_lora(None), "model is a torch.nn.Module, not None"),
        (lambda folder: idvl.compare("a", "b"), "compare takes two profiles, .*not 'a'"),
        (lambda folder: idvl.load_masks("/dev/null"), "cannot read the masks '/dev/null': .*not a regular file"),
        (
            lambda folder: idvl.evaluate("builtin/vit", limit=5, eval__limit=6),
            r"eval\.limit is set twice, .* eval__",
        ),
        (lambda folder: idvl.evaluate("builtin/vit", model__name="x"), r"model\.name is set twice"),
        (
            lambda folder: idvl.prune("builtin/vit", refresh_profile=9, epochs=5),
            "refresh_profile 9 and 5 epochs: it would never be re-estimated",
        ),
        (
            lambda folder: idvl.load_report(folder / "other.json"),
            "other.json' is not a report.json of idvl prune: it has the schema",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, call: object, why: str) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(idvl.UsageError, match=why) as refused:
        call(tmp_path)
    assert "\n" not in str(refused.value)
