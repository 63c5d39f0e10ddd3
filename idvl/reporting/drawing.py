"""A figure as a picture: its panels below each other, as PNG or SVG. It does not know what they show."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from idvl.profile import Modality
from idvl.reporting.figure import UNRELIABLE, Figure, Panel, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by every kind of colour vision
COLOURS: dict[Modality, str] = {
    "vision": "#0072B2",
    "language": "#D55E00",
    "cross": "#009E73",
    "fusion": "#CC79A7",
    "connector": "#E69F00",
}
INK, QUIET = "#333333", "#888888"
# a square around the point of an unreliable estimate
SQUARE = {"marker": "s", "color": INK, "markerfacecolor": "none", "linestyle": "none"}
# marks a drawing as made by idvl, so that it may be replaced
MADE = "idvl analyze"
# characters of a name that a picture has room for
LONGEST = 120
# panels of one picture; a page shows more, one at a time
MOST = 8
PALETTE = ("#4a5560", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#6a4fb3", "#7a6a55")
STROKES = {"solid": (0, (1, 0)), "dashed": (0, (4, 2)), "dotted": (0, (1, 1.5))}


def drawn(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """The first `MOST` panels of a figure that have points enough. The same figure gives the same bytes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    panels = [panel for panel in figure.panels if not panel.few][:MOST]
    with rc_context({"svg.hashsalt": "idvl", "svg.fonttype": "none", "font.size": 9.5}):
        canvas = Canvas(figsize=(10, 0.5 + 3.7 * len(panels)), layout="constrained")
        FigureCanvasAgg(canvas)
        canvas.suptitle(figure.title, color=INK, x=0.01, ha="left", fontsize=12, parse_math=False)
        every = canvas.subplots(len(panels), squeeze=False)[:, 0]
        for axes, panel in zip(every, panels, strict=True):
            _panel(axes, figure, panel)
        if figure.same_y:
            lows, highs = zip(*(axes.get_ylim() for axes in every), strict=True)
            for axes in every:
                axes.set_ylim(min(lows), max(highs))
        buffer = io.BytesIO()
        metadata = {"Date": None, "Creator": MADE} if kind == "svg" else {"Software": MADE}
        canvas.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _panel(axes: Axes, figure: Figure, panel: Panel) -> None:
    for low, high in panel.shaded:
        axes.axvspan(low, high, color="#f3f3f1", zorder=0, lw=0)
    for series in panel.series:
        _series(axes, figure, series)
    axes.set_title(_word(panel.name), loc="left", color=QUIET, fontsize=9.5, parse_math=False)
    axes.set_xlabel(figure.x_label, color=INK, parse_math=False)
    axes.set_ylabel(_word(panel.y_label or figure.y_label), color=INK, parse_math=False)
    if figure.log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    if figure.marks:
        axes.set_xticks(sorted({x for series in panel.series for x in series.x}))
        axes.xaxis.set_major_formatter("{x:g}")
    if figure.log_y:
        axes.set_yscale("log")
    if figure.zero and all(value >= 0 for series in panel.series for value in series.y):
        axes.set_ylim(bottom=0)
    framed(axes)
    _legend(axes, figure, panel)


def framed(axes: Axes) -> None:
    """Grid, spines and ticks that stay behind what is drawn."""
    axes.grid(axis="y", color="#e3e3e3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.tick_params(colors=INK, length=3)


def _series(axes: Axes, figure: Figure, series: Series) -> None:
    colour = colour_of(series.tone)
    axes.plot(
        series.x, series.y, color=colour, linestyle=STROKES[series.dash] if series.joined else "none",
        linewidth=0.7 if figure.picked else 1.3, marker="" if figure.picked else "o", markersize=3.4,
        markerfacecolor="white" if series.hollow else colour, zorder=3,
    )  # fmt: skip
    for x, y, reason in zip(series.x, series.y, series.unsound, strict=False):
        if reason:
            axes.plot(x, y, markersize=8, zorder=4, **SQUARE)
    if series.low is None or series.high is None:
        return
    bounds = [
        (x, low, high)
        for x, low, high in zip(series.x, series.low, series.high, strict=True)
        if low is not None and high is not None
    ]
    if bounds and (figure.bars or not series.joined):
        axes.vlines(*zip(*bounds, strict=True), color=colour, linewidth=1.2, alpha=0.55, zorder=2)
    elif bounds:
        axes.fill_between(*zip(*bounds, strict=True), color=colour, alpha=0.16, linewidth=0, zorder=1)


def _legend(axes: Axes, figure: Figure, panel: Panel) -> None:
    from matplotlib.lines import Line2D

    def key(series: Series) -> Line2D:
        colour = colour_of(series.tone)
        return Line2D(
            [], [], color=colour, linestyle=STROKES[series.dash] if series.joined else "none",
            marker="" if figure.picked else "o", markersize=4, markerfacecolor="white" if series.hollow else colour,
        )  # fmt: skip

    # of a picture with a curve for each layer, colours are modalities
    named: Iterable[tuple[str, Series]] = ((one.tone if figure.picked else one.name, one) for one in panel.series)
    entries = dict(reversed(list(named)))
    entries = {name: entries[name] for name in reversed(entries)}
    handles, names = [key(series) for series in entries.values()], [_word(name) for name in entries]
    if any(reason for series in panel.series for reason in series.unsound):
        handles.append(Line2D([], [], **SQUARE))
        names.append(UNRELIABLE)
    legend = axes.legend(
        handles, names, frameon=False, fontsize=8.5, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5)
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _word(text: str) -> str:
    """A text of any origin as one that every font and SVG can show: cut, and without control characters."""
    shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in text[:LONGEST])
    return shown if len(text) <= LONGEST else f"{shown}..."


def colour_of(tone: str) -> str:
    """The colour of a modality, of "ink", or of a number in the palette."""
    if tone == "ink":
        return "#111111"
    return COLOURS[tone] if tone in COLOURS else PALETTE[int(tone) % len(PALETTE)]
