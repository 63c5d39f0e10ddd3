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
from idvl.reliability import unsound_reason
from idvl.reporting.drawing import COLOURS, INK, QUIET, SQUARE, framed
from idvl.reporting.entry import Z
from idvl.reporting.figure import INTERLEAVED, UNRELIABLE, blocks
from idvl.reporting.labels import protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# characters of a profile's label that the picture has room for: the end of a path says most
LONGEST = 60
STYLES = ((0, (1, 0)), (0, (4, 2)), (0, (1, 1.5)))


def plot(profiles: Profile | Sequence[tuple[str, Profile]], path: Path | str) -> None:
    """Draw a profile, or one or more (label, profile), into a PNG, written atomically.

    The first sets the order of the layers; layers of the others that it has too are drawn above their namesakes. The
    legend tells of each profile what it does not share with the others: model, data, points and protocol.
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
    _dress(axes, profiles)
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
            if unsound_reason(layer):
                doubtful.append((depth, layer.estimate.dimension))
    colour = COLOURS[modality]
    alone = index == 0
    line = "none" if modality == INTERLEAVED else STYLES[min(index, len(STYLES) - 1)]
    axes.plot(
        depths, values, color=colour, linestyle=line, linewidth=1.3 if alone else 1.1,
        alpha=1.0 if alone else 0.6, marker="D" if reads_image else "o", markersize=4.2 if reads_image else 3.6,
        markerfacecolor="white" if reads_image or not alone else colour, markeredgewidth=1.0, zorder=3 if alone else 2,
    )  # fmt: skip
    if any(errors):
        low = [value - Z * error for value, error in zip(values, errors, strict=True)]
        high = [value + Z * error for value, error in zip(values, errors, strict=True)]
        if modality == INTERLEAVED:
            axes.vlines(depths, low, high, color=colour, alpha=0.5 if alone else 0.3, linewidth=1.2, zorder=2)
        else:
            axes.fill_between(depths, low, high, color=colour, alpha=0.18 if alone else 0.1, linewidth=0, zorder=1)
    for depth, value in doubtful:
        axes.plot(depth, value, markersize=9, zorder=4, **SQUARE)
    (marks,) = axes.plot(
        missing, [0.0] * len(missing), "x", color=colour, markersize=6, markeredgewidth=1.6, clip_on=False, zorder=4,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip
    marks.set_in_layout(False)


def _dress(axes: Axes, profiles: Sequence[tuple[str, Profile]]) -> None:
    """Axes, title and subtitle, which tell what all profiles share, and of each of several what it does not."""
    profile = profiles[0][1]
    facts = _facts([one for _, one in profiles])
    shared = {key: fact for key, fact in facts[0].items() if all(other[key] == fact for other in facts)}
    model, data = profile.model.get("name", "model"), profile.dataset.get("dataset", "")
    title = "Intrinsic dimension" + (f" of {model}" if "model" in shared else "")
    title += f" on {data}" if data and "data" in shared else ""
    several = len(profiles) > 1
    lines = 13 * len(profiles) + 3 if several else 0
    axes.set_title(title, loc="left", color=INK, pad=24 + lines, parse_math=False)
    subtitle = "  ·  ".join(fact for key, fact in shared.items() if key not in ("model", "data"))
    axes.annotate(
        subtitle, (0, 1), xytext=(0, 8 + lines), xycoords="axes fraction", textcoords="offset points", color=QUIET,
        fontsize=9, parse_math=False,
    )  # fmt: skip
    if several:
        own = ("  ·  ".join(fact for key, fact in each.items() if key not in shared) for each in facts)
        short = (label if len(label) <= LONGEST else f"...{label[-LONGEST:]}" for label, _ in profiles)
        _curves(axes, [": ".join(filter(None, pair)) for pair in zip(short, own, strict=True)])
    axes.set_xlabel("depth (layers in the order in which they run, blocks shaded in turn)", color=INK)
    axes.set_ylabel("intrinsic dimension", color=INK)
    axes.set_ylim(bottom=0)
    depths = [layer.depth for layer in profile.layers.values()] or [0]
    margin = 0.5 + 0.01 * (max(depths) - min(depths))
    axes.set_xlim(min(depths) - margin, max(depths) + margin)
    axes.xaxis.get_major_locator().set_params(integer=True)
    framed(axes)


def _facts(profiles: Sequence[Profile]) -> list[dict[str, str]]:
    """What each profile is of, and how it was measured, in words that differ where model, data or protocol do."""
    every = []
    for profile in profiles:
        data = " ".join(str(word) for key in ("dataset", "split") if (word := profile.dataset.get(key)))
        every.append({"model": str(profile.model.get("name", "model")), "data": data, **protocol(profile)})
    first, facts = profiles[0], every[0]
    for other, profile in zip(every[1:], profiles[1:], strict=True):
        for key, one, two, word in (
            ("model", first.model, profile.model, "other weights or precision"),
            ("data", first.dataset, profile.dataset, "other samples"),
        ):
            known = one.get("fingerprint") and two.get("fingerprint")
            if known and one["fingerprint"] == two["fingerprint"]:
                other[key] = facts[key]
            elif known and other[key] == facts[key]:
                other[key] += f" ({word})"
    return every


def _curves(axes: Axes, labels: Sequence[str]) -> None:
    """A line for each of several profiles, below the title."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=INK, linestyle=STYLES[min(index, len(STYLES) - 1)], marker="o", markersize=4,
               markerfacecolor="white" if index else INK)
        for index in range(len(labels))
    ]  # fmt: skip
    legend = axes.legend(
        handles, labels, frameon=False, fontsize=9, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1.0),
        borderpad=0, borderaxespad=0.5, handlelength=3.6, labelspacing=0.35,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


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
    if any(layer.estimate.stderr for layer in layers):
        handles.append(Patch(color=QUIET, alpha=0.25, linewidth=0, label=f"± {Z} standard errors"))
    if any(layer.estimate.dimension is None for layer in layers):
        handles.append(Line2D([], [], color=QUIET, marker="x", linestyle="", mew=1.6, label="no estimate"))
    if any(map(unsound_reason, layers)):
        handles.append(Line2D([], [], label=UNRELIABLE, **SQUARE))
    figure.legend(
        handles=handles, frameon=False, fontsize=9, labelcolor=INK, loc="outside lower center", ncols=4,
        columnspacing=1.8, handlelength=2.4,
    )  # fmt: skip
