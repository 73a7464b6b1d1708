"""A keystore in memory. It keeps the promises of the port: tests/contract/test_keystore.py."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sluice.application.sealing import SECRET_BYTES, Erased, SealingKey, subject_of
from sluice.domain.records.key_event import KeyEvent
from sluice.errors import Corrupt


class MemoryKeystore:
    """Keys for as long as the object lives. erase and note stand for what operators do."""

    emitter = "keystore-0"

    def __init__(self, pepper: bytes = bytes(32)) -> None:
        self._pepper = pepper
        self._keys: dict[tuple[str, str], SealingKey] = {}
        self._erased: dict[str, str] = {}
        self._events: list[KeyEvent] = []

    def subject(self, tenant: str, card_token: str) -> str:
        """See :class:`sluice.application.ports.Keystore`, here and below."""
        return subject_of(self._pepper, tenant, card_token)

    def keys(self, wanted: Sequence[tuple[str, str]]) -> list[SealingKey | None]:
        """Made where missing."""
        return [self._key(subject, period) for subject, period in wanted]

    def key(self, subject: str, period: str) -> SealingKey:
        """One of them."""
        found = self._key(subject, period)
        if found is None:
            raise _erased(subject, period)
        return found

    def existing(self, subject: str, period: str) -> SealingKey:
        """Makes none."""
        if (subject, period) not in self._keys:
            raise _erased(subject, period)
        return self._keys[subject, period]

    def events(self, since: int, limit: int) -> list[KeyEvent]:
        """What was noted."""
        if since > len(self._events):
            raise Corrupt("the keystore has had fewer events than the log holds")
        return self._events[since : since + limit]

    def note(self, event: KeyEvent) -> None:
        """Add an event, whose sequence must be the next."""
        if event.sequence != len(self._events):
            raise ValueError(f"the next event has sequence {len(self._events)}")
        self._events.append(event)

    def erase(self, subject: str, through: str) -> int:
        """Destroy a subject's keys of a quarter and all before it. Returns how many there were."""
        self._erased[subject] = max(through, self._erased.get(subject, ""))
        gone = [at for at in self._keys if at[0] == subject and at[1] <= through]
        for at in gone:
            del self._keys[at]
        return len(gone)

    def _key(self, subject: str, period: str) -> SealingKey | None:
        if period <= self._erased.get(subject, ""):
            return None
        made = self._keys.get((subject, period))
        if made is None:
            made = self._keys[subject, period] = SealingKey(os.urandom(SECRET_BYTES))
        return made


def _erased(subject: str, period: str) -> Erased:
    return Erased("there is no key of this subject and quarter", where=f"{subject} {period}")
