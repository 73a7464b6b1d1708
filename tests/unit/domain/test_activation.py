"""Activations: what is signed, by how many, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.domain.activation import (
    AHEAD_MAX_US,
    Activation,
    Checked,
    Known,
    SignedActivation,
    check,
    named_signers,
    statement_of,
)
from sluice.domain.clock import DAY_US, from_datetime, to_datetime
from sluice.domain.release import (
    TrustedKeys,
    check_signature,
    key_id,
    parse_trust,
    public_line,
    sign,
)
from sluice.errors import Corrupt, Misconfigured, SluiceError

ANN, BOB, EVE = (Ed25519PrivateKey.generate() for _ in range(3))
TRUSTED = TrustedKeys({key_id(k.public_key()): k.public_key() for k in (ANN, BOB)})
DIGEST = "ab" * 32
NOW = 1_780_000_000_000_000


def signed(*keys: Ed25519PrivateKey, **changes: Any) -> SignedActivation:
    given = {
        "what": "policy", "id": "default@abababababab", "digest": DIGEST, "epoch": NOW,
        "act": "activate", "who": "ann", "why": "a new list",
    }  # fmt: skip
    held = statement_of(Activation(**(given | changes)))
    for key in keys or (ANN,):
        held = held.approved(key)
    return held


def ask(given: SignedActivation | None, **changes: Any) -> Checked | None:
    asked: dict[str, Any] = {
        "what": "policy", "digest": DIGEST, "approvals": 0, "known": Known(), "now_us": NOW,
    }  # fmt: skip
    return check(given, TRUSTED, **(asked | changes))


def test_one_by_a_trusted_key_holds() -> None:
    checked = ask(signed())
    assert checked is not None
    assert checked.signers == {key_id(ANN.public_key())}
    assert (checked.activation.who, checked.activation.why) == ("ann", "a new list")


def test_a_note_is_read_as_it_was_written() -> None:
    written = signed(ANN, BOB)
    assert SignedActivation.parse(written.note()) == written


@pytest.mark.parametrize("approvals", [0, 1])
def test_none_is_needed_only_where_no_approval_is_and_none_was_before(approvals: int) -> None:
    if not approvals:
        assert ask(None) is None
        with pytest.raises(Corrupt) as refused:
            ask(None, known=Known(1, DIGEST))
        assert refused.value.code == "epoch"
    else:
        with pytest.raises(Corrupt) as refused:
            ask(None, approvals=approvals)
        assert refused.value.code == "unapproved"


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ((), "unapproved"),
        ((ANN,), "unapproved"),
        ((ANN, ANN), "unapproved"),
        ((ANN, EVE), "corrupt"),
    ],
)
def test_a_threshold_counts_different_trusted_keys(
    keys: tuple[Ed25519PrivateKey, ...], code: str
) -> None:
    given = signed(*keys) if keys else signed()._replace(approvals=())
    with pytest.raises(Corrupt) as refused:
        ask(given, approvals=2)
    assert refused.value.code == code
    assert ask(signed(ANN, BOB), approvals=2)


def test_one_that_is_there_needs_a_signature_even_where_none_is_asked_for() -> None:
    with pytest.raises(Corrupt, match="0 approved it, 1 must"):
        ask(signed()._replace(approvals=()))


def test_every_flipped_byte_is_found() -> None:
    note = signed(ANN, BOB).note()
    for at in range(len(note) - 1):  # the last one ends the last line
        flipped = note[:at] + bytes([note[at] ^ 1]) + note[at + 1 :]
        with pytest.raises(SluiceError):
            ask(SignedActivation.parse(flipped), approvals=2)


@pytest.mark.parametrize(
    "changes", [{"what": "release"}, {"digest": "cd" * 32}], ids=["another kind", "other content"]
)
def test_it_is_of_this_content_alone(changes: dict[str, str]) -> None:
    with pytest.raises(Corrupt, match="it activates"):
        ask(signed(**changes))


def test_epochs_only_grow() -> None:
    assert ask(signed(), known=Known(NOW - 1, "cd" * 32))
    assert ask(signed(), known=Known(NOW, DIGEST))
    for known in (Known(NOW + 1, DIGEST), Known(NOW, "cd" * 32)):
        with pytest.raises(Corrupt, match="sluice policy rollback") as refused:
            ask(signed(), known=known)
        assert refused.value.code == "epoch"


def test_an_epoch_is_not_ahead_of_our_clock() -> None:
    assert ask(signed(epoch=NOW + AHEAD_MAX_US))
    with pytest.raises(Misconfigured) as refused:
        ask(signed(epoch=NOW + AHEAD_MAX_US + 1))
    assert refused.value.code == "epoch"


@pytest.mark.parametrize(
    "changes",
    [
        {"who": ""},
        {"why": "a\nb"},
        {"why": "x" * 201},
        {"id": "\x1b[2J"},
        {"who": "\u202enna"},
        {"why": "a\u2028b"},
    ],
)
def test_what_a_person_reads_is_words(changes: dict[str, str]) -> None:
    with pytest.raises(Misconfigured):
        ask(signed(**changes))


def test_who_is_named_without_a_check_is_a_key_id_at_least() -> None:
    written = signed(ANN)
    forged = (*written.approvals, b"ed25519 \x1b[2J x", b"", b"ed25519")
    assert named_signers(written._replace(approvals=forged)) == [key_id(ANN.public_key())]


# ---------------------------------------------------------------- keys


def trust(line: str = "", *more: str) -> TrustedKeys:
    own = public_line(ANN.public_key(), f"ann {line}".strip())
    return parse_trust("\n".join([own, *more]), "trust")


def test_a_keys_trust_ends_when_it_says() -> None:
    keys = trust("not_after=2027-01-31")
    end = from_datetime(to_datetime(0).replace(year=2027, month=1, day=31))
    name = key_id(ANN.public_key())
    assert name in keys.at(end - 1).keys
    assert name not in keys.at(end).keys
    signature = sign(b"x", ANN)
    assert check_signature(b"x", signature, keys.at(end - 1)) == name
    with pytest.raises(Corrupt, match="ended on 2027-01-31") as refused:
        check_signature(b"x", signature, keys.at(end))
    assert refused.value.code == "key_withdrawn"


def test_a_key_without_an_end_is_trusted_for_good() -> None:
    assert trust().at(NOW + 3_650 * DAY_US).keys


def test_a_revoked_key_is_named_with_its_reason_wherever_its_own_line_stands() -> None:
    name = key_id(ANN.public_key())
    keys = trust("", f"revoked {name} laptop stolen")
    assert keys.keys == {}
    with pytest.raises(Corrupt, match="revoked: laptop stolen") as refused:
        check_signature(b"x", sign(b"x", ANN), keys)
    assert refused.value.code == "key_withdrawn"


@pytest.mark.parametrize(
    "line",
    ["revoked", "revoked nobody why", "revoked 12", "ed25519 AAAA x"],
)
def test_a_line_that_says_nothing_is_refused_by_its_number(line: str) -> None:
    with pytest.raises(Misconfigured, match="trust:3"):
        trust("", line)


@pytest.mark.parametrize("end", ["soon", "2027-13-01", "", "2027-01-31T12:00", "9999-99-99"])
def test_an_end_that_is_no_moment_is_refused(end: str) -> None:
    with pytest.raises(Misconfigured, match="trust:1"):
        trust(f"not_after={end}")
