"""Tables as Markdown, LaTeX, CSV and JSON. Every number is followed to its files: by notes, in CSV on its own line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from rich.console import Group
from rich.text import Text

from idvl.reporting.entry import Table, TableEntry
from idvl.reporting.table import WordTable

Format = Literal["markdown", "latex", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)
LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"×": r"$\times$", "–": "--", "<": "$<$", ">": "$>$", "|": r"\textbar{}"},
    }
)


def written(tables: Sequence[Table], form: Format) -> str:
    """The tables as text that ends with a line break."""
    return {"markdown": _markdown, "latex": _latex, "csv": _csv}[form](tables)


def terminal(table: Table) -> Group:
    """A table for a rich console, with its title and notes; the files are left to the other formats."""
    rows = [[*words, *map(shown, entries)] for words, entries in table.rows]
    notes = [Text(f"{note[:1].upper()}{note[1:]}.", style="dim") for note in table.notes]
    grid = WordTable([*table.labels, *table.columns], rows, labels=len(table.labels))
    return Group(Text(table.title, style="bold"), grid, *notes, Text())


def as_json(table: Table) -> dict[str, Any]:
    """A table as an object: rows with their words under `labels` and their numbers under `columns`."""
    return {
        **{"key": table.key, "title": table.title, "paper": table.paper, "notes": list(table.notes)},
        **{"bounds": table.bounds, "counts": table.counts},
        "rows": [
            {
                **dict(zip(table.labels, words, strict=True)),
                "numbers": {
                    column: {
                        **{"value": entry.value, "low": entry.low, "high": entry.high, "n": entry.n},
                        "sources": list(entry.sources),
                    }
                    for column, entry in zip(table.columns, entries, strict=True)
                    if entry.value is not None or entry.sources
                },
            }
            for words, entries in table.rows
        ],
    }


def shown(entry: TableEntry) -> str:
    """ "85.9", with its interval "85.9 [84.1, 87.6]"; a sign for nothing where there is no number."""
    if entry.value is None:
        return entry.text
    return f"{decimal(entry.value, entry.decimals)}{interval(entry)}"


def interval(entry: TableEntry) -> str:
    if entry.low is None or entry.high is None:
        return ""
    return f" [{decimal(entry.low, entry.decimals)}, {decimal(entry.high, entry.decimals)}]"


def decimal(value: float, decimals: int = 1) -> str:
    """One decimal unless it says otherwise, as in the paper's tables; 0 has no sign."""
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def numbered(table: Table) -> tuple[list[str], Callable[[TableEntry], str]]:
    """(the files behind a table, in order of appearance; entry -> their numbers, as in "1" or "1-3, 5")."""
    files = list(dict.fromkeys(source for _, entries in table.rows for found in entries for source in found.sources))
    place = {source: number for number, source in enumerate(files, 1)}

    def marks(found: TableEntry) -> str:
        numbers = sorted({place[source] for source in found.sources})
        spans: list[list[int]] = []
        for number in numbers:
            if spans and spans[-1][1] == number - 1:
                spans[-1][1] = number
            else:
                spans.append([number, number])
        return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in spans)

    return files, marks


def _markdown(tables: Sequence[Table]) -> str:
    lines = []
    for table in tables:
        files, marks = numbered(table)
        header = [*table.labels, *table.columns]
        lines += [f"### {_cell(table.title)}", ""]
        lines += [_row(header), _row([*("---" for _ in table.labels), *("---:" for _ in table.columns)])]
        for words, entries in table.rows:
            numbers = [shown(entry) + (f" ({marks(entry)})" if entry.sources else "") for entry in entries]
            lines.append(_row([*words, *numbers]))
        paper = [f"in the paper: {table.paper}"] if table.paper else []
        lines += ["", *(f"{note[:1].upper()}{note[1:]}.  " for note in map(_cell, (*table.notes, *paper)))]
        lines += ["Numbers in parentheses are the files behind each value:", ""] if files else []
        lines += [*(f"{number}. {_code(source)}" for number, source in enumerate(files, 1)), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Text that neither ends a cell of Markdown nor becomes HTML in it."""
    text = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    return f"{fence}{' '.join(text.split())}{fence}"


def _latex(tables: Sequence[Table]) -> str:
    """A table environment each, for the booktabs package; the files are comments behind it."""
    lines = []
    for table in tables:
        kinds = "l" * len(table.labels) + "r" * len(table.columns)
        lines += [r"\begin{table}", r"\centering", rf"\caption{{{_tex(table.title)}.}}", rf"\label{{tab:{table.key}}}"]
        lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule"]
        lines += [" & ".join(map(_tex, (*table.labels, *table.columns))) + r" \\", r"\midrule"]
        lines += [" & ".join([*map(_tex, words), *map(_tex_entry, entries)]) + r" \\" for words, entries in table.rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        lines += [f"% {' '.join(note.split())}" for note in table.notes]
        for words, entries in table.rows:
            for column, entry in zip(table.columns, entries, strict=True):
                if entry.sources:
                    comment = f"% {', '.join(filter(None, words))}, {column}: {', '.join(entry.sources)}"
                    lines.append(" ".join(comment.split()))
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _tex(text: str) -> str:
    return " ".join(text.split()).translate(LATEX)


def _tex_entry(entry: TableEntry) -> str:
    if entry.value is None:
        return _tex(entry.text)
    number = f"${decimal(entry.value, entry.decimals)}$"
    return f"{number} {{\\scriptsize {_tex(interval(entry).strip())}}}" if interval(entry) else number


def _csv(tables: Sequence[Table]) -> str:
    """A line per number: table, row, column, value, low and high with what they bound, n with of what, files."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["table", "row", "column", "value", "low", "high", "bounds", "n", "of", "files"])
    for table in tables:
        for words, entries in table.rows:
            row = "; ".join(f"{label}={_plain(word)}" for label, word in zip(table.labels, words, strict=True) if word)
            for column, entry in zip(table.columns, entries, strict=True):
                if entry.value is not None:
                    numbers = ["" if value is None else repr(value) for value in (entry.value, entry.low, entry.high)]
                    files = "; ".join(map(_plain, entry.sources))
                    bounds = "" if entry.low is None else table.bounds
                    counted = ("", "") if not entry.n else (entry.n, table.counts)
                    writer.writerow([table.key, _plain(row), _plain(column), *numbers, bounds, *counted, files])
    return buffer.getvalue()


def _plain(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
