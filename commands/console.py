"""How a run speaks to a terminal: results on stdout; progress and warnings on stderr, from the main process only.

All text passes here: what a terminal would obey is shown, since a name from a file may hold it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from idvl.errors import RunError

# seconds between two lines of progress where no bar can be drawn
LINE_EVERY = 30.0
# what a pipe is as wide as
PIPE_WIDTH = 120
# control characters beside tab and newline -> their pictures, or the sign for what has none
CONTROLS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
CONTROLS |= {0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), 0xFFFD)}


def visible(text: str) -> str:
    """The text with pictures of control characters in their place."""
    return text.translate(CONTROLS)


@contextlib.contextmanager
def stdout_errors() -> Iterator[None]:
    """Say in one line that stdout cannot be written. A reader that has gone is no error: click ends the program."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(
            f"stdout cannot be written ({error.strerror}): the result is not shown; a run folder, if any, is complete"
        ) from error


def write(text: str) -> None:
    """Write a result as it is, without wrapping, to stdout."""
    with stdout_errors():
        sys.stdout.write(visible(text))


class Terminal(Console):
    """Rich's console, for text from anywhere. A stderr that cannot be written ends no run."""

    def print(self, *objects: Any, **options: Any) -> None:
        with contextlib.suppress(OSError) if self.stderr else stdout_errors():
            super().print(*objects, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def rank() -> int:
    """The number of this process among those that a launcher started, 0 when there is one."""
    number = os.environ.get("RANK", "0")
    return int(number) if number.isdecimal() else 0


def output() -> Terminal:
    """The console for results: stdout, wide enough for a table when it is a pipe."""
    fixed = not (sys.stdout and sys.stdout.isatty()) and "COLUMNS" not in os.environ
    return Terminal(width=PIPE_WIDTH if fixed else None, highlight=False)


@contextlib.contextmanager
def results_alone() -> Iterator[None]:
    """Inside, what is printed goes to stderr, whoever prints it: stdout is for the result."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    with contextlib.redirect_stdout(sys.stderr):
        try:
            kept = os.dup(1)
        except OSError:  # closed
            yield
            return
        os.dup2(2, 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


class TerminalReporter:
    """Progress, notes and warnings of a run. `quiet` keeps the warnings; beside the main process all is silent."""

    def __init__(self, *, quiet: bool = False):
        self.console = Terminal(stderr=True, highlight=False, quiet=rank() > 0)
        self.quiet = quiet
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[detail]}[/dim]"),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal or self.console.quiet,
        )

    def note(self, text: str) -> None:
        """Something good to know."""
        if not self.quiet:
            self.console.print(f"[dim]{escape(text)}[/dim]", soft_wrap=True)

    def warn(self, text: str) -> None:
        """Something the user should look at."""
        self.console.print(f"[yellow]warning:[/yellow] {escape(text)}", soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Callable[..., None]]:
        """A bar for as long as the context lasts, driven by calls (done, total, detail="").

        Where no bar can be drawn there is a line now and then.
        """
        task = self._bars.add_task(label, total=None, detail="")
        self._bars.start()
        latest = time.monotonic()

        def advance(done: int, total: int, detail: str = "") -> None:
            nonlocal latest
            self._bars.update(task, completed=done, total=total, detail=escape(detail))
            if self._bars.disable and time.monotonic() - latest >= LINE_EVERY:
                latest = time.monotonic()
                self.note(f"{label}: {100 * done // max(total, 1)} %{detail and ', ' + detail}")

        try:
            yield advance
        finally:
            self._bars.remove_task(task)
            if not self._bars.tasks:
                self._bars.stop()


class _Handler(logging.Handler):
    """Hands log records to a reporter, each warning once: a run opens a model again that it has saved."""

    def __init__(self, reporter: TerminalReporter):
        super().__init__()
        self.reporter = reporter
        self.warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno < logging.WARNING:
            self.reporter.note(text)
        elif text not in self.warned:
            self.warned.add(text)
            self.reporter.warn(text)


def speak(reporter: TerminalReporter, *, debug: bool = False) -> None:
    """Route idvl's log to the reporter, and keep other libraries' bars off pipes and out of quiet runs.

    To be called before they are imported: they read these variables then.
    """
    log = logging.getLogger("idvl")
    log.handlers = [_Handler(reporter)]
    log.setLevel(logging.DEBUG if debug else logging.WARNING)
    log.propagate = False
    if reporter.quiet or not reporter.console.is_terminal or rank():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not debug:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
