"""Processes of their own that start in a tenth of a second, as `subprocess` would run them in five.

They are forked from one that has imported torch and what else idvl needs, and done nothing. What such a process would
read while it imports, the address of the Hub and the folder of its cache, is the same for all: HUB, and CACHE, which
`tests.support.hub` points to another folder for each test. What is to be imported itself is no work for this.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
PRELOADED = (
    "accelerate",
    "datasets",
    "evaluate",
    "idvl.training",
    "idvl.workflows.evaluate",
    "idvl.workflows.prune",
    "torch.distributed",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.tokenization_bert",
    "transformers.models.blip.modeling_blip",
    "transformers.models.blip.processing_blip",
    "transformers.models.clip.modeling_clip",
    "transformers.models.vit.modeling_vit",
)


class Process:
    """One that runs; `stdout` and `stderr` are what it said, once it has ended."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str], cwd: Path):
        self._said = [tempfile.NamedTemporaryFile(mode="r", errors="replace") for _ in range(2)]  # noqa: SIM115
        files = [file.name for file in self._said]
        self.pid: int = _parent().ask(fork=[list(map(str, arguments)), env, str(cwd), *files])

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    @functools.cached_property
    def _code(self) -> int:
        return _parent().ask(wait=self.pid)

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        ended = "_code" in self.__dict__ or _parent().ask(ended=self.pid)
        return self._code if ended else None

    def wait(self, timeout: float = 120) -> int:
        """The exit code, negative for a signal; killed, TimeoutError is raised."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(f"still running after {timeout} s: {self.stderr[-2000:]}")
            time.sleep(0.01)
        return self._code

    @property
    def stdout(self) -> str:
        return Path(self._said[0].name).read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return Path(self._said[1].name).read_text(errors="replace")


def start(*arguments: Any, env: dict[str, str] | None = None, cwd: Path = ROOT) -> Process:
    """What `python ARGUMENTS` (-m MODULE ... or -c CODE ...) starts, with one thread; `env` None is ours."""
    return Process(arguments, {**(os.environ if env is None else env), "OMP_NUM_THREADS": "1"}, cwd)


def run(*arguments: Any, env: dict[str, str] | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    process = start(*arguments, env=env, cwd=cwd)
    return subprocess.CompletedProcess(arguments, process.wait(), process.stdout, process.stderr)


def team(*arguments: Any, env: dict[str, str] | None = None, size: int = 2) -> list[Process]:
    """SIZE processes that a launcher would start together on the CPU, at their ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    common = {**(os.environ if env is None else env), "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    common |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [start(*arguments, env={**common, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(size)]
    for process in processes:
        process.wait()
    return processes


@functools.cache
def hub_port() -> int:
    """Where every Hub of these tests listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@functools.cache
def cache() -> Path:
    """The folder that every process takes for the cache of the Hub: a link, at first to an empty one."""
    folder = Path(tempfile.mkdtemp(prefix="idvl-hub-"))
    (folder / "cache").symlink_to(tempfile.mkdtemp(dir=folder))
    return folder / "cache"


def environment() -> dict[str, str]:
    """What processes forked here were started with as far as it concerns the Hub, beside what does not."""
    kept = {k: v for k, v in os.environ.items() if not re.match("HF_|HUGGING|TRANSFORMERS_|.*_proxy$", k, re.I)}
    ours = {"HF_ENDPOINT": f"http://127.0.0.1:{hub_port()}", "HF_HOME": str(cache()), "HF_HUB_DISABLE_XET": "1"}
    return {**kept, **ours, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}


class _Parent:
    """The process that others are forked from, seen from here."""

    def __init__(self) -> None:
        environment_ = {**environment(), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.support.processes"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment_, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self._process.communicate)

    def ask(self, **asked: Any) -> Any:
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


@functools.cache
def _parent() -> _Parent:
    return _Parent()


def _serve() -> None:
    """Fork and wait as asked."""
    for name in PRELOADED:
        __import__(name)
    gc.collect()
    gc.freeze()  # what a child does not touch it need not copy
    running = set()
    while line := sys.stdin.readline():
        ((kind, about),) = json.loads(line).items()
        if kind == "fork":
            answer = os.fork()
            if not answer:
                _become(*about)
            running.add(answer)
        elif kind == "wait":
            answer = os.waitstatus_to_exitcode(os.waitpid(about, 0)[1])
            running.remove(about)
        else:
            answer = os.waitid(os.P_PID, about, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        print(json.dumps(answer), flush=True)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _become(arguments: list[str], env: dict[str, str], cwd: str, *files: str) -> NoReturn:
    """Run what Python would run with these arguments, and end as it would, but for taking its objects apart."""
    for number, name in enumerate(("/dev/null", *files)):
        os.dup2(os.open(name, os.O_RDWR), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kind, what, *rest = arguments
    sys.argv = [what if kind == "-m" else kind, *rest]
    code = 0
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _serve()
