"""A decider for tests of the entrypoints: keeps its answers in memory, decides by amount."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sluice.application.decide import Conflict, Decided, Replayed, Result, content_digest
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
from sluice.domain.records.decision import Decision, Entrypoint, MadeBy, Origin, States, answer
from sluice.domain.records.outcome import Outcome
from sluice.errors import Unavailable

COLUMNS = ("amount_minor", "count_1h", "count_1d")
DECLINE_ABOVE_MINOR = 100_000


class FakePipeline:
    """Declines above 1,000.00, approves the rest; the score of a row is its sum in ppm.

    Otherwise as the real one over an empty store (``tests/contract/test_pipeline_contract.py``),
    but nobody waits for anybody: no arrival is pending to another, and none is ever busy.
    gate: while set to an unset Event, decisions wait there. healthy: whether rehearsals succeed.
    instead: what the next decisions get instead, by authorization id.
    """

    release = "fake-release"
    policy = "fake-policy"

    def __init__(self, clock: Clock | None = None, *, entrypoint: Entrypoint = "sync") -> None:
        self.sequence = 0
        self._entrypoint = entrypoint
        self.clock = clock or SystemClock()
        self.healthy = True
        self.gate: asyncio.Event | None = None
        self.batches: list[list[Arrival]] = []
        self.deadlines: list[int | None] = []
        self.rehearsals = 0
        self.instead: dict[str, Result | Exception] = {}
        self._known: dict[tuple[str, str], tuple[bytes, bytes]] = {}

    def arrive(
        self, raw: bytes, *, origin: Origin | None = None, traceparent: str | None = None
    ) -> Arrival:
        """Parse and check like the real one."""
        now = self.clock.now_us()
        auth = decode_authorization(raw)
        check_event_time(auth, now, EventTimeBounds())
        row = event_row(auth, auth.amount_minor)
        digest = content_digest(auth)
        return Arrival(auth, auth.amount_minor, row, digest, now, origin, traceparent)

    def reference_minor(self, amount_minor: int, currency: str) -> int:
        """Every currency is the reference."""
        return amount_minor

    async def decide(
        self, batch: Sequence[Arrival], *, deadline_us: int | None = None
    ) -> list[Result]:
        """One result an arrival; the same id of a tenant again is replayed or a conflict. Past the
        deadline a record names what was left out."""
        self.batches.append(list(batch))
        self.deadlines.append(deadline_us)
        if self.gate is not None:
            await self.gate.wait()
        late = deadline_us is not None and self.clock.now_us() >= deadline_us
        return [self._decide(arrival, late) for arrival in batch]

    def _decide(self, arrival: Arrival, late: bool) -> Result:
        auth = arrival.auth
        place = auth.tenant, auth.authorization_id
        instead = self.instead.get(auth.authorization_id)
        if isinstance(instead, Exception):
            raise instead
        if instead is not None:
            return instead
        known = self._known.get(place)
        if known is not None:
            return Replayed(known[1]) if known[0] == arrival.digest else Conflict()
        decline = auth.amount_minor > DECLINE_ABOVE_MINOR
        decision = Decision(
            authorization=auth,
            entrypoint=self._entrypoint,
            origin=arrival.origin,
            emitter="fake",
            sequence=self.sequence,
            received_at=arrival.received_at,
            decided_at=self.clock.now_us(),
            reference_amount_minor=arrival.amount_minor,
            reference_currency=auth.currency,
            catalogue=catalogue.DIGEST,
            features=[0] * catalogue.N,
            states=States(None, None, None, None) if late else States([], [], [], []),
            pending=[],
            release=None if late else self.release,
            score_ppm=None if late else 999_000 if decline else 1_000,
            policy=self.policy,
            fired=[],
            made_by=MadeBy(
                release_digest=None if late else "a" * 64,
                policy_digest="b" * 64,
                policy_version=1,
                score_ppm=[200_000, 500_000, 900_000],
                expected_loss_minor=[None, None, None],
                build="fake",
            ),
            outcome=Outcome.DECLINE if decline else Outcome.APPROVE,
            reasons=["AMOUNT_HIGH"] if decline else [],
            degradation_level="D3" if late else "D0",
            degraded=["deadline", *catalogue.VIEWS] if late else [],
            settled=self.sequence,
        )
        self.sequence += 1
        said = encode(answer(decision))
        self._known[place] = (arrival.digest, said)
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
