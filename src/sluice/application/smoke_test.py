"""Does a whole deployment work? One authorization goes in, and is looked for where it must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from sluice.application.ports import Message
from sluice.application.recorded import read
from sluice.domain.clock import SECOND_US, Clock
from sluice.domain.records.authorization import Authorization
from sluice.domain.records.decision import DegradationLevel
from sluice.domain.records.entity import EntityKind
from sluice.domain.records.outcome import Outcome
from sluice.errors import Corrupt, Unavailable

PAUSE_S = 0.2
"""From one look to the next."""


T = TypeVar("T")


class Heard(msgspec.Struct, frozen=True):
    """What any caller hears, also one that may not see the score."""

    authorization_id: str
    outcome: Outcome
    degradation_level: DegradationLevel


class Asked(Protocol):
    """The sync API, as its callers see it."""

    def ask(self, auth: Authorization) -> Heard:
        """Raises Unavailable if it may be asked again, Rejected if it will not have this one."""
        ...


class NewDecisions(Protocol):
    """``decisions.v1``."""

    def since(self) -> list[Message]:
        """Committed records that came since the last call, or since this was made. Raises
        Unavailable."""
        ...


class States(Protocol):
    """The online store."""

    def read(self, entities: list[tuple[EntityKind, str]]) -> list[bytes]:
        """(n,) entities to (n,) states, b"" where none. Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of the authorization. place: of its record. state_bytes: of its card's state.
    seconds: from the first try to the state."""

    answer: Heard
    place: str
    state_bytes: int
    seconds: float


def smoke_test(
    auth: Authorization,
    *,
    api: Asked,
    decisions: NewDecisions,
    states: States,
    clock: Clock,
    wait: Callable[[float], None],
    timeout_s: float,
) -> Seen:
    """Ask, read the decision from the topic, wait for the state that the featurizer makes of it.

    auth: of a card that nobody has seen, so that its state can come from nothing else. Each step is
    tried again until timeout_s have gone by since the beginning: an id may be asked for again.
    Raises Unavailable that names the step that was not reached, Corrupt if the record holds another
    outcome than the answer.
    """
    began = clock.now_us()

    def until(step: Callable[[], T | None], what: str, fix: str) -> T:
        said = ""
        while clock.now_us() - began < timeout_s * SECOND_US:
            try:
                found = step()
            except Unavailable as error:
                said, found = f": {error}", None
            if found:
                return found
            wait(PAUSE_S)
        raise Unavailable(
            f"{what} within {timeout_s:g} s{said}", where=auth.authorization_id, fix=fix
        )

    answer = until(lambda: api.ask(auth), "no answer", "docs/runbooks/broker-down.md")
    record = until(
        lambda: _find(decisions, auth),
        "answered, and no record in decisions.v1",
        "docs/runbooks/broker-down.md",
    )
    written = read(record.value).rest
    place = f"{record.topic}/{record.partition}@{record.offset}"
    if written.outcome != answer.outcome:
        raise Corrupt(
            f"the caller heard {answer.outcome}, the record says {written.outcome}", where=place
        )
    state = until(
        lambda: states.read([("card", auth.card_token)])[0],
        "recorded, and no state of the card in the store",
        "docs/runbooks/lag.md",
    )
    return Seen(answer, place, len(state), (clock.now_us() - began) / SECOND_US)


def _find(decisions: NewDecisions, auth: Authorization) -> Message | None:
    word = auth.authorization_id.encode()
    for message in decisions.since():
        if word not in message.value:
            continue
        try:
            found = read(message.value).authorization
        except msgspec.DecodeError:
            continue
        if (found.tenant, found.authorization_id) == (auth.tenant, auth.authorization_id):
            return message
    return None
