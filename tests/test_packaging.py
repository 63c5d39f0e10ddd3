"""What is installed: the packages, their data, the command, and a promise or two that the files make to each other."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import idvl

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_every_package_is_listed(setup: configparser.ConfigParser) -> None:
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "idvl").glob("**/__init__.py")}
    assert set(lines(setup["options"]["packages"])) == found | {"idvl.commands", "idvl.recipes"}


def test_importing_idvl_imports_nothing_heavy() -> None:
    code = "import sys, idvl; dir(idvl); print({'torch', 'pydantic', 'numpy', 'yaml'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_public_names_are_there_and_documented() -> None:
    assert 8 <= len(idvl.__all__) <= 24
    for name in idvl.__all__:
        assert name in dir(idvl)
        assert name == "__version__" or getattr(idvl, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'intrinsic'; it has .*intrinsic_dimension"):
        idvl.intrinsic  # noqa: B018


def test_torch_and_torchvision_are_pinned_in_the_constraints_alone(setup: configparser.ConfigParser) -> None:
    assert (ROOT / "constraints.txt").read_text() == "torch==2.14.1\ntorchvision==0.29.1\n"
    assert "--constraint constraints.txt torch torchvision\n" in (ROOT / "Makefile").read_text()
    required = lines(setup["options"]["install_requires"])
    assert [name for name in required if name.startswith("torch")] == ["torch>=2.9"]
    assert not [name for name in required if "==" in name]


def test_the_makefile_installs_every_extra_but_faiss_gpu(setup: configparser.ConfigParser) -> None:
    taken = re.search(r"--editable '\.\[(.*)\]'", (ROOT / "Makefile").read_text())[1].split(",")
    assert set(taken) == set(setup["options.extras_require"]) - {"faiss-gpu"}


def test_a_folder_of_the_same_name_does_not_come_first(tmp_path: Path) -> None:
    """As above a clone, whose folder is called idvl too."""
    (tmp_path / "idvl" / "docs").mkdir(parents=True)
    command = [sys.executable, "-c", "import idvl.commands.console; print(idvl.__version__)"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.count(".") == 2


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


@pytest.mark.slow
def test_a_wheel_holds_commands_recipes_and_data(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("idvl", "commands", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, str(tmp_path), str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("idvl-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        "idvl/commands/estimate_id.py",
        "idvl/recipes/demo.yaml",
        "idvl/profiles/blip-coco.json",
        "idvl/py.typed",
    }
    data = {path for path in (ROOT / "idvl" / "builtin").glob("**/*") if path.is_file() and path.suffix != ".pyc"}
    assert expected | {path.relative_to(ROOT).as_posix() for path in data} <= held
    assert any(name.endswith(".safetensors") for name in held)
    assert not [name for name in held if name.startswith(("tests/", "benchmarks/", "commands/"))]
    assert wheel.stat().st_size < 20 * 2**20
