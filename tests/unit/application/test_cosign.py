"""A witness says yes to one history of a log, and why it says no to anything else."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.application.cosign import BACK_MAX_S, NotCosigned, Witness
from sluice.audit.checkpoints import open_checkpoint
from sluice.audit.notes import Key, Note, parse_note, sign
from sluice.audit.submissions import Submission, cosignatures
from sluice.errors import Corrupt, Misconfigured, Unavailable
from sluice.testing.witness import (
    OF_LOG,
    OF_WITNESS,
    ORIGIN,
    WITNESS_NAME,
    GrownLog,
    MemoryRemembered,
)

LOG = GrownLog(40)
FORK = GrownLog(40, shares=7, fork="other")
NOW_S = 1_800_000_000


class FixedClock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def now_us(self) -> int:
        return self.now_s * 1_000_000


def a_witness(
    remembered: MemoryRemembered | None = None,
    *,
    clock: FixedClock | None = None,
    logs: list[Key] | None = None,
    private: Ed25519PrivateKey = OF_WITNESS,
) -> Witness:
    return Witness(
        WITNESS_NAME,
        private,
        [LOG.key] if logs is None else logs,
        MemoryRemembered() if remembered is None else remembered,
        clock or FixedClock(),
    )


def refused(witness: Witness, body: bytes) -> tuple[str, int | None]:
    with pytest.raises(NotCosigned) as error:
        witness.add_checkpoint(body)
    return error.value.code, error.value.size


def test_a_growing_log_is_cosigned_with_the_time() -> None:
    clock = FixedClock()
    witness = a_witness(clock=clock)
    for old, size in ((0, 3), (3, 3), (3, 8), (8, 40)):
        clock.now_s += 5
        answer = witness.add_checkpoint(LOG.submission(old, size))
        whole = LOG.signed(size) + answer
        opened = open_checkpoint(whole, ORIGIN, LOG.key, [witness.key])
        assert opened.cosigned == {WITNESS_NAME: clock.now_s}
        assert witness.last(ORIGIN) == whole
    assert witness.sizes == {ORIGIN: 40}


def test_what_it_cosigned_before_is_remembered_by_the_next_process() -> None:
    remembered = MemoryRemembered()
    a_witness(remembered).add_checkpoint(LOG.submission(0, 9))
    again = a_witness(remembered)
    assert again.sizes == {ORIGIN: 9}
    assert refused(again, FORK.submission(0, 12)) == ("behind", 9)
    assert refused(again, FORK.submission(9, 12)) == ("inconsistent", 9)
    again.add_checkpoint(LOG.submission(9, 12))


def test_a_fork_is_refused_and_two_roots_of_one_size_are_kept_as_proof() -> None:
    remembered = MemoryRemembered()
    witness = a_witness(remembered)
    witness.add_checkpoint(LOG.submission(0, 9))
    assert refused(witness, FORK.submission(9, 9)) == ("other_root", 9)
    assert refused(witness, FORK.submission(0, 9)) == ("other_root", 9)
    assert refused(witness, FORK.submission(7, 9)) == ("other_root", 9)
    assert remembered.forks == [FORK.signed(9)] * 3
    assert refused(witness, FORK.submission(9, 10)) == ("inconsistent", 9)
    assert witness.sizes == {ORIGIN: 9}


def test_what_is_wrong_with_a_submission_is_said() -> None:
    witness = a_witness()
    witness.add_checkpoint(LOG.submission(0, 8))
    other = GrownLog(8, origin="test/eu/1")
    stranger = GrownLog(9, private=OF_WITNESS)
    named = sign(LOG.signed(9).decode().partition("\n\n")[0] + "\n", ORIGIN, OF_LOG)
    broken = Note(parse_note(LOG.signed(10)).text, [named])
    assert refused(witness, other.submission(0, 8))[0] == "unknown_log"
    assert refused(witness, stranger.submission(8, 9))[0] == "not_signed"
    assert refused(witness, bytes(Submission(8, [], bytes(broken))))[0] == "not_signed"
    assert refused(witness, bytes(Submission(9, [], LOG.signed(8))))[0] == "shrinks"
    assert refused(witness, LOG.submission(7, 9)) == ("behind", 8)
    assert refused(witness, bytes(Submission(8, [], LOG.signed(9)))) == ("inconsistent", 8)
    longer = [*LOG.proof(8, 9), bytes(32)]
    assert refused(witness, bytes(Submission(8, longer, LOG.signed(9)))) == ("inconsistent", 8)
    assert refused(witness, bytes(Submission(8, longer, LOG.signed(8)))) == ("inconsistent", 8)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0\n\n",
        LOG.signed(3),
        b"old 0\n" + LOG.signed(3),
        b"old 00\n\n" + LOG.signed(3),
        b"old -1\n\n" + LOG.signed(3),
        b"old 3 \n\n" + LOG.signed(3),
        b"old 3\nAAAA\n\n" + LOG.signed(3),
        b"old 3\n\xff\n\n" + LOG.signed(3),
        b"old 3\r\n\n" + LOG.signed(3),
        b"old 9223372036854775808\n\n" + LOG.signed(3),
        b"old 0\n" + (b"A" * 43 + b"=\n") * 64 + b"\n" + LOG.signed(3),
        b"old 0\n\n" + LOG.signed(3)[:-1],
        LOG.submission(0, 3) + b"x",
    ],
)
def test_a_body_of_another_form_is_malformed(body: bytes) -> None:
    assert refused(a_witness(), body)[0] == "malformed"


def test_an_empty_tree_has_one_root() -> None:
    witness = a_witness()
    witness.add_checkpoint(LOG.submission(0, 0))
    body = bytes(Submission(0, [], LOG.signed(0, root=bytes(32))))
    assert refused(witness, body) == ("other_root", 0)


def test_a_log_may_change_its_key_and_signs_with_both_meanwhile() -> None:
    fresh = GrownLog(40, private=Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34))))
    remembered = MemoryRemembered()
    a_witness(remembered).add_checkpoint(LOG.submission(0, 8))
    witness = a_witness(remembered, logs=[LOG.key, fresh.key])
    witness.add_checkpoint(fresh.submission(8, 9))
    retired = a_witness(remembered, logs=[fresh.key])
    assert refused(retired, LOG.submission(9, 10))[0] == "not_signed"
    retired.add_checkpoint(fresh.submission(9, 10))


def test_a_note_full_of_signatures_leaves_what_can_be_read_again() -> None:
    note = parse_note(LOG.signed(5))
    full = bytes(Note(note.text, note.signatures * 64))
    remembered = MemoryRemembered()
    a_witness(remembered).add_checkpoint(bytes(Submission(0, [], full)))
    assert a_witness(remembered).sizes == {ORIGIN: 5}


def test_time_does_not_run_back() -> None:
    clock = FixedClock()
    witness = a_witness(clock=clock)
    witness.add_checkpoint(LOG.submission(0, 3))
    clock.now_s -= BACK_MAX_S
    answer = witness.add_checkpoint(LOG.submission(3, 4))
    opened = open_checkpoint(LOG.signed(4) + answer, ORIGIN, LOG.key, [witness.key])
    assert opened.cosigned == {WITNESS_NAME: NOW_S}
    clock.now_s -= 1
    with pytest.raises(Unavailable, match="clock is 3 s behind"):
        witness.add_checkpoint(LOG.submission(4, 5))
    assert witness.sizes == {ORIGIN: 4}


def test_what_cannot_be_remembered_is_not_cosigned() -> None:
    class Full(MemoryRemembered):
        def write(self, origin: str, note: bytes) -> None:
            raise Unavailable("the disk is full", code="not_remembered")

    witness = a_witness(Full())
    with pytest.raises(Unavailable):
        witness.add_checkpoint(LOG.submission(0, 3))
    assert witness.sizes == {ORIGIN: 0}


def test_a_memory_that_is_not_this_witness_own_is_refused() -> None:
    remembered = MemoryRemembered()
    a_witness(remembered).add_checkpoint(LOG.submission(0, 3))
    note = remembered.notes[ORIGIN]
    of_log = note.index(b"\xe2\x80\x94")
    of_witness = note.index(b"\xe2\x80\x94", of_log + 1)
    for at in [*range(0, of_log, 5), *range(of_witness, len(note), 5)]:
        changed = bytearray(note)
        changed[at] ^= 1
        remembered.notes[ORIGIN] = bytes(changed)
        with pytest.raises(Corrupt, match=r"runbooks/witness\.md"):
            a_witness(remembered)
    remembered.notes[ORIGIN] = note
    with pytest.raises(Corrupt, match="did not cosign"):
        a_witness(remembered, private=OF_LOG)
    other = GrownLog(1, origin="test/eu/1")
    remembered.notes[other.origin] = note
    with pytest.raises(Corrupt, match="it is of"):
        a_witness(remembered, logs=[other.key])


def test_a_witness_without_logs_or_with_a_name_with_blanks_does_not_start() -> None:
    with pytest.raises(Misconfigured, match="knows no log"):
        a_witness(logs=[])
    with pytest.raises(Misconfigured, match="blanks"):
        Witness("a witness", OF_WITNESS, [LOG.key], MemoryRemembered(), FixedClock())


@pytest.mark.parametrize("seed", range(20))
def test_all_that_is_ever_cosigned_is_one_history(seed: int) -> None:
    choose = random.Random(seed)
    forks = [GrownLog(40, shares=choose.randrange(30), fork=str(n)) for n in range(3)]
    remembered = MemoryRemembered()
    cosigned: list[tuple[int, bytes]] = []
    witness = a_witness(remembered)
    for _ in range(60):
        log = choose.choice([LOG, *forks])
        old, size = sorted((choose.randrange(41), choose.randrange(41)))
        if choose.random() < 0.7:
            old = witness.sizes[ORIGIN]
            size = choose.randint(old, 40)
        try:
            answer = witness.add_checkpoint(log.submission(old, size))
        except NotCosigned:
            continue
        assert cosignatures(answer, log.signed(size), witness.key)
        cosigned.append((size, log.roots[size]))
        if choose.random() < 0.2:
            witness = a_witness(remembered)
    [history] = [
        log for log in [LOG, *forks] if all(log.roots[size] == root for size, root in cosigned)
    ][:1]
    assert history.roots[cosigned[-1][0]] == cosigned[-1][1]
    assert [size for size, _ in cosigned] == sorted(size for size, _ in cosigned)
