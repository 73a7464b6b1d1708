"""A log asks its witnesses, and goes on whatever they say."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.adapters.tiles.ahead import WriteAheadFiles
from sluice.adapters.tiles.folder import LogFolder
from sluice.application.append_log import AppendLog
from sluice.application.cosign import Witness
from sluice.application.cosigners import AsksWitness, Behind, Cosigners
from sluice.audit.checkpoints import open_checkpoint
from sluice.audit.notes import WITNESS, Key
from sluice.domain.clock import SystemClock
from sluice.errors import Misconfigured, Unavailable
from sluice.testing.log import KeptCheckpoints
from sluice.testing.witness import (
    OF_LOG,
    ORIGIN,
    AskedDirectly,
    GrownLog,
    MemoryRemembered,
)

LOG = GrownLog(40)
FORK = GrownLog(40, shares=7, fork="other")


def witness(number: int = 1) -> Witness:
    private = Ed25519PrivateKey.from_private_bytes(bytes([number] * 32))
    name = f"witness.example/{number}"
    return Witness(name, private, [LOG.key], MemoryRemembered(), SystemClock())


class Asked:
    """Cosigners of some witnesses, and what was counted."""

    def __init__(self, *witnesses: AsksWitness, wait_s: float = 30.0) -> None:
        self.counted: Counter[tuple[str, ...]] = Counter()
        self.witnesses = witnesses
        self.cosigners = Cosigners(witnesses, wait_s=wait_s, count=self._count)

    def _count(self, metric: str, /, *labels: str, by: float = 1) -> None:
        self.counted[labels] += int(by)

    def cosigned(self, size: int, log: GrownLog = LOG) -> set[str]:
        note = self.cosigners.cosign(log.signed(size), log.complete)
        keys = [one.key for one in self.witnesses]
        return set(open_checkpoint(note, ORIGIN, log.key, keys).cosigned)


def test_each_checkpoint_carries_the_cosignatures_of_all() -> None:
    asked = Asked(AskedDirectly(witness(1)), AskedDirectly(witness(2)))
    for size in (1, 5, 5, 40):
        assert asked.cosigned(size) == {"witness.example/1", "witness.example/2"}
    assert set(asked.counted) == {(f"witness.example/{n}", "cosigned") for n in (1, 2)}


def test_a_log_that_starts_again_learns_from_the_witness_what_it_saw() -> None:
    one = witness()
    assert Asked(AskedDirectly(one)).cosigned(9)
    assert Asked(AskedDirectly(one)).cosigned(20)


def test_without_witnesses_a_checkpoint_stays_as_it_is() -> None:
    assert Asked().cosigners.cosign(LOG.signed(3), LOG.complete) == LOG.signed(3)


def test_a_log_that_is_behind_its_witness_or_forked_is_told() -> None:
    one = witness()
    assert Asked(AskedDirectly(one)).cosigned(20)
    behind = Asked(AskedDirectly(one))
    assert not behind.cosigned(9)
    assert behind.counted == {("witness.example/1", "ahead"): 1, ("ahead",): 1}
    forked = Asked(AskedDirectly(one))
    assert not forked.cosigned(20, FORK)
    assert not forked.cosigned(21, FORK)
    assert forked.counted == {
        ("witness.example/1", "other_root"): 1,
        ("witness.example/1", "inconsistent"): 1,
        ("other_root",): 1,
        ("inconsistent",): 1,
    }


class Slow(AskedDirectly):
    """Answers when it is let."""

    def __init__(self, one: Witness) -> None:
        super().__init__(one)
        self.let = threading.Event()
        self.answered = threading.Event()

    def add_checkpoint(self, body: bytes) -> bytes | Behind:
        self.let.wait(30)
        try:
            return super().add_checkpoint(body)
        finally:
            self.answered.set()


def test_one_that_is_late_holds_up_nobody_and_is_asked_again_once_it_has_answered() -> None:
    slow = Slow(witness(2))
    asked = Asked(AskedDirectly(witness(1)), slow, wait_s=0.2)
    assert asked.cosigned(5) == {"witness.example/1"}
    assert asked.cosigned(6) == {"witness.example/1"}
    assert asked.counted["witness.example/2", "late"] == 2
    slow.let.set()
    assert slow.answered.wait(30)
    both = {"witness.example/1", "witness.example/2"}
    assert any(asked.cosigned(7) == both for _ in range(500))


class Says:
    """Answers what it is told to."""

    def __init__(self, answer: bytes | Behind | Exception) -> None:
        private = Ed25519PrivateKey.from_private_bytes(bytes([9] * 32))
        self.key = Key("witness.example/9", WITNESS, private.public_key())
        self._answer = answer

    def add_checkpoint(self, body: bytes) -> bytes | Behind:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


OTHERS = witness(3).add_checkpoint(LOG.submission(0, 5))
FORGED = witness(9).add_checkpoint(LOG.submission(0, 4))


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (b"", "no_witness"),
        (b"<html>", "no_witness"),
        (b"\xff", "no_witness"),
        (OTHERS, "no_witness"),
        (FORGED, "no_witness"),
        (OTHERS * 65, "no_witness"),
        (b"\n\n" + OTHERS, "no_witness"),
        (Behind(3), "behind"),
        (Behind(0), "other_root"),
        (Behind(2**62), "ahead"),
        (Unavailable("away"), "unavailable"),
    ],
)
def test_whatever_a_witness_says_the_checkpoint_stays_the_logs(
    answer: bytes | Behind | Exception, result: str
) -> None:
    asked = Asked(AskedDirectly(witness(1)), Says(answer))
    assert asked.cosigned(5) == {"witness.example/1"}
    if result == "behind":  # it says 3 to both requests
        result = "other_root"
    assert asked.counted["witness.example/9", result] == 1


def test_two_witnesses_of_one_name_or_nine_are_refused() -> None:
    with pytest.raises(Misconfigured, match="a name of its own"):
        Asked(AskedDirectly(witness(1)), AskedDirectly(witness(1)))
    with pytest.raises(Misconfigured, match="at most 8"):
        Asked(*(AskedDirectly(witness(n)) for n in range(1, 10)))


def test_a_log_shows_checkpoints_that_its_witnesses_cosigned_after_a_start_too(
    tmp_path: Path,
) -> None:
    one = witness()
    kept = KeptCheckpoints()
    store = LogFolder(tmp_path / "log")
    for _ in range(2):
        log = AppendLog(
            store,
            WriteAheadFiles(tmp_path / "ahead"),
            kept.writer(),
            origin=ORIGIN,
            private=OF_LOG,
            cosign=Cosigners([AskedDirectly(one)], wait_s=30).cosign,
        )
        log.open()
        for count in (1, 300, 77):
            log.append([b"entry"] * count)
            log.checkpoint()
            shown = open_checkpoint(store.read("checkpoint"), ORIGIN, log.key, [one.key])
            assert shown.checkpoint.size == log.size
            assert list(shown.cosigned) == ["witness.example/1"]
        log.close()
