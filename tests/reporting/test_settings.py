"""Which runs are replicates: a setting with an effect tells them apart, whatever their seeds; no other one does."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from idvl.pruning.job import INDIFFERENT
from idvl.recipe import Recipe, keys
from idvl.reporting.collect import Study, collect
from idvl.reporting.groups import Group, groups_of
from idvl.reporting.run_record import RunRecord
from idvl.reporting.settings import COLUMNS
from tests.support import folders

IDS = ("prune.profile", "prune.id_exponent", "prune.missing_id", "prune.refresh_profile")
MEASURED = ("estimate.tokens", "estimate.capture", "estimate.estimator", "data.samples")
OF_PLATON = ("prune.beta1", "prune.beta2", "prune.window", "prune.smoothing_dtype")
OPTIMIZER = ("epochs", "learning_rate", "weight_decay", "lr_schedule", "warmup")
# a file of dimensions is known by how they were measured
NEVER = {"prune.profile", "train.gradient_checkpointing", *(f"train.{key}" for key in INDIFFERENT)}


@pytest.fixture
def base(tmp_path: Path) -> RunRecord:
    folders.pruned(tmp_path / "base", id_weight="multiply")
    return collect([tmp_path]).runs[0]


def settings(**changes: Any) -> dict[str, Any]:
    sections = Recipe(model={"name": "m"}).to_dict()
    flat = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    return flat | {"prune.sparsity": 0.8} | {key.replace("__", "."): value for key, value in changes.items()}


def signed(values: dict[str, Any], *sections: str) -> dict[str, Any]:
    left_out = {f"train.{key}" for key in INDIFFERENT}
    return {key: value for key, value in values.items() if key.startswith(sections) and key not in left_out}


def protocol(values: dict[str, Any]) -> dict[str, Any]:
    named = {key.partition(".")[2]: values[key] for key in MEASURED}
    return {"n_samples": named.pop("samples"), **named}


def data(values: dict[str, Any]) -> dict[str, Any]:
    return {"dataset": "shapes"} | {key: values[f"data.{key}"] for key in COLUMNS}


def pruned(base: RunRecord, values: dict[str, Any], seed: int) -> RunRecord:
    """The run of prune with these settings."""
    signature = {"class": "Blip", "fingerprint": "dense", "layers": "all", "seed": seed, "samples": f"{seed}"}
    return replace(
        base,
        record={"signature": signature | signed(values, "prune.", "train.")},
        recipe={"model": {"name": "m"}, "data": data(values)},
        profile=replace(base.profile, protocol=protocol(values)),
        label=f"{seed}",
    )


def recovered(base: RunRecord, before: dict[str, Any], values: dict[str, Any], seed: int) -> RunRecord:
    """The recovery of a run of prune, as `history_of` tells of that."""
    step = {"fingerprint": "dense", "seed": seed, "samples": f"{seed}"} | signed(before, "prune.", "train.")
    step |= {f"estimate.{key}": value for key, value in protocol(before).items()}
    step |= {f"data.{key}": value for key, value in data(before).items()}
    own = signed(values, "recover.", "train.") | {"recover.method": "lora", "history": [step]}
    run = pruned(base, before, seed)
    signature = {key: value for key, value in run.signature.items() if not key.startswith("train.")} | own
    return replace(run, record={"signature": signature})


def grouped(*runs: RunRecord) -> list[Group]:
    return groups_of(Study(runs=runs))


def telling(base: RunRecord, make: Any, own: dict[str, Any], sections: tuple[str, ...]) -> set[str]:
    """The keys of these sections whose value alone makes two runs of different seeds two groups."""
    wanted = {key for key in keys() if key.startswith(sections) or key in MEASURED or key[5:] in COLUMNS}
    plain = make(base, own, 0)
    other = {"prune.sparsity": 0.7}
    return {key for key in wanted if len(grouped(plain, make(base, own | {key: other.get(key, "x")}, 1))) == 2}


def every(*sections: str) -> set[str]:
    return {key for key in keys() if key.startswith(sections) or key in MEASURED or key[5:] in COLUMNS} - NEVER


def test_every_setting_with_an_effect_tells_runs_apart(base: RunRecord) -> None:
    """In a run without weighting none of dimensions does, in another criterion's none of PLATON's."""
    read = ("prune.", "train.")
    # PLATON does not prune from calibration samples
    assert telling(base, pruned, settings(), read) == every(*read) - {"prune.calibration"}
    plain = settings(prune__id_weight="none", prune__criterion="gradient")
    assert telling(base, pruned, plain, read) == every(*read) - {*IDS, *MEASURED, *OF_PLATON}
    shot = settings(prune__schedule="one-shot")
    moving = {f"train.{key}" for key in OPTIMIZER}
    assert telling(base, pruned, shot, read) == every(*read) - moving - {"prune.calibration"}
    alone = settings(prune__schedule="one-shot", prune__criterion="magnitude")
    trained = {key for key in keys() if key.startswith("train.")} - {"train.new_head"}
    assert telling(base, pruned, alone, read) == every(*read) - trained - {*OF_PLATON}
    published = settings(prune__profile="published:blip-coco")
    rest = every(*read) - {"prune.calibration", *MEASURED}
    # an estimate that the run makes later is no published one
    assert telling(base, pruned, published, read) == rest | {"prune.profile"}
    renewed = published | {"prune.refresh_profile": 2}
    assert telling(base, pruned, renewed, read) == rest | {"prune.profile", *MEASURED}
    by_id = settings(prune__id_weight="none", prune__allocation="id", prune__calibration="sequential")
    assert telling(base, pruned, by_id, read) == every(*read)


def test_settings_of_a_recovery_and_of_the_pruning_before_tell_recoveries_apart(base: RunRecord) -> None:
    own, read = settings(), ("recover.", "train.")

    def recovery(base: RunRecord, values: dict[str, Any], seed: int) -> RunRecord:
        return recovered(base, own, values, seed)

    def start(base: RunRecord, values: dict[str, Any], seed: int) -> RunRecord:
        return recovered(base, values, own, seed)

    not_own = {*MEASURED, *(f"data.{key}" for key in COLUMNS)}
    assert telling(base, recovery, own, read) == every(*read) - not_own - {"recover.method"}
    assert telling(base, start, own, ("prune.", "train.")) == every("prune.", "train.") - {"prune.calibration"}


def allocated(folder: Path, seed: int, *, capture: str = "output", **changes: Any) -> Path:
    made = {"criterion": "wanda", "prune__allocation": "id", "prune__calibration": "sequential", "samples": f"{seed}"}
    made |= {"prune__profile": "auto", "prune__id_exponent": 1.0, "prune__missing_id": "median"}
    run = folders.pruned(folder, seed=seed, **made | changes)
    measured = folders.profile(scale=1 + 0.1 * seed + (capture == "input"))
    folders.write(run / "profile.json", measured | {"protocol": measured["protocol"] | {"capture": capture}})
    return run


def test_allocations_by_other_ids_are_no_replicates(tmp_path: Path) -> None:
    for seed in (0, 1):
        allocated(tmp_path / f"plain-{seed}", seed)
        allocated(tmp_path / f"squared-{seed}", seed, prune__id_exponent=2.0)
        allocated(tmp_path / f"inputs-{seed}", seed, capture="input")
    groups = {str(group.method): len(group.runs) for group in groups_of(collect([tmp_path]))}
    assert groups == {
        **{"Wanda, allocation id": 2, "Wanda, allocation id, id_exponent 2.0": 2},
        "Wanda, allocation id, ID capture input": 2,
    }


def test_groups_do_not_depend_on_the_order_of_folders(tmp_path: Path) -> None:
    for seed, (name, scale) in itertools.product((0, 1), (("out", 1.0), ("in", 2.0), ("third", 3.0))):
        run = folders.pruned(tmp_path / f"{name}{seed}", id_weight="multiply", seed=seed)
        # no setting tells them apart, but the same file of dimensions was read for both seeds
        folders.write(run / "profile.json", folders.profile(scale=scale))
    found = set()
    for order in itertools.islice(itertools.permutations(collect([tmp_path]).runs), 0, None, 17):
        groups = grouped(*order)
        found.add(frozenset((str(group.method), tuple(run.folder.name for run in group.runs)) for group in groups))
    assert found == {
        frozenset(
            {
                ("PLATON × ID", ("in0", "in1")),
                ("PLATON × ID, other IDs", ("out0", "out1")),
                ("PLATON × ID, other IDs (2)", ("third0", "third1")),
            }
        )
    }


def test_processes_tell_runs_apart_where_they_add_to_a_step(base: RunRecord) -> None:
    """`train.batch_size` is per process; calibration samples are shared out."""

    def several(values: dict[str, Any], processes: int) -> RunRecord:
        run = pruned(base, values, processes)
        return replace(run, record={"signature": run.signature | {"processes": processes}})

    for values, groups in (
        (settings(), 2),
        (settings(prune__schedule="one-shot", prune__criterion="magnitude"), 1),
        (settings(prune__criterion="wanda", prune__calibration="sequential"), 1),
    ):
        assert len(grouped(several(values, 1), several(values, 2))) == groups


def test_runs_of_which_no_two_are_configured_alike_are_no_replicates(tmp_path: Path) -> None:
    for seed in range(3):
        folders.pruned(tmp_path / f"{seed}", seed=seed, configuration=f"{seed}" * 64)
    assert len(groups_of(collect([tmp_path]))) == 3


def test_ids_of_other_weights_are_told(tmp_path: Path) -> None:
    for seed, fingerprint in ((0, "dense"), (1, "0123456789"), (2, "dense")):
        run = folders.pruned(tmp_path / f"{seed}", id_weight="multiply", seed=seed)
        folders.write(run / "profile.json", folders.profile(fingerprint=fingerprint))
    groups = {str(group.method): len(group.runs) for group in groups_of(collect([tmp_path]))}
    assert groups == {"PLATON × ID": 2, "PLATON × ID, ID model 01234567": 1}


def test_files_of_densities_are_told_by_name_and_contents(tmp_path: Path) -> None:
    calibrated = {"criterion": "wanda", "prune__calibration": "sequential"}
    for name, file, density in (("a", "/x/one.json", 0.5), ("b", "one.json", 0.4), ("c", "two.json", 0.5)):
        densities = dict.fromkeys(folders.LAYERS, density)
        folders.pruned(tmp_path / name, prune__allocation=f"file:{file}", densities=densities, **calibrated)
    names = sorted(str(group.method) for group in groups_of(collect([tmp_path])))
    assert names[0] == "Wanda, allocation file:one.json" and names[2] == "Wanda, allocation file:two.json"
    assert names[1].startswith("Wanda, allocation file:one.json, densities ") and len(names[1]) < 60


def test_how_a_run_was_started_is_read_where_it_stands(tmp_path: Path) -> None:
    """Of equal runs the one that began first stands for all."""
    for name, hour in (("a", 5), ("b", 3)):
        run = folders.pruned(tmp_path / name)
        record = json.loads((run / "run.json").read_text())
        folders.write(run / "run.json", record | {"started": f"2026-01-02T0{hour}:00:00+00:00"})
    (group,) = groups_of(collect([tmp_path]))
    assert [run.folder.name for run in group.runs] == ["b"]


def names(folder: Path) -> dict[str, int]:
    return {str(group.method): len(group.runs) for group in groups_of(collect([folder]))}


def test_replicates_of_a_method_do_not_depend_on_other_methods(tmp_path: Path) -> None:
    """Runs that read no samples, and those of another method or sparsity on other samples, divide no replicates."""
    shot = {"prune__schedule": "one-shot"}
    folders.pruned(tmp_path / "a", criterion="magnitude", samples="m0", **shot)
    for seed in (0, 1):
        folders.pruned(tmp_path / f"g{seed}", criterion="gradient", seed=seed, samples=f"g{seed}", **shot)
    assert names(tmp_path) == {"Magnitude, one-shot": 1, "Gradient, one-shot": 2}
    for seed, samples in ((0, "g0"), (1, "other")):
        folders.pruned(tmp_path / f"p{seed}", seed=seed, samples=samples, **shot)
    # the same seed of another method read other samples, which is told of all its runs
    rows = {"Magnitude, one-shot": 1, "Gradient, one-shot": 2, "PLATON, one-shot, other samples": 2}
    assert names(tmp_path) == rows


def test_replicates_of_weighted_runs_do_not_depend_on_other_methods(tmp_path: Path) -> None:
    for name, criterion, seed, scale in (("a", "gradient", 0, 3.0), ("b", "platon", 0, 1.0), ("c", "platon", 1, 1.5)):
        run = folders.pruned(tmp_path / name, criterion=criterion, id_weight="multiply", seed=seed)
        folders.write(run / "profile.json", folders.profile(scale=scale))
    assert sorted(names(tmp_path).values()) == [1, 2]


def step_of(values: dict[str, Any]) -> dict[str, Any]:
    """The step of a history that a run of prune with these settings is."""
    plain = {"prune.criterion": "platon", "prune.id_weight": "none", "prune.sparsity": 0.8, "prune.scope": "all"}
    return plain | {"fingerprint": "dense", "seed": 0} | {key.replace("__", "."): word for key, word in values.items()}


def after_lora(folder: Path, values: dict[str, Any], **changes: Any) -> Path:
    """A recovery of a run of prune with these settings."""
    own = {key: word for key, word in values.items() if not key.startswith("train")}
    history = [step_of({key.replace("criterion", "prune__criterion"): word for key, word in values.items()})]
    return folders.pruned(folder, **own, recover__method="lora", history=history, **changes)


def test_settings_of_a_pruning_are_named_alike_in_pruned_and_recovered_rows(tmp_path: Path) -> None:
    few, many = (
        {"criterion": "wanda", "prune__calibration": "sequential", "prune__calibration_samples": n} for n in (32, 128)
    )
    folders.pruned(tmp_path / "few", **few)
    after_lora(tmp_path / "of-many", many)
    rows = {"Wanda": 1, "Wanda, recovered by masked LoRA, calibration_samples 128": 1}
    assert names(tmp_path) == rows
    folders.pruned(tmp_path / "few-1", seed=1, **few)
    folders.pruned(tmp_path / "many", **many)
    after_lora(tmp_path / "of-few", few)
    rows |= {"Wanda": 2, "Wanda, calibration_samples 128": 1, "Wanda, recovered by masked LoRA": 1}
    assert names(tmp_path) == rows


def test_how_a_pruning_trained_is_named_in_pruned_and_recovered_rows(tmp_path: Path) -> None:
    few, many = {"train__samples": 100, "prune__compat": "none"}, {"train__samples": 200, "prune__compat": "icml24"}
    for seed in (0, 1):
        folders.pruned(tmp_path / f"{seed}", seed=seed, **few)
    after_lora(tmp_path / "many", many, train__samples=50)
    rows = {"PLATON": 2, "PLATON, recovered by masked LoRA, compat icml24, pruning's samples 200": 1}
    assert names(tmp_path) == rows
    after_lora(tmp_path / "few", few, train__samples=50)
    assert names(tmp_path) == rows | {"PLATON, recovered by masked LoRA": 1}


def test_steps_before_are_compared_with_steps_of_their_kind(tmp_path: Path) -> None:
    shared = {"prune__structure": "unstructured"}
    calibrated = {"prune__criterion": "wanda", "prune__calibration": "sequential", "prune__calibration_samples": 32}
    shot = {"prune__schedule": "one-shot", "prune__mask_every": 1, "prune__calibration": None}
    trained = {"prune__schedule": "cubic", "prune__mask_every": 10, "prune__calibration": None}
    trained |= {"prune__calibration_samples": None, "train__samples": None}
    for name, step in (("a", calibrated), ("b", calibrated), ("c", trained), ("d", trained | shot)):
        folders.pruned(tmp_path / name, seed="ab".find(name), history=[step_of(shared | step)])
    folders.pruned(tmp_path / "e", history=[step_of(shared | calibrated | {"prune__calibration_samples": 64})])
    assert names(tmp_path) == {
        **{"PLATON, after Wanda to 80 %": 2, "PLATON, after PLATON to 80 %": 1},
        "PLATON, after PLATON (one-shot) to 80 %": 1,
        "PLATON, after Wanda to 80 %, step 1's calibration_samples 64": 1,
    }


def test_a_pruning_before_is_compared_with_prunings(tmp_path: Path) -> None:
    calibrated = {"prune__calibration": "sequential", "prune__calibration_samples": 32}
    for seed in (0, 1):
        folders.pruned(tmp_path / f"{seed}", criterion="wanda", seed=seed, **calibrated)
    step = step_of(calibrated | {"prune__criterion": "wanda", "prune__calibration_samples": 128})
    folders.pruned(tmp_path / "further", criterion="wanda", history=[step], **calibrated)
    assert names(tmp_path) == {"Wanda": 2, "Wanda, after Wanda to 80 %, step 1's calibration_samples 128": 1}


def test_which_texts_are_read_is_no_setting_of_a_classifier_of_images(tmp_path: Path) -> None:
    """A built-in model has `first`, a saved one `any`; `all` takes a sample once for each of its texts."""
    for seed, texts in enumerate(("any", "first", "all")):
        folders.pruned(tmp_path / f"{seed}", seed=seed, train__texts=texts, **{"class": "ViTForImageClassification"})
    assert names(tmp_path) == {"PLATON": 2, "PLATON, texts all": 1}
    for seed in range(3):
        record = json.loads((tmp_path / f"{seed}" / "run.json").read_text())
        folders.write(
            tmp_path / f"{seed}" / "run.json", record | {"signature": record["signature"] | {"class": "Blip"}}
        )
    assert len(names(tmp_path)) == 3
