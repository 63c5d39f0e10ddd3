"""results.json as docs/models.md: counts by kind, what each column means, a row an architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.coverage.architectures import KINDS
from tests.coverage.checks import CHECKS
from tests.coverage.probes import PROBES

HEADS = {
    "plain": "sound",
    "estimate": "estimate-id",
    "magnitude": "magnitude",
    "platon": "PLATON",
    "one_shot": "one-shot",
    "eval": "eval",
    "reopened": "reopened",
    "batch_size": "batches",
    "dealt": "dealt",
    "listed": "listed",
    "answers": "answers",
    "tokens": "tokens",
    "loss": "loss",
}
LETTERS = {"vision": "v", "language": "l", "cross": "x", "fusion": "f", "connector": "c"}
LONGEST = 160  # characters of a failure in the table

INTRODUCTION = """# Models

`make coverage` takes {n} architectures of transformers through idvl's command line. Each is a tiny checkpoint with
random weights (two blocks a tower, 32 wide) and the real classes, configurations and processors; the data are 100
images. This page is its output, made with transformers {version}. Real checkpoints of these architectures were not
tried here.

Families of their own know blocks, modalities, losses and prompts of an architecture; `generic` guesses them, and says
what it guessed. A checkpoint of another architecture may work as well: idvl reads what its class declares.

## Counts

How many of those for which there is something to try. The last column counts architectures whose checks and probes all
pass.

"""

MEANING = """
## Columns

Checks, each a command as a user types it:

{checks}

Probes, which look for numbers that are silently wrong:

{probes}

`+` passes, **`-`** fails, `.` has nothing to try, an empty cell was not reached. Layers are those that idvl finds: v
vision, l language, x cross-attention, f fusion, c connector, and in brackets how many of them have no dimension. A
model with `whole` runs whole for each group of layers, since its blocks do not run one after the other. The last column
is the first failure, in idvl's or transformers' words.
"""

LIMITS = """
## Known limits

- **Emu3** turns an image into tokens with a VQ-VAE that normalises over the whole image. Images of a batch are padded
  to the largest, as its own processor does, so that images of several shapes get other tokens in a batch than alone:
  evaluate and train it with a batch size of 1, or with images of one shape.
- **Matching heads** (BLIP, BLIP-2, ViLT, BridgeTower) learn from an image's own text and the text of the sample before.
  BLIP's authors draw hard negatives by similarity, with a momentum encoder and a queue, which transformers' classes
  lack.
- **OWL-ViT and OWLv2** are published as detectors, which learn from boxes; idvl has no data with boxes. Pruning from
  calibration samples and by magnitude in one shot needs no loss.
- **BridgeTower** is trained by its matching head; its class for contrastive learning has no family of its own.
"""


def page(results: dict[str, Any]) -> str:
    """The whole page. `results`: name -> record, as in results.json."""
    versions = " and ".join(sorted({record["transformers"] for record in results.values()}))
    parts = [INTRODUCTION.format(n=len(results), version=versions), counts(results)]
    parts.append(MEANING.format(checks=_listed(CHECKS), probes=_listed(PROBES)))
    for kind, title in KINDS.items():
        names = [name for name in results if results[name]["kind"] == kind]
        if names:
            parts.append(f"\n## {title[0].upper()}{title[1:]}\n\n")
            parts.append(
                _table(["architecture", "family", "layers", *HEADS.values(), "first failure"], _rows(results, names))
            )
    return "".join([*parts, LIMITS])


def counts(results: dict[str, Any]) -> str:
    """passed/tried of each check, by kind and in all."""
    rows = []
    for kind, title in {**KINDS, None: "**all**"}.items():
        records = [record for record in results.values() if kind in (None, record["kind"])]
        if records:
            sound = sum("-" not in record["results"].values() for record in records)
            cells = [_share([record["results"][check] for record in records]) for check in CHECKS]
            rows.append([title, *cells, f"{sound}/{len(records)}"])
    return _table(["", *(HEADS[check] for check in CHECKS), "all"], rows)


def _share(marks: list[str]) -> str:
    return f"{marks.count('+')}/{len(marks) - marks.count('.')}"


def _listed(functions: dict[str, Callable]) -> str:
    return "\n".join(
        f"- **{HEADS[name]}**: {' '.join(function.__doc__.split())}" for name, function in functions.items()
    )


def _rows(results: dict[str, Any], names: list[str]) -> list[list[str]]:
    rows = []
    for name in names:
        record = results[name]
        marks = [_mark(record, check) for check in HEADS]
        rows.append([name, record.get("family") or "", _layers(record), *marks, _failure(record)])
    return rows


def _mark(record: dict[str, Any], check: str) -> str:
    if record["why"].get(check, "").startswith("not reached"):
        return "**-**" if check in CHECKS else ""
    return {"-": "**-**"}.get(record["results"][check], record["results"][check])


def _layers(record: dict[str, Any]) -> str:
    words = [
        f"{letter}{record['layers'][name]}" for name, letter in LETTERS.items() if name in (record["layers"] or {})
    ]
    if without := record.get("without_dimension"):
        words.append(f"({without})")
    return " ".join([*words, *(["whole"] if record["way"] == "whole" else [])])


def _failure(record: dict[str, Any]) -> str:
    for check, reason in record["why"].items():
        if not reason.startswith("not reached"):
            short = reason if len(reason) <= LONGEST else f"{reason[:LONGEST]}..."
            return f"{HEADS[check]}: {short}".replace("|", "\\|").replace("<", "&lt;")
    return ""


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
