"""Checkpoints stamped by an authority that openssl plays, and verified by openssl."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.adapters import tls
from sluice.adapters.tiles.folder import LogFolder
from sluice.adapters.timestamps.authority import Authority
from sluice.application.time_stamp import CheckpointStamps
from sluice.errors import Misconfigured, Rejected, Unavailable
from sluice.testing.log import KeptCheckpoints, log_at
from tests.support.time_authority import make_authority, serving

pytestmark = pytest.mark.integration
FILES = tls.Files("auditor")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def url(roots: Path) -> Iterator[str]:
    with serving(roots.parent) as found:
        yield found


def test_a_checkpoint_is_stamped_once_and_openssl_agrees(
    roots: Path, url: str, tmp_path: Path
) -> None:
    log = log_at(tmp_path / "log", KeptCheckpoints())
    log.open()
    authority = Authority(url, roots.read_bytes(), str(roots), FILES)
    stores = [LogFolder(tmp_path / "log"), LogFolder(tmp_path / "copy")]
    stamps = CheckpointStamps(stores, authority, log.key)
    assert stamps.once() is None
    log.append([b"entry"] * 5)
    log.checkpoint()
    began = time.time()
    at_us = stamps.once()
    assert at_us is not None
    assert began - 2 <= at_us / 1e6 <= time.time() + 2
    assert stamps.once() is None
    log.append([b"entry"])
    log.checkpoint()
    assert stamps.once() is not None
    for where in ("log", "copy"):
        for size in (5, 6):
            note = tmp_path / where / "timestamps" / f"{size}.note"
            assert openssl_verifies(note, roots)
            note.write_bytes(note.read_bytes() + b"x")
            assert not openssl_verifies(note, roots)


def openssl_verifies(note: Path, roots: Path) -> bool:
    done = subprocess.run(
        [
            *("openssl", "ts", "-verify", "-data", str(note)),
            *("-in", str(note.with_suffix(".tsr")), "-CAfile", str(roots)),
        ],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def test_the_stamp_of_another_authority_is_refused(url: str, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "other")
    authority = Authority(url, other.read_bytes(), str(other), FILES)
    with pytest.raises(Rejected, match="no time stamp of what was sent"):
        authority.stamp(b"data")


def test_an_answer_to_another_question_is_refused(
    roots: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(url, roots.read_bytes(), str(roots), FILES)
    earlier = authority.stamp(b"data").answer

    class Replays(Authority):
        def _ask(self, body: bytes) -> bytes:
            return earlier

    replays = Replays(url, roots.read_bytes(), str(roots), FILES)
    for data in (b"data", b"other"):
        with pytest.raises(Rejected):
            replays.stamp(data)


def test_what_is_no_authority_is_said(roots: Path, url: str) -> None:
    class Talks(Authority):
        def _ask(self, body: bytes) -> bytes:
            return b"<html>"

    with pytest.raises(Rejected):
        Talks(url, roots.read_bytes(), str(roots), FILES).stamp(b"data")
    with pytest.raises(Unavailable, match="does not answer"):
        Authority("http://127.0.0.1:1", roots.read_bytes(), str(roots), FILES).stamp(b"data")
    for address, pem in (("ftp://x", roots.read_bytes()), (url, b"none")):
        with pytest.raises(Misconfigured):
            Authority(address, pem, "roots.pem", FILES)
