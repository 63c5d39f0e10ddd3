"""The process behind `idvl`, `python -m idvl` and `accelerate launch -m idvl`, and how a signal ends it.

It knows no command.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


def main() -> int:
    """Run the command line and return its exit code.

    Ctrl-C and SIGTERM end it as KeyboardInterrupt does, in one line and with 128 + the signal's number; the second one
    at once.
    """
    # where another process ends, torch's C++ code would print 50 lines of frames before idvl's one
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    caught: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)
        raise KeyboardInterrupt

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        code = _run()
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write("idvl: interrupted\n")
        code = 130
    if caught and code == 130:
        os._exit(128 + caught[0])  # Python itself would end with SIGINT's code where it met the signal within exec
    for number in ENDING:
        if signal.getsignal(number) is stop:  # all is done but for tidying up
            signal.signal(number, lambda *_: os._exit(code))
    return code


def _run() -> int:
    if find_spec("typer") is None:
        sys.stderr.write("idvl: not installed: typer is missing; in a clone run `make install`, then .venv/bin/idvl\n")
        return 2
    from idvl.commands import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
