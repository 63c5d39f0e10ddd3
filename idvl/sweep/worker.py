"""Work in a process of its own, so that nothing it does harms what comes after: a crash, a leak, memory used up.

Processes are forked from one that has imported the heavy libraries and done nothing else, so that another one costs a
tenth of a second. Such a process ends with its parent, however that ends. It does not know what the work is.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from idvl.errors import UsageError

if TYPE_CHECKING:
    from idvl.reporter import Reporter

PRELOADED = ["idvl.sweep.restartable", "transformers.modeling_utils"]
# seconds that work is given to save what it has
PATIENCE = 60.0


class Failed(Exception):
    """Work that did not come to its end: why, in one line. `trace`: where. `lasting`: it will fail again."""

    def __init__(self, reason: str, *, trace: str | None = None, lasting: bool = False):
        super().__init__(reason)
        self.trace, self.lasting = trace, lasting


def isolated(work: Callable[..., Any], *arguments: Any, reporter: Reporter, name: str) -> Any:
    """What `work(*arguments, reporter=...)` returns, carried out in a process of its own.

    Its progress and its warnings, begun with `name`, go to `reporter`; its notes do not. Raises Failed. Where this
    process is interrupted, the work is, and has time to save what it has.
    """
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_execute, args=(sender, work, arguments))
    process.start()
    sender.close()
    try:
        with receiver:
            end = _listen(receiver, reporter, name)
        process.join()
    except BaseException:
        process.terminate()
        process.join(PATIENCE)
        process.kill()
        raise
    if end is None:
        cause = f"signal {-process.exitcode}" if process.exitcode < 0 else f"exit code {process.exitcode}"
        killed = ", as systems do when memory is short" if process.exitcode == -signal.SIGKILL else ""
        raise Failed(f"the process ended with {cause}{killed}")
    kind, value = end
    if kind == "failed":
        raise Failed(value["reason"], trace=value["trace"], lasting=value["lasting"])
    return value


def _listen(receiver: Connection, reporter: Reporter, name: str) -> tuple[str, Any] | None:
    """Pass on what the process says until it has ended: ("returned", value), ("failed", why), None if neither came."""
    end = None
    advance: dict[int, Callable[..., None]] = {}
    begun: dict[int, contextlib.ExitStack] = {}
    with contextlib.ExitStack() as bars:
        while True:
            try:
                kind, value = receiver.recv()
            except EOFError:
                return end
            if kind == "warn":
                reporter.warn(f"{name}: {value}")
            elif kind == "begin":
                number, label = value
                begun[number] = bars.enter_context(contextlib.ExitStack())
                advance[number] = begun[number].enter_context(reporter.progress(label))
            elif kind == "advance":
                number, *state = value
                advance[number](*state)
            elif kind == "end":
                begun.pop(value).close()
            else:
                end = kind, value


def _execute(sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """The process."""
    # what a terminal sends to all goes through the parent
    with contextlib.suppress(OSError, AttributeError):
        os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    teller = Teller(sender)
    log = logging.getLogger("idvl")
    log.handlers, log.propagate = [teller], False
    try:
        with contextlib.redirect_stdout(sys.stderr):
            end = "returned", work(*arguments, reporter=teller)
    except Exception as error:
        reason = " ".join(str(error).split()) or "no message"
        if type(error).__module__ != "idvl.errors":
            reason = f"{type(error).__name__}: {reason}"
        lasting = isinstance(error, UsageError)
        end = "failed", {"reason": reason, "trace": traceback.format_exc(), "lasting": lasting}
    with contextlib.suppress(BrokenPipeError):
        sender.send(end)


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


class Teller(logging.Handler):
    """A reporter, and a log, that sends what it is told to the process that listens."""

    def __init__(self, sender: Connection):
        super().__init__(logging.WARNING)
        self._there, self._number = sender, 0

    def note(self, text: str) -> None:
        """Notes are not passed on."""

    def warn(self, text: str) -> None:
        self._send("warn", text)

    def emit(self, record: logging.LogRecord) -> None:
        self.warn(record.getMessage())

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Callable[..., None]]:
        self._number += 1
        number = self._number
        self._send("begin", (number, label))
        try:
            yield lambda done, total, detail="": self._send("advance", (number, done, total, detail))
        finally:
            self._send("end", number)

    def _send(self, kind: str, value: Any) -> None:
        # where nobody listens any more, the work is about to be asked to end
        with contextlib.suppress(BrokenPipeError):
            self._there.send((kind, value))
