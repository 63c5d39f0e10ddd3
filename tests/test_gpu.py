"""The checks of `make gpu`: on a CPU they compare it with itself, on a CUDA machine the two of them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import checks, figures, packages
from benchmarks.gpu.checks import CHECKS
from benchmarks.gpu.figures import FIGURES
from benchmarks.gpu.runner import Skip, execute
from tests.support import tiny
from tests.support.clouds import HARD

# what makes each of them small enough for a test
SMALL = {
    "neighbours": {"n": 100},
    "layers": {"n": 40},
    "losses": {"kinds": ["vit"]},
    "masks": {"structures": ["2:4"]},
    "out_of_memory": {"commands": {"prune": checks.COMMANDS["prune"]}},
    "calibrated": {"criteria": ["sparsegpt"]},
    "products": {"n": 200, "widths": [64], "repeats": 1},
    "backends": {"n": 200, "widths": [64], "repeats": 1},
    "blip_base": {"n": 40, "size": {**tiny.WIDTH, "num_hidden_layers": 1}, "side": 32, "batch": 20},
}


# what the packages that must be there depend on themselves
BROUGHT = ("numpy", "filelock", "huggingface_hub")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.mark.parametrize("check", [*CHECKS, *FIGURES], ids=lambda check: check.__name__)
def test_a_cpu_equals_itself(check, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in packages.required().keys() - {*packages.GIVEN, *packages.SMALL, *BROUGHT}:
        monkeypatch.setitem(sys.modules, name, None)  # as where nothing else is installed
    if check is figures.backends:
        pytest.importorskip("faiss")
    found = execute(check, checks.CPU, folder, 120, **SMALL.get(check.__name__, {}))
    assert found["result"] == "passed", found
    assert found["figures"]


@pytest.mark.gpu
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_gpu_equals_the_cpu(check, folder: Path) -> None:
    found = execute(check, torch.device("cuda", 0), folder, 120)
    assert found["result"] == "passed", found


def test_a_device_that_computes_otherwise_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from idvl.geometry import neighbors

    points, nearest = HARD["gaussian"](100), neighbors.nearest

    def wrong(rows, **options):
        found = nearest(rows, **options)
        if options:
            found.distances.mul_(1 + 1e-8)
        return found

    monkeypatch.setattr(neighbors, "nearest", wrong)
    with pytest.raises(AssertionError, match="torch on cpu: distances differ by 1.0e-08"):
        checks.distance_gap(points, checks.CPU, "torch")
    with monkeypatch.context() as patch:
        patch.setattr(checks, "_relative", lambda one, other: 1e-5)
        found = execute(checks.neighbours, checks.CPU, folder, 60, n=60)
    assert found["result"] == "failed" and "distances differ" in found["reason"]


def test_the_time_is_kept_and_reasons_are_told(tmp_path: Path) -> None:
    def raising(error: Exception):
        def check(device, folder):
            raise error

        return execute(check, checks.CPU, tmp_path, 5)

    assert raising(Skip("no faiss"))["reason"] == "no faiss"
    assert raising(ModuleNotFoundError(name="typer"))["reason"] == "needs the package typer"
    failed = raising(RuntimeError("CUDA error:\n an illegal memory access"))
    assert (failed["result"], failed["reason"]) == ("failed", "RuntimeError: CUDA error: an illegal memory access")
    late = execute(lambda device, folder: time.sleep(60), checks.CPU, tmp_path, 1)
    assert late["result"] == "skipped" and "within the 1 s" in late["reason"]
    assert execute(lambda device, folder: {}, checks.CPU, tmp_path, 0.5)["reason"] == "no time was left"


def test_a_check_that_fails_is_written_down_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(device, folder):
        raise AssertionError("masks differ")

    monkeypatch.setattr("benchmarks.gpu.checks.CHECKS", (broken,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(packages, "provide", lambda cuda: {"typer>=0.20": "no index"})
    monkeypatch.setattr(program.os, "environ", dict(program.os.environ))
    monkeypatch.setattr(sys, "argv", ["gpu", "--output", str(tmp_path / "runs" / "gpu.json")])
    assert program.main() == 1
    record = program.json.loads((tmp_path / "runs" / "gpu.json").read_text())
    results = {name: one["result"] for name, one in record["checks"].items()}
    assert results == {"broken": "failed", "products": "skipped", "backends": "skipped", "blip_base": "skipped"}
    assert record["not_fetched"] == {"typer>=0.20": "no index"}
    assert record["machine"]["device"] == "cpu" and record["machine"]["torch"] == torch.__version__
    assert "needs a CUDA device" in capsys.readouterr().out


def test_packages_are_fetched_up_to_a_size_and_each_on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "WHEELS", tmp_path / "wheels")
    monkeypatch.setattr(packages, "SITE", tmp_path / "site")
    monkeypatch.setattr(packages.sys, "path", list(sys.path))
    unpacked, sizes = [], {"typer>=0.20": 2**20, "rich>=13.7": packages.MOST_BYTES}

    def pip(command: list[str]) -> None:
        names = [name for name in sizes if name in command]
        if "install" in command:
            unpacked.extend(names)
            return
        if "pydantic>=2.8" in command:
            raise subprocess.CalledProcessError(1, "pip", stderr="WARNING: retrying\nERROR: no such package\n")
        for name in names:
            with (tmp_path / "wheels" / f"{name[:4]}.whl").open("wb") as file:
                file.truncate(sizes[name])

    monkeypatch.setattr(packages, "_run", pip)
    monkeypatch.setattr(packages, "lacking", lambda names: ["typer>=0.20", "rich>=13.7", "pydantic>=2.8"])
    failed = packages.provide(None)
    assert unpacked == ["typer>=0.20"] and packages.fetched_bytes() == 2**20
    assert failed == {
        "rich>=13.7": "its wheels exceed the 60 MiB that may be fetched",
        "pydantic>=2.8": "ERROR: no such package",
    }


def test_a_package_that_is_missing_or_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.lacking((*packages.GIVEN, *packages.SMALL)) == []
    there = {"torch": "2.8.0", "rich": "99"}

    def version(name: str) -> str:
        if name not in there:
            raise packages.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(packages, "metadata", SimpleNamespace(**vars(packages.metadata) | {"version": version}))
    lacking = packages.lacking(("torch", "rich", "typer"))
    assert [one.split(">")[0] for one in lacking] == ["torch", "typer"]
    assert packages._faiss("12.8") == [packages.FAISS] and packages._faiss("13.0") == [] == packages._faiss(None)
