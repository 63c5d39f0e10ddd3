"""Ctrl-C and SIGTERM, deferred to the end of the step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """While entered, the first SIGINT or SIGTERM sets `number`; a second SIGINT of a single process stops at once.

    Launchers repeat signals to the processes they started, so with `several` only the first counts. They also send
    SIGTERM to the others when one has failed: after an error it stays without effect, or no reason would be told.
    Outside of the main thread signals cannot be caught, and nothing is changed; one that is ignored stays so.
    """

    def __init__(self, *, several: bool):
        self.number: int = 0
        self._several = several
        self._before: Mapping[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            if not (self._several and number == signal.SIGTERM and isinstance(error, Exception)):
                signal.signal(number, handler)

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Inside, signals do what they did before: what runs there can be broken off at any moment."""
        noting = {number: signal.signal(number, handler) for number, handler in self._before.items()}
        try:
            yield
        finally:
            for number, handler in noting.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT and not self._several:
            raise KeyboardInterrupt
        self.number = self.number or number


def stop(number: int) -> None:
    """End as a program ends by that signal: KeyboardInterrupt, or SystemExit(143) for SIGTERM."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
