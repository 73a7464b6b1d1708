"""A certificate: the gate's verdict, signed, as it lies in a release (``certificate.json``).

``{"statement": TEXT, "signature": LINE}``: the signature is over the exact bytes of the statement,
a verdict (`sluice.application.judging.verdict`) in JSON, as a release's is over its manifest. It
names the graphs by digest, so that it is worth nothing beside another model.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.application.judging.verdict import Verdict
from sluice.domain.release import CERTIFICATE, MODEL, Manifest, Trusted, check_signature, sign
from sluice.errors import Corrupt, Rejected

_WHERE = CERTIFICATE
OTHER_MODEL = "other_model"
"""Code of a certificate that another graph was given."""


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    statement: str
    signature: str


class Certified(NamedTuple):
    """A verdict, and the id of the key that signed it."""

    verdict: Verdict
    signer: str


def certify(verdict: Verdict, key: Ed25519PrivateKey) -> bytes:
    """The file's bytes. Raises Rejected with the reason for a candidate that was refused."""
    if not verdict.accepted:
        failed = next(check for check in verdict.checks if not check.passed)
        raise Rejected(
            f"{verdict.candidate} was refused: {failed.found}",
            fix="docs/reference/gate.md",
            code=failed.reason,
        )
    statement = msgspec.json.encode(verdict)
    signed = Signed(statement.decode(), sign(statement, key).decode().rstrip())
    return msgspec.json.format(msgspec.json.encode(signed), indent=1) + b"\n"


def read_certificate(raw: bytes, trusted: Trusted) -> Certified:
    """Check a certificate's signature, then read it. Raises Corrupt."""
    try:
        signed = msgspec.json.decode(raw, type=Signed)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Corrupt(f"no certificate: {exc}", where=_WHERE) from exc
    signer = check_signature(signed.statement.encode(), signed.signature.encode(), trusted, _WHERE)
    return Certified(_verdict(signed.statement.encode()), signer)


def unverified(raw: bytes) -> Verdict:
    """What a certificate says; nothing is verified. Raises Corrupt."""
    try:
        return _verdict(msgspec.json.decode(raw, type=Signed).statement.encode())
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Corrupt(f"no certificate: {exc}", where=_WHERE) from exc


def _verdict(statement: bytes) -> Verdict:
    try:
        return msgspec.json.decode(statement, type=Verdict)
    except msgspec.DecodeError as exc:
        raise Corrupt(f"no certificate of this version: {exc}", where=_WHERE) from exc


def check_certificate(verdict: Verdict, manifest: Manifest, int8: str = "") -> None:
    """Raise Corrupt if a certificate is not of this release's graphs. int8: name of the file."""
    if not verdict.accepted:
        raise Corrupt("the gate refused this candidate", where=_WHERE, code=OTHER_MODEL)
    wanted = [(MODEL, verdict.model)]
    if int8 and int8 in manifest.files:
        wanted.append((int8, verdict.int8))
    for name, digest in wanted:
        if manifest.files[name] != digest:
            raise Corrupt(
                f"the gate saw {digest[:12] or 'no such graph'}…, {name} is "
                f"{manifest.files[name][:12]}…",
                where=_WHERE,
                fix="sluice gate for the graphs that the release holds, then pack again",
                code=OTHER_MODEL,
            )
