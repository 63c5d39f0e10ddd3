"""Where a run tells how it is going. It does not know how a terminal looks."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

Progress = Callable[[int, int], None]


class Reporter(Protocol):
    """Where a run tells its progress."""

    def note(self, text: str) -> None:
        """Something good to know."""

    def warn(self, text: str) -> None:
        """Something the user should look at."""

    def progress(self, label: str) -> AbstractContextManager[Progress]:
        """A bar for as long as the context lasts; it takes (done, total)."""


@contextmanager
def resumable(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Say how to continue the run in a folder if it is interrupted."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        place = shlex.quote(str(folder))
        reporter.warn(f"stopped: the same command with --output {place} --resume continues it")
        raise
