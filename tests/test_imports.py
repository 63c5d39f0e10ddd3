"""Who may import whom, as docs/architecture.md says, read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# from left to right: a room imports what stands in a later row, or itself; never a neighbour in its row
ROWS = [
    {"commands"},
    {"workflows", "make"},
    {"tasks", "training", "checkpoints", "reporting"},
    {"models"},
    {"data", "sparsity", "metrics", "builtin"},
    {"geometry"},
    # the words of a protocol are spelled once, in profile and words: recipe's schema is made of them
    {"recipe", "runs", "predictions"},
    {"profile", "yaml_file"},
    {"files"},
    {"errors", "words"},
]
RECIPE_READERS = {"commands", "workflows"}
WITHOUT_TRANSFORMERS = {
    "geometry",
    "sparsity",
    "metrics",
    "profile",
    "recipe",
    "runs",
    "predictions",
    "errors",
    "files",
    "words",
    "yaml_file",
    "reporting",
}
WITHOUT_TORCH = (WITHOUT_TRANSFORMERS | {"commands"}) - {"geometry", "sparsity", "metrics"}


def sources() -> Iterator[tuple[str, Path]]:
    """Every source file with the room it is in; the package's own two files belong to none."""
    for path in sorted((ROOT / "commands").glob("**/*.py")):
        yield "commands", path
    for path in sorted((ROOT / "idvl").glob("**/*.py")):
        room = path.relative_to(ROOT / "idvl").with_suffix("").parts
        if room == ("builtin", "make"):
            yield "make", path
        elif room[0] not in ("__init__", "__main__"):
            yield room[0], path


SOURCES = [pytest.param(room, path, id=str(path.relative_to(ROOT))) for room, path in sources()]


def imported(path: Path) -> set[str]:
    """The dotted names of modules that a file imports anywhere, lazily or not."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "idvl"}
    return names


def rooms(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported(path)]
    found = {name[1] for name in parts if name[0] == "idvl" and len(name) > 1} - {"__version__"}
    return (found - {"builtin"}) | {"make"} if "idvl.builtin.make" in imported(path) else found


def row(room: str) -> int:
    rows = [number for number, names in enumerate(ROWS) if room in names]
    assert rows, f"{room} stands in no row: add it to docs/architecture.md and to this test"
    return rows[0]


@pytest.mark.parametrize(("room", "path"), SOURCES)
def test_a_room_imports_only_what_stands_to_its_right(room: str, path: Path) -> None:
    wrong = {other for other in rooms(path) - {room} if row(other) <= row(room)}
    assert not wrong


@pytest.mark.parametrize(("room", "path"), SOURCES)
def test_only_commands_and_workflows_read_recipes(room: str, path: Path) -> None:
    assert room in RECIPE_READERS | {"recipe"} or "recipe" not in rooms(path)


@pytest.mark.parametrize(("room", "path"), SOURCES)
def test_heavy_libraries_stay_where_they_belong(room: str, path: Path) -> None:
    top = {name.split(".")[0] for name in imported(path)}
    assert "torchvision" not in top
    assert room not in WITHOUT_TRANSFORMERS or "transformers" not in top
    assert room not in WITHOUT_TORCH or "torch" not in top


@pytest.mark.parametrize(("room", "path"), SOURCES)
def test_only_commands_print(room: str, path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    prints = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert room == "commands" or not prints
