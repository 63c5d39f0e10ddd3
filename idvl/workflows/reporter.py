"""Where a run tells how it is going. It does not know how a terminal looks."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from idvl.workflows.measure import Progress


class Reporter(Protocol):
    """Where a run tells its progress."""

    def note(self, text: str) -> None:
        """Something good to know."""

    def warn(self, text: str) -> None:
        """Something the user should look at."""

    def progress(self, label: str) -> AbstractContextManager[Progress]:
        """A bar for as long as the context lasts; it takes (done, total)."""
