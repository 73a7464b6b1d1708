"""An activation: the signed word that a release or a policy may take effect now.

``activation.note`` lies in the folder of what it is about: a statement in JSON, an empty line, and
a line of signature for each approver, as in a signed note (C2SP signed-note). The statement names
the exact content by its digest, an epoch that only ever grows, who asked for it and why. A later
statement about an older release is how one goes back; an older statement is worth nothing once a
later one has been seen. That, and the threshold of signatures, are The Update Framework's (TUF
1.0: rollback attacks, role thresholds). Pure: bytes in, a checked activation or an error out.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import UNSET, Meta, UnsetType

from sluice.domain.clock import MINUTE_US, to_datetime
from sluice.domain.records.authorization import MicrosUtc
from sluice.domain.release import RELEASE_ID, Ppm, ReleaseId, Sha256, Trusted, check_signature, sign
from sluice.errors import Corrupt, Misconfigured

ACTIVATION = "activation.note"
MAX_BYTES = 16 * 1024
"""A statement has up to 900 bytes, an approval 114."""
AHEAD_MAX_US = 5 * MINUTE_US
"""What a signer's clock may be ahead of ours. An epoch of the year 3000 would be the last one."""

What = Literal["release", "policy"]
RELEASE: What = "release"
POLICY: What = "policy"
Act = Literal["activate", "rollback", "force", "reset", "shadow", "canary", "promote"]
"""activate: the usual one. rollback: an older one on purpose. force: without a dry run. reset: the
breaker's trips are over; without a dry run. shadow, canary, promote: the steps of a release beside
others (:mod:`sluice.application.promote`)."""
FORCED: frozenset[Act] = frozenset({"force", "reset"})
"""Acts by which somebody answers for the outcomes in the dry run's stead."""
Words = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern="^[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]*$",
    ),
]
"""What a person reads: no control characters, nor what turns the direction of a line or hides."""

FIRST_SHARE_MAX_PPM = 10_000
"""Of the cards, that a canary may answer which has answered none yet: 1 %."""
MOVED = "moved"
"""Code of a step that somebody else's came before."""
EPOCH, UNAPPROVED = "epoch", "unapproved"
"""Codes: older than what was seen, or the same epoch for something else; too few signatures."""


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release: its id, which is its folder's name, and SHA-256 of its manifest.json."""

    id: ReleaseId
    digest: Sha256


class Canary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release that answers a share of the cards."""

    release: Named
    share_ppm: Ppm


class Activation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The statement of an ``activation.note``.

    id: the release's, or the policy's; for people. digest: SHA-256 of the release's manifest.json,
    or of what the policy means. epoch: when the act was signed, microseconds UTC.

    Beside several releases it is of the champion, and names the others. shadow: scores, and never
    answers. canary: answers a share. before: the champion of before, to which a rollback goes.
    after: epoch of the activation that it took the place of.
    """

    v: Literal[1] = 1
    what: What
    id: Words
    digest: Sha256
    epoch: MicrosUtc
    act: Act
    who: Words
    why: Words
    shadow: Named | UnsetType = UNSET
    canary: Canary | UnsetType = UNSET
    before: Named | UnsetType = UNSET
    after: MicrosUtc | UnsetType = UNSET

    @property
    def champion(self) -> Named:
        """What it lets decide. Of a folder of releases, whose id names a folder; see
        :func:`champion_of`."""
        return Named(self.id, self.digest)


class SignedActivation(NamedTuple):
    """A statement's exact bytes, and a line a signature over them."""

    statement: bytes
    approvals: tuple[bytes, ...]

    @classmethod
    def parse(cls, note: bytes) -> SignedActivation:
        """Split a note; whatever it holds, there are two parts."""
        statement, _, approvals = note.partition(b"\n\n")
        return cls(statement + b"\n", tuple(approvals.splitlines()))

    def note(self) -> bytes:
        """The file's bytes."""
        return self.statement + b"\n" + b"".join(line + b"\n" for line in self.approvals)

    def approved(self, key: Ed25519PrivateKey) -> SignedActivation:
        """The same with one more signature."""
        return self._replace(approvals=(*self.approvals, sign(self.statement, key).rstrip()))


class Checked(NamedTuple):
    """An activation, the ids of the keys that approved it, and the exact bytes that they signed."""

    activation: Activation
    signers: frozenset[str]
    statement: bytes


