"""Reads the topics to their ends, record by record, and counts: nothing missing, nothing twice.

The same questions as tests/support/recount.py, which keeps every record in memory; a pod of the
loader has less of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

import msgspec

from sluice.application.ports import Message


class Authorization(msgspec.Struct):
    """What is asked of one."""

    authorization_id: str
    tenant: str


class Origin(msgspec.Struct, frozen=True):
    """Where it lay."""

    topic: str
    partition: int
    offset: int


class Decision(msgspec.Struct):
    """What is asked of one."""

    authorization: Authorization
    entrypoint: str
    origin: Origin | None
    degradation_level: str


class Counts(msgspec.Struct, kw_only=True):
    """Of one run. sent: offsets of ``authorizations.v1``. levels: of all decisions."""

    answered: int
    sync_decisions: int
    answered_without_record: int
    sync_twice: int
    given_up_and_decided: int
    unexpected: int
    sent: int
    stream_decisions: int
    sent_without_record: int
    stream_twice: int
    levels: dict[str, int]

    @property
    def wrong(self) -> dict[str, int]:
        """What must be 0 and is not."""
        found = {
            "answered_without_record": self.answered_without_record,
            "sync_twice": self.sync_twice,
            "unexpected": self.unexpected,
            "sent_without_record": self.sent_without_record,
            "stream_twice": self.stream_twice,
        }
        return {name: n for name, n in found.items() if n}


_decision = msgspec.json.Decoder(Decision).decode
_authorization = msgspec.json.Decoder(Authorization).decode


def recount(
    authorizations: Iterable[Message],
    decisions: Iterable[Message],
    *,
    tenant: str,
    answered: Collection[str],
    given_up: Collection[str],
) -> Counts:
    """Of the records of a tenant that no other run has. answered, given_up: ids of the sync API."""
    sync: Counter[str] = Counter()
    places: Counter[Origin] = Counter()
    levels: Counter[str] = Counter()
    for message in decisions:
        decision = _decision(message.value)
        if decision.authorization.tenant != tenant:
            continue
        levels[decision.degradation_level] += 1
        if decision.entrypoint == "sync":
            sync[decision.authorization.authorization_id] += 1
        elif decision.origin is not None:
            places[decision.origin] += 1
    sent = {
        Origin(message.topic, message.partition, message.offset)
        for message in authorizations
        if _authorization(message.value).tenant == tenant
    }
    known, unheard = set(answered), set(given_up)
    return Counts(
        answered=len(known),
        sync_decisions=sync.total(),
        answered_without_record=len(known - sync.keys()),
        sync_twice=sum(n - 1 for n in sync.values()),
        given_up_and_decided=len(unheard & sync.keys()),
        unexpected=len(sync.keys() - known - unheard) + len(places.keys() - sent),
        sent=len(sent),
        stream_decisions=places.total(),
        sent_without_record=len(sent - places.keys()),
        stream_twice=sum(n - 1 for n in places.values()),
        levels=dict(levels),
    )
