"""Files that are read, and what is no file."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sluice.adapters.regular_files import NOT_REGULAR, TOO_LARGE, read_regular
from sluice.errors import Misconfigured


def code(path: Path) -> str:
    with pytest.raises(Misconfigured) as caught:
        read_regular(path, 10)
    assert str(path) in caught.value.where
    return caught.value.code


def test_a_file_is_read_whole_also_through_links(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "file").write_bytes(b"0123456789")
    (tmp_path / "current").symlink_to("v1")
    (tmp_path / "link").symlink_to("current/file")
    assert read_regular(tmp_path / "link", 10) == b"0123456789"


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    server.close()
    for name in ("fifo", "link", "socket", "."):
        assert code(tmp_path / name) == NOT_REGULAR
    assert code(Path("/dev/zero")) == NOT_REGULAR


def test_a_file_over_the_limit_is_refused_whatever_it_says_of_its_size(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(11))
    assert code(tmp_path / "large") == TOO_LARGE
    sizeless = Path("/proc/self/mounts")
    if sizeless.exists():
        assert code(sizeless.resolve()) == TOO_LARGE


def test_what_cannot_be_read_says_why_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for name, says in (("none", "No such file"), ("circle", "symbolic links"), ("a\0b", "null")):
        with pytest.raises(Misconfigured, match=f"cannot read the file: .*{says}.*; fix: so"):
            read_regular(tmp_path / name, 10, "so")
