"""What is installed: the packages, their data, the command, and a promise or two that the files make to each other."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
import tarfile
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


def test_every_package_that_is_imported_is_required(setup: configparser.ConfigParser) -> None:
    """The core's requirements, or an extra's."""
    sources = [path for name in ("idvl", "commands", "recipes") for path in (ROOT / name).glob("**/*.py")]
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    imported = {name.partition(".")[0] for name in names} - {"idvl"} - sys.stdlib_module_names
    extras = setup["options.extras_require"]
    asked = "\n".join([setup["options"]["install_requires"], *(extras[name] for name in extras if name != "dev")])
    required = {re.match(r"[\w-]+", line)[0] for line in lines(asked)}
    module = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "faiss-cpu": "faiss"}
    assert {"torch", "PIL", "yaml", "numpy"} <= imported
    assert imported - {module.get(name, name) for name in required} == set()


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


def test_a_wheel_made_from_the_source_distribution_holds_the_whole_package(tmp_path: Path) -> None:
    """As `python -m build` makes it. In the clone idvl/commands and idvl/recipes are links."""
    shutil.copytree(
        ROOT / "idvl", tmp_path / "clone" / "idvl", symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("commands", "recipes"):
        shutil.copytree(ROOT / name, tmp_path / "clone" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "clone")
    build(tmp_path / "clone", "sdist", tmp_path)
    (archive,) = tmp_path.glob("idvl-*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    build(source, "wheel", tmp_path)
    (wheel,) = tmp_path.glob("idvl-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    package = {*files(ROOT / "idvl", "idvl"), *files(ROOT / "commands", "idvl/commands")}
    package |= files(ROOT / "recipes", "idvl/recipes")
    assert {"idvl/commands/eval.py", "idvl/recipes/small/core.yaml", "idvl/profiles/blip-coco.json"} <= package
    assert {name for name in held if ".dist-info/" not in name} == package
    assert wheel.stat().st_size < 20 * 2**20


def build(source: Path, kind: str, target: Path) -> None:
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(target)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)


def files(folder: Path, name: str) -> set[str]:
    """The files of a folder that is called `name` in the package."""
    found = (path for path in folder.glob("**/*") if path.is_file() and path.suffix != ".pyc")
    return {f"{name}/{path.relative_to(folder).as_posix()}" for path in found}
