"""A study as one HTML file that needs nothing else: tables and samples as markup, figures as data that a script draws.

Whatever comes from a run is escaped on its way in: `markup` and `escaped`, `embedded` for the script's data.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import idvl
from idvl.reporting.collect import Study
from idvl.reporting.entry import Table, TableEntry
from idvl.reporting.export import decimal, interval, numbered
from idvl.reporting.figure import Figure, script_data
from idvl.reporting.overview import Overview
from idvl.reporting.samples import Gallery

HERE = Path(__file__).parent
# marks a page as made by idvl, so that it may be replaced
MARK = '<meta name="generator" content="idvl analyze">'
# characters of a word that a narrow table need not break
SHORT = 22
# behind a separator of a name, but not within a number; browsers break behind "-"; page.js has the same
BREAK = re.compile(r"(?<=\w[/_])(?=\w)|(?<=[^\W\d]\.)(?=\w)|(?<=\w\.)(?=[^\W\d])")
# what the first screen shows where it is there, the first of them
HEADLINES = ("quality", "sensitivity")
Picture = Callable[[str], bytes | None]


def page(
    study: Study,
    *,
    tables: Sequence[Table],
    figures: Sequence[Figure],
    galleries: Sequence[Gallery],
    overview: Overview,
    picture: Picture,
    beside: str | None = None,
) -> str:
    """The HTML. `picture`: a sample's id -> PNG, None where there is none; `beside`: the folder of drawn figures."""
    figure, table = _headline(figures, tables)
    drawn = {one.key: _figure(number, one, beside) for number, one in enumerate(figures)}
    summary = f'<div class="chart">{drawn.pop(figure.key)}</div>' if figure else ""
    summary += f'<div class="table">{_table(table)}</div>' if table else ""
    parts = {
        "Results": "".join(_table(one) for one in tables if not one.published and one is not table),
        "Figures": "".join(drawn.values()),
        "Published": "".join(_table(one) for one in tables if one.published),
        "Samples": "".join(_gallery(gallery, picture) for gallery in galleries),
        "Runs": _runs(overview),
    }
    parts = {title: body for title, body in parts.items() if body}
    links = "".join(f'<a href="#{title.lower()}">{title}</a>' for title in parts)
    body = "".join(f'<section id="{title.lower()}"><h2>{title}</h2>{text}</section>' for title, text in parts.items())
    title = f"idvl: {', '.join(overview.models)}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{MARK}\n<title>{escaped(title)}</title>\n<style>\n{_shipped('page.css')}</style>\n</head>\n<body>\n"
        f'<header><h1>{markup(overview.title)}</h1><p class="quiet">{markup(overview.summary)}</p>{_troubles(overview)}'
        f'<nav aria-label="Sections">{links}</nav><button id="theme" type="button" hidden>Dark</button></header>\n'
        f'<main><section id="summary" aria-label="Summary">{summary}</section>{body}</main>\n'
        f"<footer>Made by idvl {markup(idvl.__version__)} "
        f"from {_count(len(study.runs), 'run folder')}. "
        "“In the paper” is <em>Exploring Intrinsic Dimension for Vision-Language Model Pruning</em>, ICML 2024."
        "</footer>\n"
        f'<script type="application/json" id="data">{embedded(script_data(figures))}</script>\n'
        f"<script>\n{_shipped('page.js')}</script>\n</body>\n</html>\n"
    )


def _headline(figures: Sequence[Figure], tables: Sequence[Table]) -> tuple[Figure | None, Table | None]:
    """What the first screen shows: quality where there is any, else the first that is no detail of another."""

    def rank(one: Figure | Table) -> int:
        return next((place for place, key in enumerate(HEADLINES) if one.key.startswith(key)), len(HEADLINES))

    plain = [table for table in tables if not (table.folded or table.published)]
    charts = [figure for figure in figures if not figure.few]
    return min(charts, key=rank, default=None), min(plain, key=rank, default=None)


def escaped(text: Any) -> str:
    """Text of any origin as an attribute, or where no line ends."""
    return html.escape(str(text), quote=True)


def markup(text: Any) -> str:
    """Text of any origin as markup. A long name may go on in the next line behind / . _ or -, and nowhere else."""
    return "<wbr>".join(map(escaped, BREAK.split(str(text))))


