"""Trust in files: followed keys, activations beside what they activate, epochs that only grow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.adapters.onnx import read_trust
from sluice.adapters.trustfiles import ActivationFile, EpochFile, TrustFolder
from sluice.domain.activation import ACTIVATION, MAX_BYTES, Known, SignedActivation
from sluice.domain.clock import DAY_US, SystemClock, to_datetime
from sluice.domain.release import key_id, public_line
from sluice.errors import Misconfigured
from sluice.testing.store import FakeClock

ANN, BOB = (Ed25519PrivateKey.generate() for _ in range(2))
ANNS, BOBS = (key_id(key.public_key()) for key in (ANN, BOB))


def line(key: Ed25519PrivateKey, more: str = "") -> str:
    return public_line(key.public_key(), f"x {more}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "trust"
    found.mkdir()
    (found / "ann.pub").write_text(line(ANN))
    (found / "bob.pub").write_text(line(BOB))
    return found


def test_a_key_taken_out_of_the_folder_is_trusted_no_more(folder: Path) -> None:
    trust = TrustFolder(folder, read_trust, SystemClock())
    assert trust.keys.keys() == {ANNS, BOBS}
    assert trust.poll() is False
    (folder / "ann.pub").unlink()
    assert trust.poll() is True
    assert trust.keys.keys() == {BOBS}


def test_a_revocation_is_read_while_it_runs(folder: Path) -> None:
    trust = TrustFolder(folder, read_trust, SystemClock())
    (folder / "revoked.pub").write_text(f"revoked {ANNS} laptop stolen\n")
    assert trust.poll() is True
    assert trust.keys.keys() == {BOBS}
    assert "laptop stolen" in trust.withdrawn[ANNS]


def test_a_keys_time_ends_without_a_change_of_files(folder: Path) -> None:
    now = SystemClock().now_us()
    day = to_datetime(now + DAY_US).date().isoformat()
    (folder / "ann.pub").write_text(line(ANN, f"not_after={day}"))
    clock = FakeClock(now)
    trust = TrustFolder(folder, read_trust, clock)
    assert ANNS in trust.keys
    clock.advance(DAY_US / 1_000_000)
    assert trust.poll() is True
    assert trust.keys.keys() == {BOBS}
    assert day in trust.withdrawn[ANNS]


def test_while_it_cannot_be_read_nobody_is_trusted_and_that_is_said_once(folder: Path) -> None:
    trust = TrustFolder(folder, read_trust, SystemClock())
    (folder / "ann.pub").write_text("ed25519 nothing\n")
    with pytest.raises(Misconfigured, match="not a public key"):
        trust.poll()
    assert trust.refused is not None
    assert trust.poll() is False
    assert trust.keys == {}
    (folder / "ann.pub").write_text(line(ANN))
    assert trust.poll() is True
    assert trust.refused is None


def test_an_emptied_folder_can_be_read_and_trusts_nobody(folder: Path) -> None:
    trust = TrustFolder(folder, read_trust, SystemClock())
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(Misconfigured, match="no public key"):
        trust.poll()
    assert (trust.refused, trust.keys) == (None, {})


# ---------------------------------------------------------------- activations


def test_an_activation_is_read_again_when_the_link_points_elsewhere(tmp_path: Path) -> None:
    for name in ("one", "two", "none"):
        (tmp_path / name).mkdir()
    one, two = (SignedActivation(f"{{{n}}}\n".encode(), (b"ed25519",)) for n in (1, 2))
    ActivationFile(tmp_path / "one").write(one)
    ActivationFile(tmp_path / "two").write(two)
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "one")
    file = ActivationFile(link)
    assert file.read() == file.read() == one
    for name, expected in (("two", two), ("none", None), ("one", one)):
        link.unlink()
        link.symlink_to(tmp_path / name)
        assert file.read() == expected
    assert [p.name for p in (tmp_path / "one").iterdir()] == [ACTIVATION]


def test_what_is_no_small_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    file = ActivationFile(tmp_path)
    os.mkfifo(tmp_path / ACTIVATION)
    with pytest.raises(Misconfigured, match="no regular file"):
        file.read()
    (tmp_path / ACTIVATION).unlink()
    (tmp_path / ACTIVATION).write_bytes(b"x" * (MAX_BYTES + 1))
    with pytest.raises(Misconfigured, match="over"):
        file.read()


# ---------------------------------------------------------------- epochs

LOW, HIGH = Known(1, "aa"), Known(2, "bb")


@pytest.mark.parametrize("kept", [True, False], ids=["in a file", "in memory"])
def test_epochs_only_grow(tmp_path: Path, kept: bool) -> None:
    epochs = EpochFile(tmp_path / "epochs.json" if kept else None)
    assert epochs.known("policy") == Known()
    for given, highest in ((LOW, LOW), (HIGH, HIGH), (LOW, HIGH)):
        epochs.raise_to("policy", given)
        assert epochs.known("policy") == highest
    assert epochs.known("release") == Known()


def test_another_process_knows_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "epochs.json"
    one, two = EpochFile(path), EpochFile(path)
    one.raise_to("policy", HIGH)
    two.raise_to("release", LOW)
    two.raise_to("policy", LOW)
    assert EpochFile(path).known("policy") == one.known("policy") == HIGH
    assert one.known("release") == LOW


def test_a_file_that_was_emptied_forgets_nothing_that_this_process_saw(tmp_path: Path) -> None:
    path = tmp_path / "epochs.json"
    epochs = EpochFile(path)
    epochs.raise_to("policy", HIGH)
    path.unlink()
    assert epochs.known("policy") == HIGH


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "epochs.json"
    path.write_text("[]")
    with pytest.raises(Misconfigured, match="not a file of epochs"):
        EpochFile(path).known("policy")


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot write"):
        EpochFile(tmp_path / "none" / "epochs.json").raise_to("policy", LOW)
