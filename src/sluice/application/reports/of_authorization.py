"""All that logs hold of one authorization, and what is sealed of it where a grant opens it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from sluice.application.open_record import Found
from sluice.application.read_log import Unverifiable
from sluice.application.reports.document import Fact, amount, instant
from sluice.application.reports.evidence import (
    Checked,
    Kept,
    Log,
    Progress,
    check,
    named,
    proof_file,
)
from sluice.application.sealing import Erased
from sluice.domain.policy.reasons import BY_CODE
from sluice.domain.records.authorization import Authorization, Channel, ThreeDs
from sluice.domain.records.log_record import DecisionBody, DecisionRecord
from sluice.domain.records.outcome import Outcome
from sluice.errors import Corrupt

OUTCOMES = {
    Outcome.APPROVE: "approved",
    Outcome.CHALLENGE: "held for the payer to confirm (strong authentication)",
    Outcome.REVIEW: "referred to a person",
    Outcome.DECLINE: "refused",
}
CHANNELS = {
    Channel.POS: "card inserted at a terminal",
    Channel.CONTACTLESS: "contactless at a terminal",
    Channel.ECOM: "online",
    Channel.MOTO: "by mail or telephone order",
    Channel.ATM: "cash withdrawal at a machine",
}
THREE_DS = {
    None: "3-D Secure did not run",
    ThreeDs.FRICTIONLESS: "3-D Secure ran without asking the payer (frictionless)",
    ThreeDs.CHALLENGED: "3-D Secure ran, and the payer was asked and authenticated",
    ThreeDs.ATTEMPTED: "3-D Secure was attempted: the issuer did not take part",
    ThreeDs.FAILED: "3-D Secure ran and failed",
}


class Personal(msgspec.Struct, frozen=True):
    """What is sealed of a decision, for reading: newer fields are passed over."""

    authorization: Authorization
    features: list[int]


class Access(NamedTuple):
    """Somebody may open one authorization's records. open: writes the access down, then opens;
    raises Erased, Corrupt."""

    who: str
    case: str
    open: Callable[[Found], bytes]


class Placed(NamedTuple):
    """A record, and the log that it stands in."""

    log: Checked
    found: Found

    @property
    def proof(self) -> str:
        """Name of the file that proves it."""
        return proof_file(self.log, self.found.record.type, self.found.place)


class OfAuthorization(NamedTuple):
    """decision: its first. records: all, that one too, in the order of the logs."""

    logs: list[Checked]
    records: list[Placed]
    decision: Placed
    header: DecisionRecord

    @property
    def body(self) -> DecisionBody:
        """What is in clear of the decision."""
        return self.header.body


class Sealed(NamedTuple):
    """What became of opening a decision's sealed part. personal: None where it is not open, and why
    says why."""

    personal: Personal | None
    why: str


def gather(logs: Sequence[Log], authorization_id: str, progress: Progress) -> OfAuthorization:
    """Raises Unfounded; Unverifiable if no log holds a decision of it."""
    mark = named("authorization_id", authorization_id)
    checked: list[Checked] = []
    records: list[Placed] = []
    for log in logs:
        kept = Kept(mark)
        one = check(log, kept, progress)
        checked.append(one)
        records += [
            Placed(one, found)
            for found in kept.found
            if found.record.authorization_id == authorization_id
        ]
    for placed in records:
        if isinstance(placed.found.record, DecisionRecord):
            return OfAuthorization(checked, records, placed, placed.found.record)
    entries = sum(one.rests_on.size for one in checked)
    held = ", ".join(f"{one.found.record.type} {one.found.place}" for one in records[:10])
    raise Unverifiable(
        f"no decision of {authorization_id} in {entries:,} entries"
        + (f", only {held}" if held else "")
    )


def opened(decision: Placed, access: Access | None) -> Sealed:
    """The sealed part of a decision. Raises Corrupt where key and entry do not belong together, or
    it holds no decision."""
    if decision.found.record.sealed is None:
        return Sealed(
            None,
            "The decision was recorded without its personal part: the card had been erased for "
            "that quarter before.",
        )
    if access is None:
        return Sealed(None, "It is sealed, and no grant to open it was given.")
    try:
        text = access.open(decision.found)
    except Erased:
        return Sealed(
            None,
            "It was sealed, and the key was destroyed by an erasure or when its retention ended: "
            "nobody can open it any more.",
        )
    try:
        return Sealed(msgspec.json.decode(text, type=Personal), "")
    except msgspec.DecodeError as exc:
        raise Corrupt(
            f"what was sealed is no decision: {exc}", where=f"entry {decision.found.place}"
        ) from exc


def payment(of: OfAuthorization, sealed: Sealed) -> list[Fact]:
    """What was asked, as far as it can be told."""
    body, event_at = of.body, of.header.event_at or 0
    facts = [
        Fact("Time", instant(event_at)),
        Fact("Amount", amount(body.amount_minor, body.currency)),
        Fact("Way of payment", CHANNELS[body.channel]),
        Fact("Authentication", THREE_DS[body.sca.three_ds]),
    ]
    if sealed.personal is None:
        return facts
    auth = sealed.personal.authorization
    if auth.currency != body.currency:
        facts[1] = Fact(
            "Amount",
            f"{amount(auth.amount_minor, auth.currency)}, counted as "
            f"{amount(body.amount_minor, body.currency)}",
        )
    return [
        *facts,
        Fact("Merchant", f"{auth.merchant_id}, in {auth.merchant_country}"),
        Fact("Merchant category", auth.mcc),
        Fact("Terminal", auth.terminal_id),
        Fact("Card issued in", auth.card_country),
        Fact("Device", auth.device_id or "none was named"),
    ]


def reasons(codes: Sequence[str]) -> list[str]:
    """Sentences, strongest first; a code that this build does not know as it is."""
    return [f"{BY_CODE[code].sentence}" if code in BY_CODE else code for code in codes]


def access_said(access: Access, sealed: Sealed) -> str:
    """That somebody looked, for the document."""
    did = "opened" if sealed.personal is not None else "asked to open"
    return (
        f"For this report {access.who} {did} what is sealed, for case {access.case}. That was "
        "written down before, and becomes a record of the log."
    )
