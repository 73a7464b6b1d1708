"""A person sets the outcome of an authorization aside: what the log is told of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from sluice.application.open_record import Found
from sluice.domain.records.key_event import KeyEvent
from sluice.domain.records.log_record import DecisionRecord, OverrideRecord
from sluice.domain.records.outcome import Outcome
from sluice.errors import Rejected


class Overrides(Protocol):
    """The keystore's side of it."""

    def override(
        self, authorization_id: str, *, before: str, after: str, who: str, case: str
    ) -> KeyEvent:
        """Write down, durably, that somebody set an outcome aside."""
        ...


def set_aside(
    entries: Iterable[Found],
    authorization_id: str,
    outcome: Outcome,
    store: Overrides,
    *,
    who: str,
    case: str,
) -> KeyEvent:
    """Note that ``who`` put ``outcome`` in the place of what the log holds of an authorization: its
    decision, or what was put in its place last.

    Raises Rejected where the log has no decision of it, where that outcome stands already, and for
    what is no login or case.
    """
    standing: Outcome | None = None
    for found in entries:
        record = found.record
        if record.authorization_id == authorization_id and isinstance(
            record, DecisionRecord | OverrideRecord
        ):
            standing = record.body.outcome
    if standing is None:
        raise Rejected(
            "the log has no decision of this authorization",
            where=authorization_id,
            fix="it is in no checkpoint yet, or in another shard's log",
        )
    if standing is outcome:
        raise Rejected(f"its outcome is {outcome} already", where=authorization_id)
    return store.override(authorization_id, before=standing, after=outcome, who=who, case=case)
