"""One suite for what a witness remembers, in memory and in files; and what only files can do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.adapters.witness.remembered import FORKS_MAX, RememberedFiles
from sluice.application.cosign import Remembered
from sluice.errors import Misconfigured, Unavailable
from sluice.testing.witness import MemoryRemembered


@pytest.fixture(params=["memory", "files"])
def remembered(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remembered]:
    if request.param == "memory":
        yield MemoryRemembered()
        return
    files = RememberedFiles(tmp_path / "witness")
    yield files
    files.close()


def test_the_last_note_of_each_log_is_read_back(remembered: Remembered) -> None:
    assert remembered.read("prod/eu/0") is None
    remembered.write("prod/eu/0", b"first")
    remembered.write("prod/eu/1", b"of another")
    remembered.write("prod/eu/0", b"second")
    remembered.keep_fork("prod/eu/0", b"a fork")
    assert remembered.read("prod/eu/0") == b"second"
    assert remembered.read("prod/eu/1") == b"of another"


@pytest.mark.parametrize("origin", ["../../etc/passwd", "a\x00b", "x" * 5000, ".", "\u202e"])
def test_an_origin_may_be_any_text(remembered: Remembered, origin: str) -> None:
    remembered.write(origin, b"note")
    assert remembered.read(origin) == b"note"


def test_a_second_witness_on_the_same_folder_does_not_start(tmp_path: Path) -> None:
    first = RememberedFiles(tmp_path)
    with pytest.raises(Misconfigured, match="another witness"):
        RememberedFiles(tmp_path)
    first.write("prod/eu/0", b"note")
    first.close()
    second = RememberedFiles(tmp_path)
    assert second.read("prod/eu/0") == b"note"
    second.close()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match=r"witness\.state_dir"):
        RememberedFiles(tmp_path / "file")


def test_a_disk_that_takes_nothing_leaves_the_last_note(tmp_path: Path) -> None:
    files = RememberedFiles(tmp_path)
    files.write("prod/eu/0", b"first")
    [note] = tmp_path.glob("*.note")
    aside = note.with_suffix(".new")
    aside.mkdir()
    with pytest.raises(Unavailable, match="cannot remember"):
        files.write("prod/eu/0", b"second")
    assert files.read("prod/eu/0") == b"first"
    aside.rmdir()
    files.write("prod/eu/0", b"second")
    assert files.read("prod/eu/0") == b"second"
    files.close()


def test_a_link_put_aside_leads_nowhere(tmp_path: Path) -> None:
    files = RememberedFiles(tmp_path / "witness")
    files.write("prod/eu/0", b"first")
    [note] = (tmp_path / "witness").glob("*.note")
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    note.with_suffix(".new").symlink_to(theirs)
    with pytest.raises(Unavailable):
        files.write("prod/eu/0", b"second")
    assert theirs.read_text() == "precious"
    files.close()


def test_proofs_against_a_log_are_kept_up_to_a_number(tmp_path: Path) -> None:
    files = RememberedFiles(tmp_path)
    for number in range(FORKS_MAX + 5):
        files.keep_fork("prod/eu/0", f"fork {number}".encode())
    kept = sorted(path.read_text() for path in (tmp_path / "forks").glob("*.note"))
    assert kept == sorted(f"fork {number}" for number in range(FORKS_MAX))
    files.close()
