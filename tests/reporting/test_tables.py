"""Tables: what belongs to one group, means and intervals with known answers, the file behind every number."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from idvl.reporting.collect import collect
from idvl.reporting.entry import Table, TableEntry, mean_interval
from idvl.reporting.expected import expected
from idvl.reporting.export import FORMATS, as_json, shown, written
from idvl.reporting.groups import groups_of, model_of, paired_changes
from idvl.reporting.lineage import evaluated_alike, pruned_by
from idvl.reporting.overview import overview_of
from idvl.reporting.sensitivity import spearman
from idvl.reporting.tables import tables_of
from idvl.reporting.terminal import rests_on
from tests.support import folders


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three seeds of PLATON without and with ID at 80 %, one at 95 %, and the dense model."""
    for seed, (plain, weighted) in enumerate([(50.0, 53.0), (52.0, 54.0), (54.0, 58.0)]):
        folders.pruned(tmp_path / f"none-{seed}", plain, seed=seed)
        folders.pruned(tmp_path / f"multiply-{seed}", weighted, id_weight="multiply", seed=seed)
    folders.pruned(tmp_path / "none-95", 20.0, sparsity=0.95)
    folders.evaluated(tmp_path / "dense", 90.0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(study: Path, start: str) -> Table:
    return next(table for table in tables_of(collect([study])) if table.key.startswith(start))


def test_replicates_are_averaged_with_a_t_interval(study: Path) -> None:
    rows = dict(table(study, "quality").rows)
    assert table(study, "quality").columns == ("0 %", "80 %", "95 %")
    found = rows["PLATON", "all"][1]
    # mean 52, standard deviation 2: 4.303 x 2 / sqrt(3)
    assert (found.value, found.n) == (52.0, 3)
    assert found.low == pytest.approx(52 - 4.9686, abs=1e-3) and found.high == pytest.approx(52 + 4.9686, abs=1e-3)
    assert found.sources == tuple(f"none-{seed}/eval/results.json" for seed in range(3))
    single = rows["PLATON", "all"][2]
    assert (single.value, single.low, single.high) == (20.0, 19.0, 21.0)
    assert rows["dense model", ""][0].value == 90.0
    assert rows["PLATON × ID", "all"][2].value is None


def test_sparsity_stands_beside_what_it_is_of_all_weights_and_what_is_not_covered(study: Path) -> None:
    assert "of the weights in scope; of all weights of the model, 80 % is 40.0 %, 95 % is 47.5 %" in str(
        table(study, "quality").notes
    )
    assert table(study, "sparsity").notes[0] == "the model has 1,000 weights"
    for path in study.glob("*/report.json"):
        experts = {"weights": 200, "tensors": 1, "names": ["layers.*.experts"]}
        folders.write(path, json.loads(path.read_text()) | {"not_covered": {"fused experts": experts}})
    said = "not covered: 200 of all 1,000 weights (20.0 %): fused experts 200 (layers.*.experts)"
    assert table(study, "sparsity").notes[0] == said


def test_gains_are_paired_by_model_and_seed(study: Path) -> None:
    (row,) = table(study, "gain").rows
    (found,) = row[1]
    assert (found.value, found.n) == (3.0, 3)
    assert found.low == pytest.approx(3 - 4.303 / 3**0.5, abs=1e-3)
    # a seed that only one of the two has is no pair
    folders.pruned(study / "multiply-3", 99.0, id_weight="multiply", seed=3)
    groups = groups_of(collect([study]))
    assert [made.n for _, made in paired_changes(groups, "CIDEr")] == [3]


def test_settings_that_differ_from_most_runs_are_named(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "a", prune__schedule="cubic", prune__window=10)
    folders.pruned(tmp_path / "b", prune__schedule="cubic", prune__window=10, seed=1)
    folders.pruned(tmp_path / "c", prune__schedule="one-shot", prune__window=10, train__epochs=0)
    folders.pruned(tmp_path / "d", prune__schedule="cubic", prune__window=5)
    names = {str(group.method): len(group.runs) for group in groups_of(collect([tmp_path]))}
    assert names == {"PLATON": 2, "PLATON, one-shot": 1, "PLATON, window 5": 1}


def test_what_weights_by_id_is_named_apart_and_still_compared(tmp_path: Path) -> None:
    """Runs without weighting have no profile to differ in."""
    folders.pruned(tmp_path / "none", 50.0)
    folders.pruned(tmp_path / "auto", 53.0, id_weight="multiply")
    folders.pruned(tmp_path / "published", 55.0, id_weight="multiply", prune__profile="published:blip-coco")
    short = folders.pruned(tmp_path / "short", 57.0, id_weight="multiply")
    folders.write(short / "profile.json", folders.profile(protocol={"estimator": "icml24", "tokens": "flatten"}))
    other = folders.pruned(tmp_path / "other", 59.0, id_weight="multiply")
    folders.write(other / "profile.json", folders.profile(scale=2.0))
    folders.pruned(tmp_path / "again", 53.0, id_weight="multiply", seed=1)
    found = {str(group.method): made.value for group, made in paired_changes(groups_of(collect([tmp_path])), "CIDEr")}
    assert found == {
        **{"PLATON × ID": 3.0, "PLATON × ID, ID estimator icml24": 7.0, "PLATON × ID, other IDs": 9.0},
        "PLATON × ID, profile published:blip-coco": 5.0,
    }


def test_the_same_dimensions_are_no_others(tmp_path: Path) -> None:
    """Measured on another machine, of more layers than the scope, or renewed on the way."""
    folders.pruned(tmp_path / "a", 50.0, id_weight="multiply")
    folders.pruned(tmp_path / "b", 51.0, id_weight="multiply", sparsity=0.9)
    folders.write(tmp_path / "b" / "profile.json", folders.profile(scale=1 + 1e-9))
    folders.pruned(tmp_path / "c", 51.0, id_weight="multiply", sparsity=0.95)
    part = folders.profile()
    del part["layers"]["text.0.query"]
    folders.write(tmp_path / "c" / "profile.json", part)
    assert {str(group.method) for group in groups_of(collect([tmp_path]))} == {"PLATON × ID"}
    for name, scale in (("d", 0.5), ("e", 0.7)):
        folders.pruned(tmp_path / name, 52.0, id_weight="divide", sparsity=scale, prune__refresh_profile=5)
        folders.write(tmp_path / name / "profile.json", folders.profile(scale=scale))
    assert not any("other IDs" in str(group.method) for group in groups_of(collect([tmp_path])))


def test_runs_whose_settings_are_lost_are_neither_paired_nor_averaged(study: Path) -> None:
    lost = [run for run in study.glob("[mn]*") if not (run / "run.json").unlink()]
    groups = groups_of(collect([study]))
    assert list(paired_changes(groups, "CIDEr")) == [] and len(groups) == len(lost) == 7
    assert all("not known" in str(group.method) for group in groups)


def test_a_run_evaluated_on_a_part_does_not_stand_in_for_its_repeat(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "a", 1.0)
    folders.write(tmp_path / "a" / "eval" / "results.json", folders.results({"CIDEr": 1.0}, "x", limit=1, samples=1))
    folders.pruned(tmp_path / "b", 60.0)
    (group,) = groups_of(collect([tmp_path]))
    assert group.entry("CIDEr").value == 60.0


def test_equal_weights_are_of_the_folder_that_is_named(tmp_path: Path) -> None:
    for name in "ab":
        run = folders.pruned(tmp_path / name, criterion="magnitude" if name == "a" else "gradient")
        folders.write(run / "eval" / "results.json", folders.results({"CIDEr": 1.0}, "equal"))
        folders.measured(
            tmp_path / f"after-{name}", model=str(run / "model"), fingerprint="equal", scale=len(name + "x")
        )
    study = collect([tmp_path])
    found = {Path(run.label).name: Path(pruned_by(run, study).label).name for run in study.of("estimate-id")}
    assert found == {"after-a": "a", "after-b": "b"}


def test_lineage_does_not_depend_on_where_the_analysis_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the folder written down, a relative name above the run, or fingerprint; never by the current folder."""
    run = folders.pruned(tmp_path / "runs" / "a")
    (run / "eval" / "results.json").unlink()
    report = json.loads((run / "report.json").read_text())
    folders.write(run / "report.json", report | {"verified": {"fingerprint": "saved"}})
    path = {"name": "a/model", "path": str(run / "model"), "fingerprint": "saved"}
    folders.measured(tmp_path / "elsewhere" / "by path", model="a/model")
    folders.write(tmp_path / "elsewhere" / "by path" / "profile.json", folders.profile() | {"model": path})
    folders.measured(tmp_path / "runs" / "by name", model="runs/a/model", fingerprint="saved")
    folders.measured(tmp_path / "elsewhere" / "moved", model="/old/model", fingerprint="saved")
    folders.measured(tmp_path / "runs" / "of the weights before", model="runs/a/model", fingerprint="overwritten")
    folders.measured(tmp_path / "elsewhere" / "another", model="a/model", fingerprint="another")
    for here in (tmp_path, tmp_path / "runs", Path("/")):
        monkeypatch.chdir(here)
        study = collect([tmp_path / "runs", tmp_path / "elsewhere"])
        found = {run.folder.name for run in study.of("estimate-id") if pruned_by(run, study)}
        assert found == {"by path", "by name", "moved"}


def test_only_what_was_evaluated_by_the_same_settings_is_compared(tmp_path: Path) -> None:
    for name, weight, beams in (("a", "none", 3), ("b", "multiply", 1)):
        folders.pruned(tmp_path / name, 50.0, id_weight=weight)
        made = folders.results({"CIDEr": 50.0}, name, settings={"beams": beams, "batch_size": 1})
        folders.write(tmp_path / name / "eval" / "results.json", made)
    assert list(paired_changes(groups_of(collect([tmp_path])), "CIDEr")) == []
    made = folders.results({"CIDEr": 50.0}, "b", settings={"beams": 3, "batch_size": 8})
    folders.write(tmp_path / "b" / "eval" / "results.json", made)
    assert len(list(paired_changes(groups_of(collect([tmp_path])), "CIDEr"))) == 1


def test_the_same_samples_are_recognised_by_their_fingerprint_under_any_name(tmp_path: Path) -> None:
    """A dataset was read by a relative path and by an absolute one; names decide where a fingerprint is absent."""
    folders.evaluated(tmp_path / "dense")
    (run,) = collect([tmp_path]).runs
    about = run.results["dataset"]

    def alike(dataset: dict[str, object] | None = None, **changes: object) -> bool:
        other = replace(run, results=run.results | {"dataset": about | (dataset or {})} | changes)
        return evaluated_alike(run, other) and evaluated_alike(other, run)

    elsewhere = {"dataset": "/data/shapes", "split": "all"}
    assert alike() and alike(elsewhere)
    assert not alike({"fingerprint": "u"}) and not alike(elsewhere | {"fingerprint": None})
    assert alike({"fingerprint": None})
    # other labels under other names of the classes, and a part of the samples
    assert not alike({"classes": ["a", "b"]}) and not alike(samples=2)
    # a limit that takes all of a split changes the order, and so the fingerprint
    assert alike({"fingerprint": "u"}, limit=3) and not alike(elsewhere | {"fingerprint": "u"}, limit=3)


def test_a_pruned_model_that_was_measured_twice_is_one_run(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "run", id_weight="multiply")
    saved = {"model": str(run / "model"), "fingerprint": f"pruned {run.name}"}
    folders.measured(tmp_path / "a", **saved, protocol={"estimator": "icml24"}, scale=0.1)
    folders.measured(tmp_path / "b", **saved, scale=0.5)
    ((words, entries),) = table(tmp_path, "change").rows
    # the one that was measured as the dense model was
    assert words[-1] == "1" and entries[0].value == pytest.approx(-6.5)


def test_one_shot_runs_are_told_apart_by_their_own_training(tmp_path: Path) -> None:
    shot = {"prune__schedule": "one-shot", "train__batch_size": 4}
    for name, steps in (("a", 10), ("b", 10), ("c", 50)):
        folders.pruned(tmp_path / name, seed="abc".index(name), train__max_steps=steps, **shot)
    for seed in range(4):
        folders.pruned(tmp_path / f"{seed}", prune__schedule="cubic", seed=seed, train__max_steps=900)
    names = {str(group.method): len(group.runs) for group in groups_of(collect([tmp_path]))}
    assert names == {"PLATON": 4, "PLATON, one-shot": 2, "PLATON, one-shot, max_steps 50": 1}


def test_the_subject_of_a_recovery_is_the_dense_model_of_its_start(tmp_path: Path) -> None:
    recovered = folders.pruned(tmp_path / "a", model=str(tmp_path / "run" / "model"), recover__method="lora")
    folders.pruned(tmp_path / "run")
    study = collect([tmp_path])
    assert model_of(groups_of(study)) == "m"
    assert overview_of(study).title.endswith("pruning of m")
    # recoveries of two pruned models of one dense model, which no run here names
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run" / "report.json").unlink()
    folders.pruned(tmp_path / "b", model="elsewhere/model", recover__method="lora")
    assert model_of(groups_of(collect([recovered, tmp_path / "b"]))) == str(tmp_path / "run" / "model")


def test_a_run_of_a_pruned_model_is_no_replicate_of_one_of_the_dense_model(tmp_path: Path) -> None:
    folders.evaluated(tmp_path / "dense")
    folders.evaluated(tmp_path / "half", 70.0, "half")
    folders.pruned(tmp_path / "one")
    step = {"prune.criterion": "wanda", "prune.id_weight": "none", "prune.sparsity": 0.5, "prune.scope": "all"}
    step |= {"prune.repair": None, "samples": "a"}
    starts = {
        **{f"wanda-{seed}": {"dense": f"half-{seed}", "seed": seed, "history": [step]} for seed in (0, 1)},
        "magnitude": {"history": [step | {"prune.criterion": "magnitude"}]},
        "vision": {"history": [step | {"prune.scope": "vision"}]},
        "longer": {"history": [step | {"prune.repair": "obs"}]},
        "grouped": {
            "history": [
                step | {"prune.structure": "2:4", "prune.allocation": "owl", "prune.schedule": "one-shot"},
            ]
        },
        "calibrated": {"history": [step | {"prune.criterion": "magnitude", "prune.calibration": "dense"}]},
        "twice": {"history": [step, {"recover.method": "lora", "train.epochs": 3}]},
        "again": {"history": [step, {"recover.method": "lora"}], "recover__method": "lora", "dense": "dense"},
        "first": {"history": [step], "recover__method": "lora", "dense": "dense"},
        "other": {"history": [step | {"samples": "b"}]},
        "foreign": {"dense": "0123456789"},
        "further": {"history": [step | {"zeros": 99, "fingerprint": "abcdef0123"}]},
        **{
            f"others-{n}": {"history": [{"recover.method": "biases", "pruned": f"{n}2345678", "seed": 0}]}
            for n in range(2)
        },
        **{
            f"seed-{n}": {
                **{"history": [step | {"seed": n, "prune.scope": "cross"}], "pruned": f"{n}"},
                **{"recover__method": "full", "dense": "dense"},
            }
            for n in range(2)
        },
    }
    for name, settings in starts.items():
        report = folders.pruned(tmp_path / name, 40.0, **{"dense": "half", "model": "half"} | settings) / "report.json"
        if "recover__method" not in settings:
            document = json.loads(report.read_text())
            document["total"]["model_zeros"] = 100 + document["total"]["zeros"]
            folders.write(report, document | {"before": {"layers": 3, "zeros": 1234}})
    rows = {labels[0]: [(made.value, made.n) for made in row] for labels, row in table(tmp_path, "quality").rows}
    # the evaluation of the pruned model is none of a dense one
    assert rows.pop("dense model")[0] == (90.0, 1)
    assert {name: row[1] for name, row in rows.items()} == {
        "PLATON": (50.0, 1),
        "PLATON, after Wanda to 50 %": (40.0, 2),
        "PLATON, after Magnitude to 50 %": (40.0, 1),
        "PLATON, after Wanda to 50 % in vision": (40.0, 1),
        "PLATON, after Wanda (repair obs) to 50 %": (40.0, 1),
        "PLATON, after Wanda (one-shot, structure 2:4, allocation owl) to 50 %": (40.0, 1),
        "PLATON, after Magnitude (from calibration samples) to 50 %": (40.0, 1),
        "PLATON, after Wanda to 50 %, then masked LoRA": (40.0, 1),
        "PLATON, recovered by masked LoRA, then masked LoRA": (40.0, 1),
        "PLATON, recovered by masked LoRA": (40.0, 1),
        "PLATON, after Wanda to 50 %, other samples before": (40.0, 1),
        "PLATON, of a model (01234567) with 1,234 zeros": (40.0, 1),
        "PLATON, after Wanda to 50 % of a model (abcdef01) with 99 zeros": (40.0, 1),
        "PLATON, after biases and norms of a model (02345678)": (40.0, 1),
        "PLATON, after biases and norms of a model (12345678)": (40.0, 1),
        "PLATON, recovered by full training": (40.0, 2),
    }
    assert "count zeros that no mask has, too" in table(tmp_path, "sparsity").notes[1]


def test_a_file_of_masks_is_no_setting_by_which_seeds_differ(tmp_path: Path) -> None:
    for seed in (0, 1):
        masks = f"p{seed}/masks.safetensors"
        folders.pruned(tmp_path / f"run-{seed}", seed=seed, recover__method="lora", recover__masks=masks)
    (group,) = groups_of(collect([tmp_path]))
    assert len(group.runs) == 2


def test_a_recovered_model_of_others_has_no_method_of_idvl(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "run", recover__method="lora")
    record = json.loads((run / "run.json").read_text())
    signature = {key: word for key, word in record["signature"].items() if not key.startswith("prune.")}
    folders.write(run / "run.json", record | {"signature": signature})
    report = json.loads((run / "report.json").read_text())
    report["total"] |= {"asked": 0.700002, "sparsity": 0.700002}
    folders.write(run / "report.json", report)
    (group,) = groups_of(collect([tmp_path]))
    assert str(group.method) == "pruned by others, recovered by masked LoRA, of a model (None)"
    assert group.sparsity == 0.7


def test_one_dataset_by_a_relative_and_an_absolute_path_is_one_subject(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "a")
    for name in ("b", "unevaluated"):
        run = folders.pruned(tmp_path / name, seed=len(name))
        recipe = (run / "recipe.yaml").read_text().replace("dataset: shapes", "dataset: /data/shapes")
        (run / "recipe.yaml").write_text(recipe)
    (tmp_path / "unevaluated" / "eval" / "results.json").unlink()
    for seed, (name, dataset) in enumerate({"c": "shapes", "d": "/data/shapes"}.items()):
        run = folders.pruned(tmp_path / name, id_weight="multiply", seed=seed)
        measured = {"dataset": dataset, "fingerprint": "of the samples measured"}
        folders.write(run / "profile.json", folders.profile(dataset=measured))
    (group, weighted) = groups_of(collect([tmp_path]))
    assert group.subject.dataset == "shapes" and len(group.runs) == 3 and len(weighted.runs) == 2
    other = json.loads((tmp_path / "b" / "eval" / "results.json").read_text())
    other["dataset"]["fingerprint"] = "other samples"
    folders.write(tmp_path / "b" / "eval" / "results.json", other)
    assert len(groups_of(collect([tmp_path]))) == 3


def test_paths_say_which_dataset_is_one_where_no_run_was_evaluated(tmp_path: Path) -> None:
    for seed, (name, dataset) in enumerate({"a": "data/shapes", "b": "/any/data/shapes", "c": "/data/shapes"}.items()):
        run = folders.pruned(tmp_path / name, seed=seed)
        recipe = (run / "recipe.yaml").read_text().replace("dataset: shapes", f"dataset: {dataset}")
        (run / "recipe.yaml").write_text(recipe)
        folders.write(run / "run.json", json.loads((run / "run.json").read_text()) | {"directory": "/any"})
        (run / "eval" / "results.json").unlink()
    assert sorted(len(group.runs) for group in groups_of(collect([tmp_path]))) == [1, 2]


def test_runs_from_calibration_samples_are_told_apart_by_their_own_settings(tmp_path: Path) -> None:
    calibrated = {"prune__calibration": "sequential", "prune__allocation": "uniform", "samples": "128"}
    trained = {"prune__calibration": None, "prune__allocation": "global", "samples": "2000"}
    folders.pruned(tmp_path / "a", criterion="wanda", **calibrated)
    folders.pruned(tmp_path / "b", criterion="sparsegpt", **calibrated | {"prune__calibration": "dense"})
    folders.pruned(tmp_path / "c", criterion="platon", **trained)
    assert [str(group.method) for group in groups_of(collect([tmp_path]))] == [
        *("PLATON", "Wanda", "SparseGPT, calibration dense"),
    ]
    folders.pruned(tmp_path / "d", criterion="magnitude", **calibrated)
    folders.pruned(tmp_path / "e", criterion="magnitude", **trained)
    names = {str(group.method) for group in groups_of(collect([tmp_path])) if group.method.criterion == "magnitude"}
    assert names == {"Magnitude", "Magnitude, from calibration samples"}


def test_the_settings_that_a_method_is_named_by_are_told_even_where_all_runs_have_them(tmp_path: Path) -> None:
    calibrated = {"criterion": "wanda", "prune__calibration": "sequential", "prune__structure": "unstructured"}
    folders.pruned(tmp_path / "a", prune__allocation="ecoflap", prune__repair="obs", **calibrated)
    assert [str(group.method) for group in groups_of(collect([tmp_path]))] == ["Wanda, allocation ecoflap, repair obs"]
    folders.pruned(tmp_path / "b", prune__allocation="uniform", prune__repair=None, **calibrated)
    assert {str(group.method) for group in groups_of(collect([tmp_path]))} == {
        *("Wanda", "Wanda, allocation ecoflap, repair obs")
    }
    folders.pruned(tmp_path / "d", **calibrated | {"criterion": "magnitude", "prune__allocation": "uniform"})
    assert "Magnitude, from calibration samples" in {str(group.method) for group in groups_of(collect([tmp_path]))}
    folders.pruned(tmp_path / "c", prune__structure="2:4", prune__schedule="one-shot", prune__allocation="uniform")
    assert "PLATON, one-shot, structure 2:4" in {str(group.method) for group in groups_of(collect([tmp_path]))}


def test_runs_of_other_splits_are_no_replicates_whatever_their_seeds(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "train", "validation")):
        run = folders.pruned(tmp_path / f"{seed}", seed=seed, samples=f"{seed}")
        report = json.loads((run / "report.json").read_text())
        report["made"]["training"] = {"split": split}
        folders.write(run / "report.json", report)
    groups = {str(group.method): len(group.runs) for group in groups_of(collect([tmp_path]))}
    assert groups == {"PLATON": 2, "PLATON, split validation": 1}
    for seed, split in enumerate(("train", "train", "test")):
        run = folders.pruned(tmp_path / f"id-{seed}", seed=seed, id_weight="multiply", samples=f"{seed}")
        profile = json.loads((run / "profile.json").read_text())
        folders.write(run / "profile.json", profile | {"dataset": profile["dataset"] | {"split": split}})
    groups = {str(group.method): len(group.runs) for group in groups_of(collect([tmp_path]))}
    assert groups["PLATON × ID"] == 2 and groups["PLATON × ID, ID split test"] == 1


def test_repeats_are_told_where_no_run_is_evaluated(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (folders.pruned(tmp_path / name) / "eval" / "results.json").unlink()
    assert any(note.startswith("left out, as repeats") for note in table(tmp_path, "sparsity").notes)


def test_runs_on_other_samples_are_no_replicates(tmp_path: Path) -> None:
    for name, samples in (("a", "x"), ("b", "x"), ("c", "y")):
        folders.pruned(tmp_path / name, samples=samples)
    groups = {str(group.method): group for group in groups_of(collect([tmp_path]))}
    assert list(groups) == ["PLATON", "PLATON, other samples"] and len(groups["PLATON"].repeated) == 1


def test_a_whole_split_is_the_same_samples_whatever_its_limit(study: Path) -> None:
    results = folders.results({"CIDEr": 90.0, "BLEU@4": 45.0}, "dense", limit=3)
    results["dataset"]["fingerprint"] = "in another order"
    folders.write(study / "dense" / "results.json", results)
    assert dict(table(study, "quality").rows)["dense model", ""][0].value == 90.0
    # of two parts of a split it is not known
    for run in study.glob("[mn]*"):
        folders.write(run / "eval" / "results.json", folders.results({"CIDEr": 50.0}, f"pruned {run.name}", limit=3))
    assert ("dense model", "") not in dict(table(study, "quality").rows)


def test_a_whole_split_in_another_order_is_the_same_samples(study: Path) -> None:
    """Of a built-in dataset, which a seed orders; two such evaluations of the dense model count once."""
    folders.evaluated(study / "dense-1", 90.0)
    for folder in (study / "none-1" / "eval", study / "multiply-1" / "eval", study / "dense-1"):
        results = json.loads((folder / "results.json").read_text())
        results["dataset"]["fingerprint"] = "in another order"
        folders.write(folder / "results.json", results)
        lines = (folder / "predictions.jsonl").read_text().splitlines(keepends=True)
        (folder / "predictions.jsonl").write_text("".join(lines[::-1]))
    dense = dict(table(study, "quality").rows)["dense model", ""][0]
    assert (dense.value, dense.n, dense.low, dense.sources) == (90.0, 1, 89.0, ("dense/results.json",))
    assert not any("different samples" in note for note in table(study, "quality").notes)
    assert dict(table(study, "gain").rows)["PLATON × ID", "all"][0].n == 3
    # in the order of the others, or with another label, a fingerprint tells of other contents
    path = study / "none-1" / "eval" / "predictions.jsonl"
    path.write_text(path.read_text().replace("reference 0", "reference 9"))
    assert any("different samples" in note for note in table(study, "quality").notes)


def test_whole_splits_of_one_name_with_other_contents_are_not_paired(study: Path) -> None:
    results = folders.results({"CIDEr": 90.0, "BLEU@4": 45.0}, "dense")
    results["dataset"]["fingerprint"] = "corrected labels"
    folders.write(study / "dense" / "results.json", results)
    assert ("dense model", "") not in dict(table(study, "quality").rows)


def test_bounds_and_counts_say_what_they_are(study: Path) -> None:
    folders.measured(study / "profile")
    folders.sensitivity(study / "alone")
    lines = list(csv.DictReader(io.StringIO(written(tables_of(collect([study])), "csv"))))
    found = {line["table"]: (line["bounds"], line["of"]) for line in lines if line["low"]}
    assert found["dimensions"] == ("smallest and largest", "layers")
    assert found["gain-1"] == ("95 % interval", "pairs") and found["quality-1"] == ("95 % interval", "runs")
    vision = next(line for line in lines if line["table"] == "dimensions" and line["column"] == "vision")
    assert [vision[key] for key in ("value", "low", "high", "n")] == ["13.0", "12.0", "14.0", "2"]


def test_how_many_intervals_leave_out_0_by_chance_is_said(study: Path) -> None:
    for seed, (plain, weighted) in enumerate([(20.0, 19.0), (22.0, 23.0), (21.0, 22.0)]):
        folders.pruned(study / f"n{seed}", plain, sparsity=0.9, seed=seed)
        folders.pruned(study / f"m{seed}", weighted, sparsity=0.9, seed=seed, id_weight="multiply")
    assert "0.1 of these 2 intervals" in table(study, "gain").notes[1]


def test_correlations_of_several_models_have_a_mean(tmp_path: Path) -> None:
    first, second = folders.sensitivity(tmp_path / "a"), folders.sensitivity(tmp_path / "b")
    assert not any(one.key.startswith("sensitivity-mean") for one in tables_of(collect([first])))
    # the same numbers twice are one run
    both = {one.key: one for one in tables_of(collect([tmp_path]))}
    assert both.keys() == {"sensitivity-1", "alone"} and len(both["alone"].rows) == 3
    assert both["alone"].notes == (f"left out, as repeats of the same model and numbers: {second}",)
    found = json.loads((second / "sensitivity.json").read_text())
    for layer in found["layers"].values():
        layer["losses"][1]["loss"] = -layer["losses"][1]["loss"]
    folders.write(second / "sensitivity.json", found)
    averaged = table(tmp_path, "sensitivity-mean-1")
    assert averaged.title.endswith("mean of 2 runs: m on shapes") and averaged.notes[0].startswith(
        f"of {first}, {second}, which"
    )
    rows = dict(averaged.rows)
    assert (rows["40 %",][0].value, rows["40 %",][0].low) == (1.0, 1.0)
    # 1 and -1: no interval within its range says more
    assert (rows["80 %",][0].value, rows["80 %",][0].low, rows["80 %",][0].high) == (0.0, -1.0, 1.0)
    # dimensions by another estimator, other layers, another split: no replicates
    for name, others in (
        ("gride", {"dense": {"loss": 2.0}, "profile": {"dataset": "shapes", "protocol": {"estimator": "gride"}}}),
        ("fewer", {"layers": dict(list(found["layers"].items())[:4])}),
        ("split", {"dense": {"loss": 3.0}, "dataset": {"split": "train"}}),
        ("count", {"dense": {"loss": 4.0}, "protocol": {"samples": 100}}),
    ):
        folders.write(folders.sensitivity(tmp_path / name) / "sensitivity.json", found | others)
    titles = [one.title for one in tables_of(collect([tmp_path])) if one.key.startswith("sensitivity")]
    assert titles[-1] == averaged.title and len(titles) == 7 and titles[0].endswith(f"m on shapes: {first}")
    for run in tmp_path.iterdir():
        folders.write(run / "sensitivity.json", found | {"layers": {}})
    assert not any(one.key.startswith("sensitivity") for one in tables_of(collect([tmp_path])))


def test_what_pruning_did_to_dimensions_is_a_mean_over_layers_then_runs(tmp_path: Path) -> None:
    for seed, scale in enumerate((0.5, 0.75)):
        run = folders.pruned(tmp_path / f"run{seed}", id_weight="multiply", seed=seed)
        folders.measured(
            tmp_path / f"after{seed}", model=str(run / "model"), fingerprint=f"pruned {run.name}", scale=scale
        )
    change = table(tmp_path, "change")
    assert change.columns == ("vision", "language", "cross")
    vision, language, cross = dict(change.rows)["PLATON × ID", "all", "80 %", "2"]
    # layers of 12 and 14 lose a half, or a quarter, of their dimension
    assert (vision.value, language.value, cross.value) == pytest.approx((-4.875, -1.3125, -4.125))
    assert vision.n == 2 and vision.low == pytest.approx(-4.875 - 12.706 * 3.25 / 2, abs=1e-2)
    assert [Path(source).parent.name for source in vision.sources] == ["run0", "after0", "run0", "after1"]
    assert not any("protocols" in note for note in change.notes)
    path = tmp_path / "after1" / "profile.json"
    path.write_text(path.read_text().replace('"estimator": "twonn", "tokens"', '"estimator": "gride", "tokens"'))
    told = "CAUTION: runs were measured by different protocols (estimator, tokens, samples, split)"
    assert told in table(tmp_path, "change").notes


def test_the_change_of_a_run_that_is_left_out_is_that_of_the_run_with_the_same_weights(tmp_path: Path) -> None:
    for name, value in (("a", 50.0), ("b", 50.0)):
        run = folders.pruned(tmp_path / name, value, id_weight="multiply")
        report = json.loads((run / "report.json").read_text())
        folders.write(run / "report.json", report | {"verified": {"fingerprint": "same"}})
    (left_out,) = groups_of(collect([tmp_path]))[0].repeated
    folders.measured(tmp_path / "after", model=str(left_out.folder / "model"), fingerprint="same", scale=0.5)
    (changes,) = dict(table(tmp_path, "change").rows).values()
    assert (changes[0].value, changes[0].n) == (pytest.approx(-6.5), 1)


def test_the_change_by_a_second_pruning_is_from_the_model_that_was_pruned_first(tmp_path: Path) -> None:
    first = folders.pruned(tmp_path / "first", id_weight="none")
    folders.measured(tmp_path / "between", model=str(first / "model"), fingerprint="pruned first")
    step = {"prune.criterion": "wanda", "prune.id_weight": "none", "prune.sparsity": 0.5}
    second = folders.pruned(tmp_path / "second", id_weight="none", dense="pruned first", history=[step])
    folders.measured(tmp_path / "after", model=str(second / "model"), fingerprint="pruned second", scale=0.5)
    rows = dict(table(tmp_path, "change").rows)
    (changes,) = [row for words, row in rows.items() if "after Wanda" in words[0]]
    assert changes[0].value == pytest.approx(-6.5)


def test_recoveries_of_models_pruned_with_and_without_ids_are_paired(tmp_path: Path) -> None:
    for weight, profile, samples in (("none", None, None), ("multiply", "p", "s")):
        step = {"prune.criterion": "magnitude", "prune.schedule": "one-shot", "prune.id_weight": weight, "seed": 0}
        step |= {"samples": samples, "profile": profile, "fingerprint": "dense"}
        folders.pruned(tmp_path / weight, 50.0, id_weight=weight, history=[step], recover__method="lora")
    names = [row[0][0] for row in table(tmp_path, "quality").rows]
    assert not any("before" in name for name in names), names
    assert [made.n for _, made in paired_changes(groups_of(collect([tmp_path])), "CIDEr")] == [1]


def test_dimensions_before_pruning_are_those_of_the_model_whose_new_head_was_learnt(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "run", id_weight="multiply")
    folders.write(run / "profile.json", folders.profile(fingerprint="learnt"))
    report = json.loads((run / "report.json").read_text())
    folders.write(run / "report.json", report | {"made": report["made"] | {"dense_fingerprint": "learnt"}})
    folders.measured(tmp_path / "after", model=str(run / "model"), fingerprint="pruned run", scale=0.5)
    (changes,) = dict(table(tmp_path, "change").rows).values()
    assert changes[0].value == pytest.approx(-6.5)


def test_dimensions_measured_otherwise_before_and_after_are_cautioned(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "run", id_weight="multiply")
    folders.measured(tmp_path / "after", model=str(run / "model"), fingerprint=f"pruned {run.name}")
    assert not any("CAUTION" in note for note in table(tmp_path, "change").notes)
    caution = "CAUTION: before and after were measured with different"
    for part, changes in (
        ("model", {"clean_texts": False}),
        ("dataset", {"split": "validation", "fingerprint": "other samples"}),
    ):
        after = folders.profile(model=str(run / "model"), fingerprint=f"pruned {run.name}")
        after[part] |= changes
        folders.write(tmp_path / "after" / "profile.json", after)
        assert any(note.startswith(caution) for note in table(tmp_path, "change").notes)
    words = [words for words, _ in table(tmp_path, "dimensions").rows]
    assert [row[2] for row in words] == ["shapes", "shapes validation"]


def test_a_profile_that_repeats_another_is_told_as_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, scale in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        folders.measured(Path(name), scale=scale)
    shown = table(Path(), "dimensions")
    assert [words[0] for words, _ in shown.rows] == ["a", "c"]
    assert shown.notes[1:] == ("left out, as repeats of the same model and dimensions: b",)


def test_unreliable_dimensions_are_left_out_counted_and_said(tmp_path: Path) -> None:
    run = folders.measured(tmp_path / "a")
    folders.write(run / "profile.json", folders.few_points(folders.profile(), "text.0.query", "text.0.cross.key"))
    shown = table(tmp_path, "dimensions")
    ((words, entries),) = shown.rows
    assert (shown.labels[3], words[3]) == ("points", "36-200")
    values = {column: (entry.value, entry.n, entry.text) for column, entry in zip(shown.columns, entries, strict=True)}
    assert (values["vision"][:2], values["language"][:2]) == ((13.0, 2), (2.0, 1))
    # nothing reliable is left of this one
    assert values["cross"] == (None, 0, "unreliable")
    assert (values["no estimate"][:2], values["unreliable"][:2]) == ((0, 5), (2, 5))
    assert shown.notes[1].endswith(
        "left out, as their ID is unreliable: " + words[0] + " (1 of 2 language, 1 of 1 cross)"
    )
    assert "unreliable" in written([shown], "markdown") and "unreliable" in written([shown], "latex")
    lines = csv.DictReader(io.StringIO(written([shown], "csv")))
    assert {line["column"]: line["value"] for line in lines}["unreliable"] == "2"
    assert as_json(shown)["rows"][0]["numbers"]["cross"]["value"] is None


def test_unreliable_dimensions_are_no_change_and_have_no_part_in_correlations(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "run", id_weight="multiply")
    after = folders.measured(tmp_path / "after", model="x", fingerprint=f"pruned {run.name}", scale=0.5)
    made = json.loads((after / "profile.json").read_text())
    folders.write(after / "profile.json", folders.few_points(made, "vision.0.qkv", "text.0.cross.key"))
    change = table(tmp_path, "change")
    (entries,) = dict(change.rows).values()
    assert [entry.value for entry in entries] == [-7.0, pytest.approx(-1.75), None]
    assert "CAUTION: left out, as their ID is unreliable before or after pruning: 2 of 5 layers" in change.notes
    assert not any("both before and after pruning" in note for note in change.notes)
    made["layers"].popitem()
    folders.write(after / "profile.json", made)
    assert "CAUTION: 4 of 5 layers have an ID both before and after pruning" in table(tmp_path, "change").notes


def test_correlations_are_over_layers_whose_dimension_is_reliable(tmp_path: Path) -> None:
    run = folders.sensitivity(tmp_path / "s")
    found = json.loads((run / "sensitivity.json").read_text())
    outlier = found["layers"]["vision.0.fc1"]
    outlier |= {"dimension": 0.0, "unsound": "an ID of 0, below 0.9"}
    folders.write(run / "sensitivity.json", found)
    shown = table(tmp_path, "sensitivity")
    rho = shown.rows[0][1][0]
    assert (rho.value, rho.n) == (1.0, 4)
    assert "CAUTION: left out, as they have no reliable ID: 1 of 5 layers" in shown.notes
    outlier |= {"dimension": None, "unsound": None}
    folders.write(run / "sensitivity.json", found)
    assert "CAUTION: left out, as they have no reliable ID: 1 of 5 layers" in table(tmp_path, "sensitivity").notes
    for layer in found["layers"].values():
        layer["unsound"] = "estimated from 36 distinct points, fewer than 100"
    folders.write(run / "sensitivity.json", found)
    shown = table(tmp_path, "sensitivity")
    assert all(entry.value is None for _, entries in shown.rows for entry in entries)
    assert "CAUTION: left out, as they have no reliable ID: 5 of 5 layers" in shown.notes
    for layer in found["layers"].values():
        del layer["unsound"]
    folders.write(run / "sensitivity.json", found)
    assert any("does not say which IDs are unreliable" in note for note in table(tmp_path, "sensitivity").notes)


def test_dimensions_of_layer_inputs_say_so(tmp_path: Path) -> None:
    for name, capture in (("a", "output"), ("b", "input")):
        protocol = folders.profile()["protocol"] | {"capture": capture}
        folders.measured(tmp_path / name, scale=1 + (name == "b"), protocol=protocol)
    rows = [words[4] for words, _ in table(tmp_path, "dimensions").rows]
    assert rows == ["twonn, flatten", "twonn, flatten, layer inputs"]


def test_a_study_of_one_shot_runs_says_so(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "a", prune__schedule="one-shot")
    assert "all of these runs are one-shot" in table(tmp_path, "quality").notes
    folders.pruned(tmp_path / "b", prune__schedule="cubic")
    assert "all of these runs are one-shot" not in table(tmp_path, "quality").notes


def test_a_model_of_one_modality_has_its_correlation_once(tmp_path: Path) -> None:
    run = folders.sensitivity(tmp_path / "a")
    assert len(table(tmp_path, "sensitivity").columns) == 8
    found = json.loads((run / "sensitivity.json").read_text())
    found["modalities"] = {"vision": found["modalities"]["vision"]}
    folders.write(run / "sensitivity.json", found)
    assert table(tmp_path, "sensitivity").columns == ("all layers, rho", "all layers, p")


def test_losses_of_modalities_alone_stand_beside_the_dense_models(tmp_path: Path) -> None:
    run = folders.sensitivity(tmp_path / "a")
    alone = table(tmp_path, "alone")
    assert alone.columns == ("0 %", "40 %", "80 %")
    assert [found.value for found in dict(alone.rows)[str(run), "m", "vision", "400"]] == pytest.approx([1.0, 2.2, 3.4])


def test_dimensions_tell_whose_they_are_and_name_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folders.pruned(tmp_path / "run", id_weight="multiply", prune__refresh_profile=10)
    folders.write(run / "profile" / "profile.json", folders.profile())
    folders.write(run / "profile.json", folders.profile(scale=0.5))
    folders.measured(tmp_path / "after", model=str(run / "model"), fingerprint=f"pruned {run.name}", scale=0.4)
    monkeypatch.chdir(tmp_path)
    rows = {words[1]: entries[0].sources for words, entries in table(Path(), "dimensions").rows}
    assert rows == {
        **{"m, dense": ("run/profile/profile.json",), "m, on its way": ("run/profile.json",)},
        f"{run / 'model'}, pruned": ("after/profile.json",),
    }


def test_dimensions_that_a_run_read_of_other_weights_are_not_called_dense(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "run", id_weight="multiply")
    folders.write(run / "profile.json", folders.profile("elsewhere/model", "pruned before"))
    assert [words[1] for words, _ in table(tmp_path, "dimensions").rows] == ["elsewhere/model"]


def test_dimensions_of_a_recovered_model_name_that_model(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "run")
    again = folders.pruned(tmp_path / "again", model=str(run / "model"), recover__method="lora")
    for name, saver in (("after", run), ("after-again", again)):
        model, fingerprint = str(saver / "model"), f"pruned {saver.name}"
        folders.measured(tmp_path / name, model=model, fingerprint=fingerprint)
    shown = {Path(words[0]).name: words[1] for words, _ in table(tmp_path, "dimensions").rows}
    assert shown == {"after": f"{run / 'model'}, pruned", "after-again": f"{again / 'model'}, pruned and recovered"}


def test_evaluations_of_what_a_model_learnt_from_are_cautioned(tmp_path: Path) -> None:
    run = folders.evaluated(tmp_path / "on-train")
    folders.evaluated(tmp_path / "on-test", 80.0)
    results = json.loads((run / "results.json").read_text())
    results["dataset"]["learnt"] = "training"
    folders.write(run / "results.json", results)
    notes = table(tmp_path, "evaluations").notes
    assert notes[1] == f"CAUTION: no test, since the split evaluated was used to make the models: {run}"
    assert "NO TEST: samples of this split were used for training of the model" in rests_on(results)


def test_evaluations_of_weights_that_were_overwritten_are_cautioned(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "run")
    about = {"name": "run/model", "path": str(run / "model")}
    now = {**about, "fingerprint": "pruned run"}
    folders.evaluated(tmp_path / "now", model=now)
    folders.evaluated(tmp_path / "half", model={**about, "fingerprint": "of halves", "dtype": "bfloat16"})
    (caution,) = [note for note in table(tmp_path, "evaluations").notes if "CAUTION" in note]
    assert caution == "CAUTION: evaluations of shapes test differ in dtype"
    folders.evaluated(tmp_path / "then", model={**about, "fingerprint": "before"})
    said = f"CAUTION: of earlier weights, since the model's folder was overwritten: {tmp_path / 'then'}"
    assert table(tmp_path, "evaluations").notes[2:] == (said,)


def test_the_scope_of_a_recovery_has_the_layers_of_earlier_prunings(tmp_path: Path) -> None:
    """Its masks have all zeros of the model, its settings are those of the last pruning."""
    steps = [{"prune.criterion": "magnitude", "prune.scope": scope, "seed": 0} for scope in ("vision", "language")]
    folders.pruned(tmp_path / "once", scope="language", recover__method="lora", history=steps[1:])
    assert not any("earlier prunings" in note for note in table(tmp_path, "sparsity").notes)
    folders.pruned(tmp_path / "twice", scope="language", recover__method="lora", history=steps)
    said = "of recovered models, in scope has the layers of earlier prunings too, whose zeros stay"
    assert said in table(tmp_path, "sparsity").notes


def test_the_dense_model_is_averaged_over_the_draws_of_samples_that_runs_are(tmp_path: Path) -> None:
    for draw, dense in (("t0", 80.0), ("t1", 90.0), ("unused", 10.0)):
        data = {"dataset": "shapes", "split": "test", "fingerprint": draw}
        folders.evaluated(tmp_path / f"dense-{draw}", dense, dataset=data, limit=3)
        if draw != "unused":
            run = folders.pruned(tmp_path / draw, 50.0, seed=int(draw[1:]))
            folders.write(run / "eval" / "results.json", folders.results({"CIDEr": 50.0}, draw, dataset=data, limit=3))
    dense = dict(table(tmp_path, "quality").rows)["dense model", ""][0]
    assert (dense.value, dense.n, len(dense.sources)) == (85.0, 2, 2)


def test_a_repeat_is_left_out_and_said(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "a", 50.0)
    folders.pruned(tmp_path / "b", 60.0)
    (row,) = table(tmp_path, "quality").rows
    assert row[1][0].value == 50.0 and row[1][0].n == 1
    assert any("left out, as repeats" in note and "b" in note for note in table(tmp_path, "quality").notes)


def test_seeds_that_gave_the_same_weights_are_one_run(tmp_path: Path) -> None:
    for seed, weight, weights in ((0, "none", "w"), (1, "none", "w"), (0, "multiply", "i"), (1, "multiply", "j")):
        run = folders.pruned(tmp_path / f"{weight}-{seed}", 50.0 + seed, id_weight=weight, seed=seed)
        report = json.loads((run / "report.json").read_text())
        folders.write(run / "report.json", report | {"verified": {"fingerprint": weights}})
    shown = table(tmp_path, "quality")
    assert [(row[0][0], row[1][0].n) for row in shown.rows] == [("PLATON", 1), ("PLATON × ID", 2)]
    (told,) = [note for note in shown.notes if note.startswith("left out")]
    assert told.startswith("left out, as other seeds that gave the same weights: ") and told.endswith("none-1")
    assert [made.n for _, made in paired_changes(groups_of(collect([tmp_path])), "CIDEr")] == [2]


def test_a_criterion_that_is_no_word_takes_no_table(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "a"), folders.pruned(tmp_path / "b", seed=1)
    path = tmp_path / "b" / "run.json"
    path.write_text(path.read_text().replace('"prune.criterion": "platon"', '"prune.criterion": ["platon"]'))
    assert ["platon"] in [run.signature.get("prune.criterion") for run in collect([tmp_path]).runs]
    assert len(groups_of(collect([tmp_path]))) == 2


def test_other_samples_and_missing_evaluations_are_cautioned(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "a")
    other = folders.pruned(tmp_path / "b", seed=1)
    folders.write(other / "eval" / "results.json", folders.results({"CIDEr": 1.0}, "x", limit=2, samples=2))
    third = folders.pruned(tmp_path / "c", seed=2)
    (third / "eval" / "results.json").unlink()
    fourth = folders.pruned(tmp_path / "d", seed=3)
    report = json.loads((fourth / "report.json").read_text()) | {"evaluation": {"skipped": "no split is left"}}
    folders.write(fourth / "report.json", report)
    notes = " ".join(table(tmp_path, "quality").notes)
    assert "d (no split is left)" in notes
    assert ("not evaluated: no split is left",) in {run.troubles for run in collect([tmp_path]).runs}
    assert "runs were evaluated with different samples" in notes and "part of the split" in notes
    assert "not evaluated" in notes


def test_models_of_another_size_have_tables_of_their_own(study: Path) -> None:
    other = folders.pruned(study / "other", 10.0)
    report = (other / "report.json").read_text().replace('"model_weights": 1000', '"model_weights": 2000')
    (other / "report.json").write_text(report)
    assert sum(one.key.startswith("quality") for one in tables_of(collect([study]))) == 2


def test_csv_has_a_line_for_every_number_with_its_files(study: Path) -> None:
    tables = tables_of(collect([study]))
    lines = list(csv.DictReader(io.StringIO(written(tables, "csv"))))
    assert len(lines) == sum(found.value is not None for one in tables for _, row in one.rows for found in row)
    for line in lines:
        assert line["files"] and all((study / file).exists() for file in line["files"].split("; "))


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_survives_what_names_may_hold(tmp_path: Path, form: str) -> None:
    folders.pruned(tmp_path / "a|b_&%$#{x}", criterion="a|b\\_<i>", model="=cmd|x\n| y")
    text = written(tables_of(collect([tmp_path])), form)
    if form == "markdown":
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert all(line.replace("\\|", "").count("|") in (4, 7, 11) for line in rows) and "<i>" not in text
    if form == "latex":
        body = [line for line in text.splitlines() if not line.startswith("%")]
        assert r"a\textbar{}b\textbackslash{}\_$<$i$>$" in "\n".join(body)
    if form == "csv":
        assert all(len(row) == 10 for row in csv.reader(io.StringIO(text)))


def test_markdown_numbers_the_files(study: Path) -> None:
    text = written([table(study, "quality")], "markdown")
    assert "52.0 [47.0, 57.0] (2-4)" in text and "2. `none-0/eval/results.json`" in text


def test_json_has_words_numbers_and_files(study: Path) -> None:
    made = as_json(table(study, "quality"))
    row = next(row for row in made["rows"] if row["method"] == "PLATON")
    assert row["numbers"]["95 %"]["value"] == 20.0 and row["numbers"]["95 %"]["sources"] == [
        "none-95/eval/results.json"
    ]


def test_a_missing_value_and_zero_are_written_plainly() -> None:
    assert (
        shown(TableEntry()) == "–"
        and shown(TableEntry(value=-0.04)) == "0.0"
        and shown(TableEntry(value=-0.06)) == "-0.1"
    )


def test_published_numbers_stand_beside_the_measured_ones(study: Path) -> None:
    tables = expected(collect([study]))
    first = next(one for one in tables if one.paper == "Table 1")
    row = dict(first.rows)["PLATON × ID", "all", "80 %"]
    assert [found.value for found in row[:2]] == [129.2, 55.0]
    assert "compare the order" in first.notes[0] and len(first.rows) == 25
    assert not any(one.paper == "Table 7, without fine-tuning" for one in tables)


def on_coco(study: Path) -> Table:
    for run in collect([study]).of("prune"):
        recipe = (run.folder / "recipe.yaml").read_text().replace("shapes", "coco")
        (run.folder / "recipe.yaml").write_text(recipe)
    return expected(collect([study]))[0]


def test_differences_to_published_numbers_come_with_the_dense_models_numbers(study: Path) -> None:
    first = on_coco(study)
    assert first.columns[:3] == ("CIDEr, paper", "CIDEr, here", "CIDEr, difference")
    assert dict(first.rows)["PLATON × ID", "all", "80 %"][2].value == pytest.approx(55.0 - 129.2)
    assert first.notes[0].startswith("the paper's dense model has CIDEr 133.3, the one here 90.0")
    (study / "dense" / "results.json").unlink()
    assert on_coco(study).notes[0].startswith("CAUTION: the paper's dense model has CIDEr 133.3; add the idvl eval")


def test_the_schedule_of_a_published_table_is_no_setting_of_its_own(study: Path) -> None:
    for seed in range(9):
        folders.pruned(study / f"shot{seed}", 1.0, seed=seed, sparsity=0.4, prune__schedule="one-shot")
    for run in [*study.glob("none-*"), *study.glob("multiply-*")]:
        weight, seed = run.name.split("-")
        folders.pruned(run, 50.0, id_weight=weight, seed=int(seed), prune__schedule="cubic")
    tables = expected(collect([study]))
    assert {one.paper for one in tables} == {"Table 1", "Table 6", "Table 7"}
    assert not any("settings of its own" in note for one in tables for note in one.notes)


def test_a_part_of_the_split_or_other_settings_are_not_what_the_paper_measured(study: Path) -> None:
    for seed in range(3):
        run = folders.pruned(study / f"multiply-{seed}", 5.0, id_weight="multiply", seed=seed, prune__window=5)
        folders.write(run / "eval" / "results.json", folders.results({"CIDEr": 5.0}, "x", limit=3))
        folders.pruned(study / f"none-{seed}", 50.0, seed=seed, prune__window=10)
    folders.pruned(study / "none-95", 20.0, sparsity=0.95, prune__window=10)
    first = on_coco(study)
    assert first.columns[:2] == ("CIDEr, paper", "CIDEr, here") and not any("difference" in c for c in first.columns)
    told = " ".join(first.notes)
    assert "part of the split" in told and "settings of its own: PLATON × ID, window 5" in told
    assert "no differences: 1 of 6 runs were not evaluated on the whole test split as published" in told


def test_a_run_outside_a_published_table_does_not_take_its_differences_away(study: Path) -> None:
    run = folders.pruned(study / "elsewhere", 5.0, sparsity=0.3)
    folders.write(run / "eval" / "results.json", folders.results({"CIDEr": 5.0}, "x", limit=3))
    assert any("difference" in column for column in on_coco(study).columns)


def test_an_incomplete_copy_of_a_known_dataset_is_cautioned_and_not_what_the_paper_measured(study: Path) -> None:
    assert any("difference" in column for column in on_coco(study).columns)
    for path in study.glob("*/eval/results.json"):
        results = json.loads(path.read_text())
        results["dataset"] |= {"dataset": "coco", "dataset_id": "someone/coco", "split": "test", "looked_at": 60}
        folders.write(path, results)
    shown = on_coco(study)
    assert not any("difference" in column for column in shown.columns)
    told = "CAUTION: coco (split test) has 60 rows in someone/coco, 5,000 as published: results do not compare"
    assert told in shown.notes and told in table(study, "quality").notes
    results["dataset"]["looked_at"] = "60"
    folders.write(path, results)
    assert any("dataset.looked_at" in trouble for run in collect([study]).runs for trouble in run.troubles)
    assert told in table(study, "quality").notes


def test_intervals_and_correlations_have_known_answers() -> None:
    assert mean_interval([3.0]) == (3.0, None, None)
    mean, low, high = mean_interval([0.0, 2.0])
    assert (mean, low, high) == (1.0, pytest.approx(-11.7062047), pytest.approx(13.7062047))
    x, y = [1.0, 5.0, 2.0, 2.0, 9.0, 7.0, 3.0], [2.0, 4.0, 4.0, 1.0, 8.0, 3.0, 2.0]
    ours, theirs = spearman(x, y), stats.spearmanr(x, y)
    assert ours.rho == pytest.approx(theirs.statistic) and ours.p == pytest.approx(theirs.pvalue, abs=0.03)
    assert spearman(range(40), range(40)).p == pytest.approx(1 / 10_001)
    assert spearman([1, 2, 3], [1, 2, 3]) is None and spearman([1] * 9, range(9)) is None
    for n in (2, 5, 40):
        values = list(range(n))
        mean, low, high = mean_interval(values)
        half = stats.t.ppf(0.975, n - 1) * stats.sem(values)
        assert (high - mean, mean - low) == pytest.approx((half, half), rel=1e-12)
