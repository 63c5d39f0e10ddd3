"""Who may import whom, as docs/architecture.md says, read from the sources."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# from left to right: a room imports what stands in a later row, or itself; never a neighbour in its row
ROWS = [
    {"commands"},
    {"sweep", "make"},
    {"workflows"},
    {"recovery"},
    {"pruning"},
    {"measurement", "evaluation"},
    {"session"},
    {"tasks", "training", "checkpoints", "reporting", "downloads"},
    {"models"},
    {"data", "sparsity", "metrics", "builtin"},
    {"geometry"},
    {"distributed"},
    # the words of a protocol are spelled once, in profile and choices: recipe's schema is made of them
    {"recipe", "runs", "predictions", "reliability"},
    {"profile"},
    {"schemas"},
    {"yaml_file", "json_file"},
    {"arguments", "files", "json_schema", "device", "reporter", "plugins", "recipes"},
    {"errors", "choices", "units", "uncovered"},
]
RECIPE_READERS = {"commands", "sweep", "workflows", "recovery", "pruning", "measurement", "evaluation", "session"}
WITHOUT_TRANSFORMERS = {
    "geometry",
    "sparsity",
    "metrics",
    "profile",
    "reliability",
    "recipe",
    "recipes",
    "runs",
    "predictions",
    "arguments",
    "errors",
    "files",
    "choices",
    "units",
    "uncovered",
    "plugins",
    "reporter",
    "yaml_file",
    "json_file",
    "json_schema",
    "schemas",
    "reporting",
}
WITHOUT_TORCH = (WITHOUT_TRANSFORMERS | {"commands"}) - {"geometry", "sparsity", "metrics"}


def sources() -> Iterator[tuple[str, Path]]:
    """Every source file with the room it is in; the package's own two files belong to none."""
    for room in ("commands", "recipes"):
        for path in sorted((ROOT / room).glob("**/*.py")):
            yield room, path
    for path in sorted((ROOT / "idvl").glob("**/*.py")):
        room = path.relative_to(ROOT / "idvl").with_suffix("").parts
        if room == ("builtin", "make"):
            yield "make", path
        elif room[0] not in ("__init__", "__main__"):
            yield room[0], path


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """The dotted names of modules that a file imports anywhere, lazily or not."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "idvl"}
    return frozenset(names)


def rooms(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported(path)]
    found = {name[1] for name in parts if name[0] == "idvl" and len(name) > 1} - {"__version__"}
    return (found - {"builtin"}) | {"make"} if "idvl.builtin.make" in imported(path) else found


def row(room: str) -> int:
    rows = [number for number, names in enumerate(ROWS) if room in names]
    assert rows, f"{room} stands in no row: add it to docs/architecture.md and to this test"
    return rows[0]


def offenders(broken: Callable[[str, Path], object]) -> list[str]:
    """Every source file that breaks a rule, with what the rule says of it."""
    told = ((path, broken(room, path)) for room, path in sources())
    return [f"{path.relative_to(ROOT)}: {what}" for path, what in told if what]


def test_a_room_imports_only_what_stands_to_its_right() -> None:
    def broken(room: str, path: Path) -> set[str]:
        return {other for other in rooms(path) - {room} if row(other) <= row(room)}

    assert offenders(broken) == []


def test_only_commands_and_workflows_read_recipes() -> None:
    def broken(room: str, path: Path) -> bool:
        return room not in RECIPE_READERS | {"recipe"} and "recipe" in rooms(path)

    assert offenders(broken) == []


def test_heavy_libraries_stay_where_they_belong() -> None:
    def broken(room: str, path: Path) -> set[str]:
        top = {name.split(".")[0] for name in imported(path)}
        light = {"transformers"} if room in WITHOUT_TRANSFORMERS else set()
        light |= {"torch"} if room in WITHOUT_TORCH else set()
        return top & (light | {"torchvision"})

    assert offenders(broken) == []


@functools.cache
def import_graph() -> dict[str, set[str]]:
    """Every module with those that it imports, lazily or not; those for annotations alone left out."""
    places = {"commands": "idvl.commands", "recipes": "idvl.recipes", "idvl": "idvl"}
    modules = {}
    for top, dotted in places.items():
        for path in (ROOT / top).glob("**/*.py"):
            parts = path.relative_to(ROOT / top).with_suffix("").parts
            modules[".".join([dotted, *(part for part in parts if part != "__init__")])] = path

    def needed(path: Path) -> set[str]:
        tree = Annotations().visit(ast.parse(path.read_text(encoding="utf-8")))
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names = {f"{node.module}.{alias.name}" for node in froms for alias in node.names} | {n.module for n in froms}
        return names & modules.keys()

    # a package that re-exports its own modules is no circle
    return {
        name: {other for other in needed(path) if not other.startswith(f"{name}.")} - {name}
        for name, path in modules.items()
    }


def test_no_import_runs_in_a_circle() -> None:
    graph = import_graph()
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


def test_the_architecture_page_is_true() -> None:
    """Its longest chain of imports and its limit on lines, and a mention of every file of the package."""
    page, graph = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), import_graph()
    chain: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(graph).static_order():
        chain[name] = 1 + max((chain[other] for other in graph[name]), default=0)
    assert f"The longest chain of imports has {max(chain.values())} modules" in page
    lines = max(len(path.read_text(encoding="utf-8").splitlines()) for _, path in sources())
    assert f"No module has more than {-(-lines // 50) * 50} lines" in page
    words = set(re.findall(r"`(?:\w+/)*(\w+)(?:\.py)?`", page))
    plain = {
        path for room, path in sources() if room not in ("commands", "recipes", "recipe") and path.stem != "__init__"
    }
    folders = {"families", "figures", "builtin", "blip"}
    assert not sorted(str(path) for path in plain if path.stem not in words and path.parent.name not in folders)


class Annotations(ast.NodeTransformer):
    """Takes out what is imported for annotations alone."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node


def test_only_commands_print() -> None:
    def broken(room: str, path: Path) -> int:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        return room != "commands" and sum(isinstance(call, ast.Name) and call.id == "print" for call in calls)

    assert offenders(broken) == []


def test_no_two_classes_share_a_name() -> None:
    """Nested classes counted, which messages and annotations name too."""
    places: dict[str, list[str]] = {}
    for path in [path for top in ("idvl", "commands", "recipes") for path in (ROOT / top).glob("**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert places and {name: lines for name, lines in places.items() if len(lines) > 1} == {}
