"""Regular files are read, and nothing else is opened."""

from __future__ import annotations

import errno
import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from idvl.files import open_regular, read_bytes, read_text


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