def embedded(values: Any) -> str:
    """JSON for a script element: nothing in it ends the element or opens a comment, whatever a string says."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _shipped(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _paper(paper: str | None) -> str:
    return f' <span class="paper">in the paper: {markup(paper)}</span>' if paper else ""


def _notes(notes: Sequence[str]) -> str:
    def line(note: str) -> str:
        caution = note.startswith("CAUTION: ")
        text = note.removeprefix("CAUTION: ")
        return f'<p class="note{" caution" if caution else ""}">{markup(text[:1].upper() + text[1:])}.</p>'

    return "".join(map(line, notes))


def _troubles(overview: Overview) -> str:
    if not overview.troubles:
        return ""
    items = "".join(f"<li><code>{markup(name)}</code>: {markup(why)}</li>" for name, why in overview.troubles)
    summary = f'<summary class="caution">{_count(len(overview.troubles), "trouble")} with these folders</summary>'
    return f'<details class="print">{summary}<ul class="quiet">{items}</ul></details>'


def _table(table: Table) -> str:
    files, marks = numbered(table)
    over = ""
    if table.over:
        span = f'<th class="over" scope="colgroup" colspan="{len(table.columns)}">{markup(table.over)}</th>'
        over = f'<tr><td colspan="{len(table.labels)}"></td>{span}</tr>'
    first = "".join(f'<th scope="col">{markup(label)}</th>' for label in table.labels)
    rest = "".join(f'<th scope="col" class="n">{markup(column)}</th>' for column in table.columns)
    rows = "".join(
        "<tr>" + _words(words) + "".join(_entry(entry, marks(entry), table.signed) for entry in entries) + "</tr>"
        for words, entries in table.rows
    )
    listed = "".join(f"<li><code>{markup(source)}</code></li>" for source in files)
    behind = f"<details><summary>{_count(len(files), 'file')} behind these numbers</summary><ol>{listed}</ol></details>"
    body = (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escaped(table.title)}"><table><thead>{over}'
        f"<tr>{first}{rest}</tr></thead><tbody>{rows}</tbody></table></div>{_notes(table.notes)}{behind * bool(files)}"
    )
    if table.folded:
        body = f'<details class="print"><summary>{_count(len(table.rows), "row")}</summary>{body}</details>'
    return f"<h3>{markup(table.title)}{_paper(table.paper)}</h3>{body}"


def _words(words: Sequence[str]) -> str:
    """The first cells of a row: short words stay on a line, paths and lists fold."""
    short = [' class="short"' if len(word) <= SHORT else "" for word in words]
    first, *others = (f"{kind}>{markup(word)}" for kind, word in zip(short, words, strict=True))
    return f'<th scope="row"{first}</th>' + "".join(f"<td{word}</td>" for word in others)


def _entry(entry: TableEntry, marks: str, signed: bool) -> str:
    """A number with its interval below; a difference whose interval leaves out 0 is tinted."""
    if entry.value is None:
        return f'<td class="n quiet">{markup(entry.text)}</td>'
    number = decimal(entry.value, entry.decimals).replace("-", "−")
    plus = "+" if signed and entry.value > 0 and float(number.replace("−", "-")) else ""
    bounds = interval(entry).strip(" []").replace("-", "−")
    below = f'<span class="ci">{markup(bounds.replace(", ", " to "))}</span>' if bounds else ""
    sure = signed and entry.low is not None and entry.high is not None and (entry.low > 0 or entry.high < 0)
    tint = (" up" if entry.value > 0 else " down") if sure else ""
    raised = f"<sup>{markup(marks.replace('-', '–'))}</sup>" if marks else ""
    return f'<td class="n{tint}">{plus}{markup(number)}{raised}{below}</td>'


def _figure(place: int, figure: Figure, beside: str | None) -> str:
    chosen = next((panel for panel in figure.panels if not panel.few), None)
    options = "".join(
        f'<option value="{number}"{" selected" * (panel is chosen)}>{escaped(panel.name)}</option>'
        for number, panel in enumerate(figure.panels)
    )
    which = f'<label>show <select class="which">{options}</select></label>' if len(figure.panels) > 1 else ""
    layer = '<label>layer <select class="layer"></select></label>' if figure.picked else ""
    choose = f'<div class="choose">{which}{layer}</div>' if which or layer else ""
    left_out = f"The first {len(figure.panels)} of {len(figure.panels) + figure.left_out}. " if figure.left_out else ""
    about = f'{markup(left_out)}<span class="caption"></span>'
    drawn = ""
    if beside and not figure.few:
        folder = quote(os.fsencode(beside))
        links = (f'<a href="{folder}/{figure.key}.{kind}">{kind.upper()}</a>' for kind in ("png", "svg"))
        drawn = f"Download: {', '.join(links)}. "
    return (
        f'<h3>{markup(figure.title)}{_paper(figure.paper)}</h3><figure data-figure="{place}">{choose}'
        '<p class="note panel"></p><ul class="legend"></ul><div class="plot"><noscript>Figures are drawn by a '
        'script of this page; the figure files next to it need none.</noscript></div><dl class="facts"></dl>'
        f'<figcaption>{about} {drawn}<span class="quiet sources"></span></figcaption>'
        '<details><summary>the numbers</summary><div class="numbers"></div></details></figure>'
    )


def _gallery(gallery: Gallery, picture: Picture) -> str:
    cards, without = [], False
    for sample in gallery.samples:
        image = picture(sample.id)
        without |= image is None
        shown = ""
        if image is not None:
            code = base64.b64encode(image).decode()
            shown = f'<img src="data:image/png;base64,{code}" alt="the image {escaped(sample.id)}">'
        references = "".join(f'<dd class="reference">{markup(text)}</dd>' for text in sample.references)
        models = "".join(
            f"<dt>{markup(name)}</dt><dd{'' if same else ' class=differs'}>{markup(text) or '<em>nothing</em>'}</dd>"
            for name, text, same in sample.predictions
        )
        head = f"<dt>{markup(sample.id)}{', references' if references else ''}</dt>{references}"
        cards.append(f'<div class="sample">{shown}<dl>{head}{models}</dl></div>')
    notes = [*gallery.notes, *(["images are only drawn for built-in datasets"] if without else [])]
    return f'<h3>{markup(gallery.title)}</h3>{_notes(notes)}<div class="samples">{"".join(cards)}</div>'


def _runs(overview: Overview) -> str:
    head = "".join(f'<th scope="col">{markup(title)}</th>' for title in overview.columns)
    rows = "".join(f"<tr>{_words(row)}</tr>" for row in overview.rows)
    shared = "".join(_settings(title, values) for title, values in overview.settings)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="Runs"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{_notes([overview.versions])}{shared}"
    )


def _settings(title: str, values: Mapping[str, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row"><code>{markup(key)}</code></th><td>{markup(value)}</td></tr>'
        for key, value in values.items()
    )
    return (
        f'<details class="print"><summary>{markup(title)}</summary><div class="wide"><table><tbody>{rows}</tbody>'
        "</table></div></details>"
    )
