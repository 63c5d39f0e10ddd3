"""Regular files are read, and nothing else is opened."""

from __future__ import annotations

import errno
import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from idvl.files import open_regular, read_bytes, read_text
from tests.support import processes


def test_regular_files_and_links_to_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("é")
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "link") == "é" and read_bytes(tmp_path / "file", 2) == "é".encode()
    with pytest.raises(OSError, match="more than 1 bytes"):
        read_bytes(tmp_path / "file", 1)


def test_a_limit_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    tracemalloc.start()
    try:
        read_bytes(tmp_path / "file", 1 << 30)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device"])
def test_whatever_else_there_is_is_not_opened(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    path = Path("/dev/zero") if kind == "device" else Path("odd")
    if kind == "FIFO":
        os.mkfifo(path)
    if kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    monkeypatch.setattr(os, "open", lambda *args: pytest.fail("opened"))
    with pytest.raises(OSError, match=f"a {kind}, not a regular file") as caught:
        open_regular(path)
    assert caught.value.errno == errno.EINVAL


def test_folders_and_missing_files_say_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


APPEND = """
import resource, signal, sys
from idvl.files import append
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
try:
    append(sys.argv[1], b"first\\n")
    append(sys.argv[1], b"second\\n")
finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
"""


def test_what_does_not_fit_leaves_no_part_behind(tmp_path: Path) -> None:
    """The disk takes four bytes of the second line before it refuses the rest."""
    done = processes.run("-c", APPEND, tmp_path / "lines")
    assert "RunError: the disk of" in done.stderr and "allows no file so large" in done.stderr
    assert (tmp_path / "lines").read_bytes() == b"first\n"
