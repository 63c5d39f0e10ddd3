"""Work for processes of their own: importable there by name, and light."""

from __future__ import annotations

import os
import signal
import sys
import time

from idvl.errors import UsageError
from idvl.sweep import worker


def tell(value, *, reporter):
    with reporter.progress("telling") as progress:
        progress(1, 2, detail="half")
    reporter.note("unheard")
    reporter.warn("heard")
    print("what a library prints")
    return {"value": value, "pid": os.getpid()}


def fail(kind, *, reporter):
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise {"usage": UsageError, "other": ValueError}[kind]("no\ngood")


def wait(path, *, reporter):
    """Sleeps, and says in a file who does, and when it is asked to end."""

    def end(*_):
        path.write_text("asked to end")
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)
    path.write_text(str(os.getpid()))
    time.sleep(60)


class Mute:
    """Takes warnings."""

    def warn(self, text):
        pass


if __name__ == "__main__":
    from pathlib import Path

    from tests.support import isolated_work

    worker.PRELOADED = []
    worker.isolated(isolated_work.wait, Path(sys.argv[1]), reporter=Mute(), name="waiting")
