"""A profile as a picture: intrinsic dimension against depth, a colour per modality, with error bands.

It draws the curves of the paper's Figure 2 for any model. It does not know how a profile is made.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idvl.files import write_bytes
from idvl.profile import MODALITIES, Modality, Profile
from idvl.reliability import unreliable_reason
from idvl.reporting.drawing import COLOURS, INK, QUIET, framed
from idvl.reporting.entry import Z
from idvl.reporting.figure import INTERLEAVED, blocks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# the square around an estimate that is no ground for a factor
UNRELIABLE = "s"
STYLES = ((0, (1, 0)), (0, (4, 2)), (0, (1, 1.5)))


def plot(profiles: Profile | Sequence[tuple[str, Profile]], path: Path | str) -> None:
    """Draw a profile, or one or more (label, profile), into a PNG, written atomically.

    The first sets the order of the layers; layers of the others that it has too are drawn above their namesakes.
    """
    labelled = [("", profiles)] if isinstance(profiles, Profile) else profiles
    buffer = io.BytesIO()
    figure(labelled).savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def figure(profiles: Sequence[tuple[str, Profile]]) -> Figure:
    """The drawing of `plot`, not yet written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = profiles[0][1]
    canvas = Figure(figsize=(11, 5.4), layout="constrained")
    canvas.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    for low, high in blocks(first):
        axes.axvspan(low, high, color="#f4f4f4", zorder=0, lw=0)
    for index, (_, profile) in enumerate(profiles):
        for modality in MODALITIES:
            for reads_image in (False, True):
                _series(axes, profile, first, modality, reads_image, index)
    _dress(axes, first)
    _legend(canvas, profiles)
    return canvas


def _series(axes: Axes, profile: Profile, first: Profile, modality: Modality, reads_image: bool, index: int) -> None:
    """One curve: the layers of one modality, with those that read image tokens as a curve of their own."""
    depths, values, errors, missing, doubtful = [], [], [], [], []
    for name, layer in profile.layers.items():
        if layer.modality == modality and layer.reads_image == reads_image:
            depth = first.layers.get(name, layer).depth
            if layer.estimate.dimension is None:
                missing.append(depth)
                continue
            depths.append(depth)
            values.append(layer.estimate.dimension)
            errors.append(layer.estimate.stderr or 0.0)
            if unreliable_reason(layer.estimate, layer.n_features):
                doubtful.append((depth, layer.estimate.dimension))
    colour = COLOURS[modality]
    alone = index == 0
    line = "none" if modality == INTERLEAVED else STYLES[min(index, len(STYLES) - 1)]
    axes.plot(
        depths, values, color=colour, linestyle=line, linewidth=1.3 if alone else 1.1,
        alpha=1.0 if alone else 0.6, marker="D" if reads_image else "o", markersize=4.2 if reads_image else 3.6,
        markerfacecolor="white" if reads_image or not alone else colour, markeredgewidth=1.0, zorder=3 if alone else 2,
    )  # fmt: skip
    if alone and any(errors):
        low = [value - Z * error for value, error in zip(values, errors, strict=True)]
        high = [value + Z * error for value, error in zip(values, errors, strict=True)]
        if modality == INTERLEAVED:
            axes.vlines(depths, low, high, color=colour, alpha=0.5, linewidth=1.2, zorder=2)
        else:
            axes.fill_between(depths, low, high, color=colour, alpha=0.18, linewidth=0, zorder=1)
    for depth, value in doubtful:
        axes.plot(depth, value, UNRELIABLE, color=INK, markersize=9, markerfacecolor="none", zorder=4)
    (marks,) = axes.plot(
        missing, [0.0] * len(missing), "x", color=colour, markersize=6, markeredgewidth=1.6, clip_on=False, zorder=4,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip
    marks.set_in_layout(False)


def _dress(axes: Axes, profile: Profile) -> None:
    model, data, protocol = profile.model.get("name", "model"), profile.dataset.get("dataset", ""), profile.protocol
    axes.set_title(
        f"Intrinsic dimension of {model}" + (f" on {data}" if data else ""),
        loc="left",
        color=INK,
        pad=24,
        parse_math=False,
    )
    points = max((layer.estimate.n_points for layer in profile.layers.values()), default=0)
    facts = [f"{points:,} points", protocol.get("estimator"), f"tokens: {protocol.get('tokens', '?')}"]
    subtitle = "  ·  ".join(str(fact) for fact in [*facts, f"layer {protocol.get('capture', 'output')}s"] if fact)
    axes.text(0, 1.025, subtitle, transform=axes.transAxes, color=QUIET, fontsize=9, parse_math=False)
    axes.set_xlabel("depth (layers in the order in which they run, blocks shaded in turn)", color=INK)
    axes.set_ylabel("intrinsic dimension", color=INK)
    axes.set_ylim(bottom=0)
    depths = [layer.depth for layer in profile.layers.values()] or [0]
    margin = 0.5 + 0.01 * (max(depths) - min(depths))
    axes.set_xlim(min(depths) - margin, max(depths) + margin)
    axes.xaxis.get_major_locator().set_params(integer=True)
    framed(axes)


def _legend(figure: Figure, profiles: Sequence[tuple[str, Profile]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    layers = [layer for _, profile in profiles for layer in profile.layers.values()]
    handles: list[Line2D | Patch] = []
    own, image = {"marker": "o", "markersize": 4}, {"marker": "D", "markersize": 4.5, "mfc": "white"}
    for reads_image, style in ((False, own), (True, image)):
        for modality in MODALITIES:
            if any(layer.modality == modality and layer.reads_image == reads_image for layer in layers):
                label = f"{modality}: keys, values (image tokens)" if reads_image else modality
                line = "none" if modality == INTERLEAVED else "-"
                handles.append(Line2D([], [], label=label, color=COLOURS[modality], linestyle=line, **style))
    if any(layer.estimate.stderr for layer in profiles[0][1].layers.values()):
        handles.append(Patch(color=QUIET, alpha=0.25, linewidth=0, label=f"± {Z} standard errors"))
    if any(layer.estimate.dimension is None for layer in layers):
        handles.append(Line2D([], [], color=QUIET, marker="x", linestyle="", mew=1.6, label="no estimate"))
    estimated = [layer for layer in layers if layer.estimate.dimension is not None]
    if any(unreliable_reason(layer.estimate, layer.n_features) for layer in estimated):
        label = "unreliable estimate"
        handles.append(Line2D([], [], color=INK, marker=UNRELIABLE, mfc="none", linestyle="", label=label))
    if len(profiles) > 1:
        for index, (label, _) in enumerate(profiles):
            style = STYLES[min(index, len(STYLES) - 1)]
            handles.append(Line2D([], [], color=INK, linestyle=style, label=label))
    figure.legend(
        handles=handles, frameon=False, fontsize=9, labelcolor=INK, loc="outside lower center", ncols=4,
        columnspacing=1.8, handlelength=2.4,
    )  # fmt: skip
