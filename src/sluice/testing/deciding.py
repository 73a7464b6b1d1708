"""A decider for tests of the entrypoints: keeps its answers in memory, decides by amount."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sluice.application.decide import Conflict, Decided, Replayed, Result
from sluice.application.ports import Arrival
from sluice.domain.clock import Clock, SystemClock
from sluice.domain.features import catalogue
from sluice.domain.features.events import event_row
from sluice.domain.records.authorization import (
    EventTimeBounds,
    check_event_time,
    decode_authorization,
    encode,
)
from sluice.domain.records.decision import Decision, Origin, States, answer
from sluice.domain.records.outcome import Outcome
from sluice.errors import Unavailable

COLUMNS = ("amount_minor", "count_1h", "count_1d")
DECLINE_ABOVE_MINOR = 100_000


class FakePipeline:
    """Declines above 1,000.00, approves the rest; the score of a row is its sum in ppm.

    gate: while set to an unset Event, decisions wait there. healthy: whether rehearsals succeed.
    answers: what the next decisions get instead, by authorization id.
    """

    release = "fake-release"

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.healthy = True
        self.gate: asyncio.Event | None = None
        self.batches: list[list[Arrival]] = []
        self.deadlines: list[int | None] = []
        self.rehearsals = 0
        self.instead: dict[str, Result | Exception] = {}
        self._known: dict[str, tuple[bytes, bytes]] = {}

    def arrive(
        self, raw: bytes, *, origin: Origin | None = None, traceparent: str | None = None
    ) -> Arrival:
        """Parse and check like the real one."""
        auth = decode_authorization(raw)
        now = self.clock.now_us()
        check_event_time(auth, now, EventTimeBounds())
        digest = hashlib.blake2b(encode(auth), digest_size=8).digest()
        row = event_row(auth, auth.amount_minor)
        return Arrival(auth, auth.amount_minor, row, digest, now, origin, traceparent)

    async def decide(
        self, batch: Sequence[Arrival], *, deadline_us: int | None = None
    ) -> list[Result]:
        """One result an arrival; the same id again is a repeat or a conflict."""
        self.batches.append(list(batch))
        self.deadlines.append(deadline_us)
        if self.gate is not None:
            await self.gate.wait()
        return [self._decide(arrival) for arrival in batch]

    def _decide(self, arrival: Arrival) -> Result:
        auth = arrival.auth
        instead = self.instead.get(auth.authorization_id)
        if isinstance(instead, Exception):
            raise instead
        if instead is not None:
            return instead
        known = self._known.get(auth.authorization_id)
        if known is not None:
            return Replayed(known[1]) if known[0] == arrival.digest else Conflict()
        decline = auth.amount_minor > DECLINE_ABOVE_MINOR
        decision = Decision(
            authorization=auth,
            entrypoint="stream" if arrival.origin else "sync",
            origin=arrival.origin,
            emitter="fake",
            sequence=len(self._known),
            received_at=arrival.received_at,
            decided_at=self.clock.now_us(),
            reference_amount_minor=arrival.amount_minor,
            reference_currency=auth.currency,
            catalogue="fake",
            features=[0] * catalogue.N,
            states=States(),
            pending=[],
            release=self.release,
            score_ppm=999_000 if decline else 1_000,
            policy="fake",
            outcome=Outcome.DECLINE if decline else Outcome.APPROVE,
            reasons=["AMOUNT_HIGH"] if decline else [],
            degradation_level="D0",
            degraded=[],
        )
        said = encode(answer(decision))
        self._known[auth.authorization_id] = (arrival.digest, said)
        return Decided(decision, said)

    def score_rows(self, features: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(n, f) to (n,): the sum of the row."""
        if not self.healthy:
            raise Unavailable("the model is down")
        return features.sum(axis=1)

    async def rehearse(self) -> None:
        """Raises Unavailable unless healthy."""
        self.rehearsals += 1
        if not self.healthy:
            raise Unavailable("the model is down")