class Known(NamedTuple):
    """The highest epoch that has decided, and what it was of."""

    epoch: int = 0
    digest: str = ""


def statement_of(activation: Activation) -> SignedActivation:
    """A statement that nobody has signed yet."""
    return SignedActivation(msgspec.json.encode(activation) + b"\n", ())


def decode(statement: bytes, where: str = ACTIVATION) -> Activation:
    """Parse a statement, strictly. Raises Misconfigured."""
    try:
        return msgspec.json.decode(statement, type=Activation)
    except msgspec.DecodeError as exc:
        raise Misconfigured(str(exc), where=where, fix="docs/reference/activation.md") from exc


def named_signers(signed: SignedActivation) -> list[str]:
    """Ids of the keys that a note names as its approvers; nothing is checked."""
    words = [line.split() for line in signed.approvals]
    return [ws[1].decode() for ws in words if len(ws) > 1 and re.fullmatch(b"[0-9a-f]{16}", ws[1])]


def signers_of(signed: SignedActivation, trusted: Trusted) -> frozenset[str]:
    """Ids of the keys that approved; of two signatures by one key, one counts. Raises Corrupt if
    any of them is malformed, not trusted (any more), or not over these bytes."""
    return frozenset(
        check_signature(signed.statement, line, trusted, "the activation")
        for line in signed.approvals
    )


def champion_of(signed: SignedActivation | None, trusted: Trusted) -> str | None:
    """Id of the release that a folder's activation lets decide, None without one. Raises Corrupt,
    Misconfigured if nobody vouches for it, or it cannot be read."""
    if signed is None:
        return None
    if not signers_of(signed, trusted):
        raise Corrupt("nobody signed it", where=ACTIVATION, code=UNAPPROVED)
    name = decode(signed.statement).id
    if re.fullmatch(RELEASE_ID, name) is None:
        raise Misconfigured("it names no release", where=ACTIVATION)
    return name


def check(
    signed: SignedActivation | None,
    trusted: Trusted,
    *,
    what: What,
    digest: str,
    approvals: int,
    known: Known,
    now_us: int,
) -> Checked | None:
    """Whether this digest may decide, by its folder's activation. None without one, where none is
    needed.

    approvals: signatures by different keys that are needed; 0 needs no activation. An activation
    that is there must have one all the same. known: the highest epoch seen. Signatures come first:
    nothing is parsed that nobody vouches for. Raises Corrupt, Misconfigured; with code UNAPPROVED
    for too few signatures, with code EPOCH for what is older than known.
    """
    if signed is None:
        if approvals:
            raise Corrupt(
                f"it has no activation, {approvals} approvals are needed",
                where=ACTIVATION,
                fix=f"sluice {what} activate, then sluice {what} approve",
                code=UNAPPROVED,
            )
        if known.epoch:
            raise _older(what, 0, known)
        return None
    signers = signers_of(signed, trusted)
    needed = max(1, approvals)
    if len(signers) < needed:
        raise Corrupt(
            f"{len(signers)} approved it, {needed} must",
            where=ACTIVATION,
            fix=f"sluice {what} approve",
            code=UNAPPROVED,
        )
    activation = decode(signed.statement)
    if activation.what != what or activation.digest != digest:
        raise Corrupt(
            f"it activates {activation.what} {activation.id} ({activation.digest[:12]}…), "
            f"the folder holds {what} {digest[:12]}…",
            where=ACTIVATION,
            fix=f"sluice {what} activate, for what is there now",
        )
    if activation.epoch > now_us + AHEAD_MAX_US:
        raise Misconfigured("its epoch is in the future", where=ACTIVATION, code=EPOCH)
    if activation.epoch < known.epoch or (
        activation.epoch == known.epoch and activation.digest != known.digest
    ):
        raise _older(what, activation.epoch, known)
    return Checked(activation, signers, signed.statement)


def _older(what: What, epoch: int, known: Known) -> Corrupt:
    given = f"is of {to_datetime(epoch):%Y-%m-%d %H:%M:%S} UTC" if epoch else "is not there"
    return Corrupt(
        f"its activation {given}, one of {to_datetime(known.epoch):%Y-%m-%d %H:%M:%S} UTC "
        f"({known.digest[:12]}…) was in force",
        where=ACTIVATION,
        fix=f"if you mean to go back: sluice {what} rollback",
        code=EPOCH,
    )
