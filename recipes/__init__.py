"""Recipes and matrices that come with idvl, found by name: demo-prune, small/core, paper/table-1.

Each file opens with its command. It does not know what the files hold.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from idvl.errors import UsageError, quoted

FOLDER = Path(__file__).parent
# matrices are those in folders
PATTERNS = {"recipe": "*.yaml", "matrix": "*/*.yaml"}


def names(kind: str) -> list[str]:
    """The names of all recipes, or of all matrices."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob(PATTERNS[kind]))


def find(name: Path | str, kind: str) -> Path:
    """The file of a recipe or a matrix: the one at this path, else the packaged one of this name.

    Raises UsageError, with the nearest names, where there is neither.
    """
    word, known = str(name), names(kind)
    if word in known and not os.path.isfile(name):
        return FOLDER / f"{word}.yaml"
    try:
        os.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        run = Path(name).parent
        if Path(name).name == "recipe.yaml" and os.path.lexists(run / "run.json"):
            raise UsageError(
                f"the run folder {quoted(run)} lacks recipe.yaml: restore it, or copy its model to a folder of its own"
            ) from None
        raise UsageError(f"there is no {kind} {quoted(name)}; {_hint(word, kind, known)}") from None
    except (OSError, ValueError):  # reading the file says why
        pass
    return Path(name)


def _hint(word: str, kind: str, known: list[str]) -> str:
    other = "matrix" if kind == "recipe" else "recipe"
    if word in names(other):
        return f"it is a {other}: give it to --{other}"
    stem = word.removesuffix(".yaml").removeprefix("recipes/")
    near = difflib.get_close_matches(stem, known, n=3)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"idvl has {', '.join(known)}"
