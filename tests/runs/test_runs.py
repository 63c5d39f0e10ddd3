"""Run folders: nothing is lost, nothing is half-written, and two runs never share one."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from idvl import files, json_file, runs
from idvl.errors import RunError, UsageError
from idvl.files import write_bytes, write_json
from idvl.runs import FolderName, Run, check, default_folder, new_folder, read_metrics, read_record

RECIPE = {"model": {"name": "builtin/blip"}, "data": {"seed": 3}}
SIGNATURE = {"model": "builtin/blip", "samples": ["a", "b"]}


def start(folder: Path, **options: object) -> Run:
    return Run.open(folder, **{"recipe": RECIPE, "signature": SIGNATURE, **options})


def finished(folder: Path) -> Path:
    with start(folder) as run:
        run.path("profile.json").write_text("{}")
        run.log_metric({"layer": "a", "dimension": 1.5})
    return folder


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {runs.LOCK}


def test_a_run_leaves_its_recipe_and_provenance(tmp_path: Path) -> None:
    with start(tmp_path / "deep" / "run") as run:
        run.log_metric({"loss": float("nan"), "step": 1})
    record = json.loads((run.folder / "run.json").read_text())
    assert yaml.safe_load((run.folder / "recipe.yaml").read_text()) == RECIPE
    assert record["seed"] == 3 and record["signature"] == SIGNATURE
    assert {"python", "torch", "transformers"} <= set(record["versions"])
    assert set(record["files"]) == contents(run.folder)
    assert run.metrics() == [{"loss": None, "step": 1}]


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="--resume .* --overwrite"):
        start(tmp_path)
    for option in ("resume", "overwrite"):
        with pytest.raises(UsageError, match="holds no idvl run"):
            start(tmp_path, **{option: True})
    assert contents(tmp_path) == {"thesis.tex"}


def test_a_folder_of_runs_is_refused_with_their_names_and_the_way_out(tmp_path: Path) -> None:
    for name in ("recovered", "pruned"):
        finished(tmp_path / name)
    for option in ("resume", "overwrite"):
        with pytest.raises(UsageError, match=r"holds runs \(pruned, recovered\): .* or, .* add that option"):
            start(tmp_path, **{option: True})
    assert contents(tmp_path) == {"pruned", "recovered"}


def test_a_resume_of_nothing_says_that_it_begins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start(tmp_path / "typo", resume=True).close()
    assert caplog.messages == [f"there is no run in {str(tmp_path / 'typo')!r} to resume: starting a new one"]
    start(tmp_path / "typo", resume=True).close()
    assert len(caplog.messages) == 1


def test_the_program_is_told_as_a_user_types_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for path, said in (("/opt/idvl/__main__.py", "python -m idvl prune x"), ("/usr/bin/idvl", "idvl prune x")):
        monkeypatch.setattr("sys.argv", [path, "prune", "x"])
        assert runs.provenance()["command"] == said


def test_a_damaged_run_is_told_as_damaged(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match=r"metrics.jsonl' cannot be read \(Is a directory\); start again with --over"):
        start(folder, resume=True)
    (folder / "run.json").write_text("{")
    for option in ("resume", "overwrite"):
        with pytest.raises(UsageError, match=r"run.json' cannot be read \(.*\): restore it"):
            start(folder, **{option: True})


def test_a_foreign_run_json_is_no_licence_to_overwrite(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema": "other", "files": ["thesis.tex"]}')
    with pytest.raises(UsageError, match="holds no idvl run"):
        start(tmp_path, overwrite=True)
    assert contents(tmp_path) == {"run.json"}


def test_overwrite_removes_what_the_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    start(tmp_path, overwrite=True).close()
    assert contents(tmp_path) == {"run.json", "recipe.yaml", "notes.txt"}


def test_overwrite_never_leaves_its_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    outside.write_text("mine")
    finished(folder)
    record = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", {**record, "files": [*record["files"], "../outside"]})
    before = contents(folder)
    with pytest.raises(UsageError, match="not inside it"):
        start(folder, overwrite=True)
    assert outside.exists() and contents(folder) == before


def test_what_a_killed_run_was_about_to_rename_is_removed(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.path("eval").mkdir()
    (tmp_path / "mine").mkdir()
    # a folder may be the model before, which its own writer puts back
    (tmp_path / ".model.before.7.tmp").mkdir()
    for name in (".run.json.7.tmp", ".recipe.yaml.8.tmp", "eval/.results.json.7.tmp", "mine/.a.7.tmp", ".b.tmp"):
        (tmp_path / name).write_text("")
    start(tmp_path, resume=True).close()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.tmp")}
    assert left == {".model.before.7.tmp", "mine/.a.7.tmp", ".b.tmp"}


def test_a_model_that_has_moved_on_is_asked_for_as_it_was(tmp_path: Path) -> None:
    now = {"revision": "b" * 40, "samples": "c"}
    with pytest.raises(UsageError, match=f"; set --revision {'a' * 40}, --overwrite or another --output"):
        runs.refuse_difference(tmp_path, {**now, "revision": "a" * 40}, now)
    with pytest.raises(UsageError, match=f"; set --revision {'a' * 40}, "):
        runs.refuse_difference(
            tmp_path, {"revision": "a" * 40, "fingerprint": "e", "samples": "c"}, {**now, "fingerprint": "f"}
        )
    for before in ({"revision": "a" * 40, "samples": "d"}, {**now, "revision": None}, {"samples": "c"}):
        with pytest.raises(UsageError, match="; use the same settings, model and data, "):
            runs.refuse_difference(tmp_path, before, now)


def test_resume_continues_with_the_same_signature(tmp_path: Path) -> None:
    finished(tmp_path)
    with start(tmp_path, resume=True) as run:
        assert run.metrics() == [{"layer": "a", "dimension": 1.5}]
        assert len(run.record["resumed"]) == 1
    assert (tmp_path / "profile.json").exists()
    assert start(tmp_path / "new", resume=True).folder == tmp_path / "new"


def test_resume_names_what_differs(tmp_path: Path) -> None:
    finished(tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(UsageError, match='samples was .*"b".*, is .*"c".*; seed was null, is 1'):
        start(tmp_path, resume=True, signature={**SIGNATURE, "samples": ["a", "c"], "seed": 1})
    assert (tmp_path / "run.json").read_bytes() == before


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        start(tmp_path, resume=True, overwrite=True)


def test_a_line_cut_off_by_a_kill_is_left_out_and_then_removed(tmp_path: Path) -> None:
    path = finished(tmp_path) / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"layer": "b", "dim')
    assert len(read_metrics(path)) == 1
    with start(tmp_path, resume=True) as run:
        run.log_metric({"layer": "b"})
        assert [line["layer"] for line in run.metrics()] == ["a", "b"]


def test_a_line_broken_in_the_middle_is_told(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"a": \n{"b": 1}\n')
    with pytest.raises(RunError, match="broken line"):
        read_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": "x"}\n')
    with pytest.raises(RunError, match="broken line .step should be a whole number, not 'x'"):
        read_metrics(tmp_path / "metrics.jsonl")
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_folder_belongs_to_one_process_until_it_dies(tmp_path: Path) -> None:
    code = (
        "import sys, time; from idvl.runs import Run; "
        f"run = Run.open({str(tmp_path)!r}, recipe={{}}, signature={{}}); print('open', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "open\n"
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(UsageError, match="another process"):
                start(tmp_path, signature={}, **options)
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    start(tmp_path, signature={}, resume=True).close()


def test_an_output_that_is_a_file_or_below_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UsageError, match="is a file; choose another --output"):
            start(folder)


def test_an_output_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match="no permission"):
        check(tmp_path / "run")
    monkeypatch.undo()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UsageError, match="Permission denied; choose another --output"):
        start(tmp_path / "run")


def test_a_full_disk_is_one_line_and_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "profile.json"
    write_bytes(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match="is full"):
        write_bytes(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert contents(tmp_path) == {"profile.json"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_metrics_on_a_full_disk_end_in_one_line(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.path("metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(RunError, match="is full"):
            run.log_metric({"a": 1})


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a", b"1")
    assert not contents(tmp_path)


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not contents(tmp_path)


def test_default_folders_are_new(tmp_path: Path) -> None:
    def name() -> str:
        return default_folder(FolderName("estimate-id", "builtin/blip", "shapes", tmp_path)).name

    assert name() == "estimate-id-blip-shapes"
    finished(tmp_path / "estimate-id-blip-shapes")
    assert name() == "estimate-id-blip-shapes-2"
    finished(tmp_path / "estimate-id-blip-shapes-2")
    assert name() == "estimate-id-blip-shapes-3"
    pruned = FolderName("recover", "runs/wanda-70/model", "shapes")
    assert default_folder(pruned).as_posix() == "runs/recover-wanda-70-shapes"
    assert default_folder(FolderName("recover", "model", "shapes")).as_posix() == "runs/recover-model-shapes"
    assert default_folder(FolderName("estimate-id", "./a b/", "/data/my images.parquet")).as_posix() == (
        "runs/estimate-id-a-b-my-images.parquet"
    )


def test_runs_that_start_at_the_same_moment_get_folders_of_their_own(tmp_path: Path) -> None:
    start_line = threading.Barrier(8)

    def take(_: int) -> Path:
        start_line.wait()
        return new_folder(FolderName("estimate-id", "builtin/blip", "shapes", tmp_path / "runs"))

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take, range(8)))
    assert len(set(taken)) == 8 and all(folder.is_dir() for folder in taken)
    assert {folder.name for folder in taken} >= {"estimate-id-blip-shapes", "estimate-id-blip-shapes-8"}
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose another --output"):
        new_folder(FolderName("estimate-id", "m", "d", tmp_path / "file"))


def test_the_commit_of_the_working_folder_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.provenance()["git_commit"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    assert len(runs.provenance()["git_commit"]) == 40


def test_names_inside_the_folder_only(tmp_path: Path) -> None:
    with start(tmp_path) as run, pytest.raises(ValueError, match="inside the run folder"):
        run.path("../profile.json")


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_run_that_cannot_be_read_now_is_not_missing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path).close()
    before = (tmp_path / "run.json").read_bytes()
    read = json_file.read
    failures = [OSError(number, os.strerror(number))]

    def fails_once(*arguments: object) -> object:
        if failures:
            raise failures.pop()
        return read(*arguments)

    for options in ({"resume": True}, {"overwrite": True}):
        failures[:] = [OSError(number, os.strerror(number))]
        monkeypatch.setattr(json_file, "read", fails_once)
        with pytest.raises(UsageError, match=rf"run.json' cannot be read \({os.strerror(number)}\): .*try again"):
            start(tmp_path, **options)
    assert (tmp_path / "run.json").read_bytes() == before
    for name in ("gone", "x" * 5_000, "run.json"):
        assert read_record(tmp_path / name) is None
