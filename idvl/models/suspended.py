"""A forward pass in a thread of its own, which stops wherever the model calls a module that is not to run there.

Only one thread runs at any time: the main thread runs the module, gives its result and waits for the next stop.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from idvl.errors import RunError

# the name of the threads that suspended forwards wait in
WORKER = "idvl-walk"


class _Abandoned(BaseException):
    """Ends a suspended forward whose remaining blocks nobody needs. Not an Exception: models must not catch it."""


@dataclass
class Request:
    """What a suspended forward waits for: this module's own forward with these arguments."""

    name: str
    is_block: bool
    forward: Callable
    args: tuple
    kwargs: dict[str, Any]

    def run(self) -> Any:
        return self.forward(*self.args, **self.kwargs)

    def run_again(self) -> Any:
        """Run, but not for the last time. Raises RunError if that changes the arguments of the next run."""
        tensors = [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor)]
        versions = [value._version for value in tensors]
        result = self.run()
        if versions != [value._version for value in tensors]:
            raise RunError(
                f"{self.name} changes its input in place, so it cannot run more than once: "
                "set a larger memory, or spill, or prune with calibration dense"
            )
        return result


class SuspendedForward:
    """One batch's forward pass in its own thread, which runs only while the main thread waits for it."""

    def __init__(self, body: Callable[[], None]):
        self._to_main: queue.SimpleQueue = queue.SimpleQueue()
        self._to_worker: queue.SimpleQueue = queue.SimpleQueue()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._work, body), daemon=True, name=WORKER)
        self._abandoned = False
        self.request: Request | None = None

    def _work(self, body: Callable[[], None]) -> None:
        _current.forward = self
        try:
            body()
        except _Abandoned:
            pass
        except BaseException as error:
            self._to_main.put(error)
            return
        self._to_main.put(None)

    def ask(self, request: Request) -> Any:
        """In the worker: hand a request over and wait for its result."""
        if self._abandoned:  # a model that runs another block while it unwinds
            raise _Abandoned
        self._to_main.put(request)
        del request
        reply = self._to_worker.get()
        if isinstance(reply, _Abandoned):
            raise reply
        return reply[0]

    def start(self) -> None:
        self._thread.start()
        self._await()

    def resume(self, result: Any) -> None:
        """In the main thread: give the result and wait until the forward reaches its next block or its end."""
        self.request = None
        self._to_worker.put((result,))
        del result
        self._await()

    def _await(self) -> None:
        while True:
            message = self._to_main.get()
            if isinstance(message, BaseException):
                raise message
            if message is None or message.is_block:
                self.request = message
                return
            self._to_worker.put((message.run(),))

    def abandon(self) -> None:
        if self._thread.is_alive():
            self._abandoned = True
            self._to_worker.put(_Abandoned())
            self._thread.join()


_current = threading.local()


def forwarding(name: str, module: nn.Module, is_block: bool) -> Callable:
    """A replacement for the module's forward: in a suspended forward's thread it asks the main thread to run it."""
    original = module.forward

    def forward(*args, **kwargs):
        worker = getattr(_current, "forward", None)
        if worker is None:
            return original(*args, **kwargs)
        request = Request(name, is_block, original, args, kwargs)
        del args, kwargs
        return worker.ask(request)

    return forward
