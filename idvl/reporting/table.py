"""A profile as a table for the terminal, grouped by modality and block. It does not know how a profile is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from idvl.profile import MODALITIES, LayerProfile, Profile
from idvl.reliability import unsound_reason
from idvl.uncovered import in_words

# a share of duplicates worth a word
NOTABLE_DUPLICATES = 0.01
# columns: between cells, before a layer's name, of a note, of a name and of another word at the least
GAP, INDENT, NOTE, NARROWEST, WORD = 2, 3, 10, 18, 8


@dataclass(frozen=True)
class ProfileTable:
    """A profile for a rich console; see `table`."""

    profile: Profile
    other: Profile | None
    label: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        header = ["layer", "ID ± s.e.", "width", *(["Δ"] if self.other else []), ""]
        cells = [header, *(self._cells(name, layer, 0) for name, layer in self.profile.layers.items())]
        numbers = [max(map(len, column)) for column in list(zip(*cells, strict=True))[1:-1]]
        taken = sum(numbers) + GAP * (len(numbers) + 1) + NOTE
        longest = max((len(_inner(name, layer)) for name, layer in self.profile.layers.items()), default=0) + INDENT
        widths = [max(NARROWEST, min(longest, options.max_width - taken)), *numbers]
        yield grid([header], widths, style="bold")
        yield Rule(style="dim", characters="─")
        for modality, layers in by_modality(self.profile).items():
            yield Text(modality, style="bold")
            for block, inside in groupby(layers.items(), key=lambda item: item[1].block):
                if block is not None:
                    yield Text(f" {block}", style="dim", overflow="fold")
                yield grid([self._cells(name, layer, widths[0]) for name, layer in inside], widths)
            yield Text()
        if self.other is not None:
            yield Text(f"Δ is the difference to {self.label}", style="dim")

    def _cells(self, name: str, layer: LayerProfile, width: int) -> list[str]:
        dimension, stderr = layer.estimate.dimension, layer.estimate.stderr
        number = "-" if dimension is None else f"{dimension:.1f}" + ("" if stderr is None else f" ± {stderr:>4.1f}")
        cells = [folded(_inner(name, layer), width), number, str(layer.width)]
        if self.other is not None:
            cells.append(_difference(layer, self.other.layers.get(name)))
        return [*cells, note(layer)]


def table(profile: Profile, other: Profile | None = None, label: str = "other") -> ProfileTable:
    """One row per layer: dimension and standard error, width, and what is remarkable.

    Names are cut into block and layer, and folded at their dots where the terminal is narrow. `other` adds the
    difference of this profile to that one, for the layers that both have.
    """
    return ProfileTable(profile, other, label)


def summary(profile: Profile) -> list[str]:
    """A line per modality: number of layers, median, smallest and largest reliable dimension; how many layers have no
    estimate, and how many an unreliable one. Then the weights that are not covered, where the profile knows them.
    """
    lines = []
    for modality, layers in by_modality(profile).items():
        estimated = [layer for layer in layers.values() if layer.estimate.dimension is not None]
        dimensions = [layer.estimate.dimension for layer in estimated if unsound_reason(layer) is None]
        missing, unreliable = len(layers) - len(estimated), len(estimated) - len(dimensions)
        values = (
            f"ID median {median(dimensions):.1f} (range {min(dimensions):.1f}-{max(dimensions):.1f})"
            if dimensions
            else "no reliable estimate"
            if estimated
            else "no estimate"
        )
        rest = f", {missing} without an estimate" if estimated and missing else ""
        rest += f", {unreliable} unreliable (left out)" if dimensions and unreliable else ""
        plural = "layer " if len(layers) == 1 else "layers"
        lines.append(f"{modality:<9} {len(layers):>4} {plural}  {values}{rest}")
    if profile.model.get("not_covered") and profile.model.get("parameters"):
        lines.append(in_words(profile.model["not_covered"], profile.model["parameters"]))
    return lines


def by_modality(profile: Profile) -> dict[str, dict[str, LayerProfile]]:
    """The layers of each modality that the profile has, in the order in which they run."""
    return {
        modality: layers
        for modality in MODALITIES
        if (layers := {name: layer for name, layer in profile.layers.items() if layer.modality == modality})
    }


def note(layer: LayerProfile) -> str:
    """What is remarkable about a layer's estimate, in a few words; why there is none."""
    estimate = layer.estimate
    remarks = [] if estimate.reason is None else [estimate.reason]
    if why := unsound_reason(layer):
        remarks.append(f"unreliable: {why}")
    if layer.reads_image:
        remarks.append("reads image")
    if estimate.n_duplicates > NOTABLE_DUPLICATES * (estimate.n_points + estimate.n_duplicates):
        remarks.append(f"{estimate.n_duplicates} duplicates")
    return ", ".join(remarks)


def _inner(name: str, layer: LayerProfile) -> str:
    return name if layer.block is None else name.removeprefix(f"{layer.block}.")


def folded(name: str, width: int) -> str:
    """The name, indented, on lines of at most `width` that break at its dots."""
    lines = [""]
    for part in name.split("."):
        longer = f"{lines[-1]}.{part}" if lines[-1] else part
        if lines[-1] and len(longer) + INDENT > width:
            lines.append(f".{part}")
        else:
            lines[-1] = longer
    return "\n".join(" " * INDENT + line for line in lines)


def grid(rows: Iterable[Sequence[str]], widths: Sequence[int], style: str = "") -> Table:
    """Rows of a name, numbers and a note, in columns of these widths; the note takes what is left."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, GAP, 0, 0), style=style)
    table.add_column(width=widths[0], overflow="fold")
    for width in widths[1:]:
        table.add_column(width=width, justify="right", no_wrap=True)
    table.add_column(min_width=NOTE)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def number_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A header, then rows of a word and numbers, in columns as wide as they need."""
    return _columns(header, rows, labels=1, numbers_fold=True)


@dataclass(frozen=True)
class WordTable:
    """Rows of `labels` words, then numbers, for a rich console: where it is narrow words fold, numbers if they must."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        columns = list(zip(self.header, *self.rows, strict=True))
        numbers = sum(max(map(cell_len, column)) + GAP for column in columns[self.labels :])
        fits = numbers + self.labels * (WORD + GAP) <= options.max_width
        yield _columns(self.header, self.rows, labels=self.labels, numbers_fold=not fits)


def _columns(header: Sequence[str], rows: Iterable[Sequence[str]], *, labels: int, numbers_fold: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for number, name in enumerate(header):
        is_word = number < labels
        folds = labels > 1 if is_word else numbers_fold
        table.add_column(Text(name), justify="left" if is_word else "right", no_wrap=not folds, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _difference(layer: LayerProfile, other: LayerProfile | None) -> str:
    if other is None or other.estimate.dimension is None or layer.estimate.dimension is None:
        return ""
    return f"{layer.estimate.dimension - other.estimate.dimension:+.1f}"
