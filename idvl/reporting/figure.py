"""What a figure is: panels of series of points, and what hovering over one tells. Plain values, drawn elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from idvl.profile import Profile

# points below which a table says more than a drawing
FEWEST = 3
# panels of one figure beyond which a page would grow too large to open on a phone
MOST = 24
# in legends, of the points that are marked
UNRELIABLE = "unreliable estimate"
DASHES = ("solid", "dashed", "dotted")
# colours are numbers of a palette, modalities' words or "ink"; the same thing has the same one in every figure
WEIGHTINGS = {"none": "0", "multiply": "1", "divide": "2"}
SCOPES = {
    "all": "6",
    "vision": "vision",
    "language": "language",
    "language-without-cross": "connector",
    "cross": "cross",
}
# the modality whose layers lie between those of another one: a line through them would cross these
INTERLEAVED = "cross"
# what most figures have along the bottom
DEPTH = "depth (layers in the order in which they run)"


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that belong together. `tone`: a modality or a number, told apart by colour. `low`, `high`: None or as y.

    `names`: what each point is, a layer's name as a rule; `facts`: more of each, by title; `about`: of all of them.
    `unsound`: why the ID of each point is unreliable, None where it is not; such points are marked.
    """

    name: str
    tone: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float | None, ...] | None = None
    high: tuple[float | None, ...] | None = None
    names: tuple[str, ...] = ()
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    unsound: tuple[str | None, ...] = ()
    sources: tuple[str, ...] = ()
    dash: str = "solid"
    hollow: bool = False
    joined: bool = True


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One drawing of a figure. `shaded`: spans of x behind it; `caption`: what it shows; `y_label`: its own."""

    name: str
    series: tuple[Series, ...]
    shaded: tuple[tuple[float, float], ...] = ()
    caption: str = ""
    y_label: str | None = None

    @property
    def few(self) -> bool:
        """Whether it has too few points for a drawing: it is shown as a table."""
        return sum(len(series.x) for series in self.series) < FEWEST


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with its counterpart in the paper. `picked`: one series at a time, the others faint behind.

    `bars`: intervals are drawn at the points, else as a band along the curve. `bounds`: what low and high are. `marks`:
    the axis along the bottom has a mark at each x that there is, and no other. `same_y`: all panels have one scale.
    """

    key: str
    title: str
    paper: str | None
    x_label: str
    y_label: str
    panels: tuple[Panel, ...]
    log_x: bool = False
    log_y: bool = False
    picked: bool = False
    bars: bool = False
    bounds: str = "95 % interval"
    marks: bool = False
    zero: bool = True
    same_y: bool = False
    left_out: int = 0

    @property
    def few(self) -> bool:
        """Whether none of its panels is drawn."""
        return all(panel.few for panel in self.panels)


def make(panels: Iterable[Panel], *, most: int = MOST, **values: Any) -> Figure:
    """A figure of the panels that have points, the first `most` of them."""
    kept = [panel for panel in panels if any(series.x for series in panel.series)]
    return Figure(panels=tuple(kept[:most]), left_out=max(0, len(kept) - most), **values)


def grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> list[tuple[Any, list[Any]]]:
    """Items by key, in order of first appearance."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.items())


def blocks(profile: Profile) -> tuple[tuple[float, float], ...]:
    """Every other block, as spans of depth."""
    layers = sorted(profile.layers.values(), key=lambda layer: layer.depth)
    spans: list[list[Any]] = []
    for layer in layers:
        if spans and spans[-1][2] == layer.block:
            spans[-1][1] = layer.depth
        else:
            spans.append([layer.depth, layer.depth, layer.block])
    return tuple((low - 0.5, high + 0.5) for low, high, _ in spans[1::2])


def share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def runs_of(n: int) -> str:
    """What stands behind the name of a mean over runs."""
    return f" ({n} runs)" if n > 1 else ""


def script_data(figures: Sequence[Figure]) -> dict[str, Any]:
    """What the script draws. Names of points are numbers into `names`; floats have five digits."""
    numbers: dict[str, int] = {}
    drawings = [
        {
            "title": figure.title,
            "x": figure.x_label,
            "y": figure.y_label,
            "log": figure.log_x,
            "log_y": figure.log_y,
            "picked": figure.picked,
            "bars": figure.bars,
            "bounds": figure.bounds,
            "unreliable": UNRELIABLE,
            "marks": figure.marks,
            "zero": figure.zero,
            "same_y": figure.same_y,
            "panels": [_panel_data(panel, numbers) for panel in figure.panels],
        }
        for figure in figures
    ]
    return {"figures": drawings, "names": list(numbers)}


def _panel_data(panel: Panel, numbers: dict[str, int]) -> dict[str, Any]:
    sources = list(dict.fromkeys(source for series in panel.series for source in series.sources))
    more = f" and {len(sources) - 3:,} more" if len(sources) > 3 else ""
    data = {
        "name": panel.name,
        "caption": f"{panel.caption[:1].upper()}{panel.caption[1:]}." if panel.caption else "",
        "few": panel.few,
        "shaded": [list(span) for span in panel.shaded],
        "sources": f"From {', '.join(sources[:3])}{more}." if sources else "",
        "series": [_series_data(series, numbers) for series in panel.series],
    }
    return data | ({"y": panel.y_label} if panel.y_label else {})


def _series_data(series: Series, numbers: dict[str, int]) -> dict[str, Any]:
    """What the script draws of a series, without what it has none of. Names of points that are new join `numbers`."""
    data = {
        "name": series.name,
        "tone": series.tone,
        "dash": series.dash,
        "hollow": series.hollow,
        "joined": series.joined,
        "x": _short(series.x),
        "y": _short(series.y),
    }
    optional = {
        "low": _short(series.low or ()),
        "high": _short(series.high or ()),
        "facts": {title: list(details) for title, details in series.facts.items()},
        "about": dict(series.about),
        "unsound": list(series.unsound) if any(series.unsound) else [],
        "names": [numbers.setdefault(name, len(numbers)) for name in series.names],
    }
    return data | {key: value for key, value in optional.items() if value}


def _short(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else float(f"{value:.5g}") for value in values]
