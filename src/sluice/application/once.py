"""One id, one answer: what this replica knows of an id is asked first, then the store.

States are optional; an id's record and its earlier answer are not. Where the read of all of them is
late or fails, the ids alone are asked for, with a budget of their own. What this replica answered
it remembers itself, so that a repeat hears the same while the store is away. See
docs/decisions/0025-one-id-one-answer.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from msgspec import structs

from sluice.application.ports import UNIDENTIFIED, Arrival, Lookup, OnlineStore
from sluice.domain.clock import SECOND_US, Clock
from sluice.errors import Unavailable

ENTRIES_MAX = 50_000
"""Answers that a replica remembers, some 35 MB: 50 s of 1,000 decisions a second, where a caller
that hears nothing asks again within a few."""
AGE_MAX_S = 900
"""Older ones are forgotten, however few there are."""

Id = tuple[str, str]
"""Tenant and authorization id."""


class LookedUp(NamedTuple):
    """lookups: (n,), of n arrivals. left_out: why states are missing, as ``degraded`` names it."""

    lookups: list[Lookup]
    left_out: list[str]


class Ids(Protocol):
    """What the decision pipeline asks of ids, and says of them. Each arrival that was left to it
    (neither answered, in progress elsewhere nor a conflict) ends in one of the other three."""

    async def look_up(self, batch: Sequence[Arrival], *, late: bool) -> LookedUp:
        """(n,) arrivals, also of one id, to what is known of them. late: too late for states."""
        ...

    def remember(self, answers: Sequence[tuple[Arrival, bytes]]) -> None:
        """These were answered, and their records are durable."""
        ...

    def release(self, arrivals: Sequence[Arrival]) -> None:
        """These were not decided, and no record of them can be there."""
        ...

    def hold(self, arrivals: Sequence[Arrival]) -> None:
        """These were decided, and their records may become durable."""
        ...


class Answered(NamedTuple):
    """One answer as ``decisions.v1`` tells it."""

    tenant: str
    authorization_id: str
    digest: bytes
    answer: bytes
    decided_at: int


class _Kept(NamedTuple):
    digest: bytes
    answer: bytes
    at_us: int


class Once:
    """The port Ids over a store, with the memory of one process. Lives in one event loop.

    entries_max, age_max_s: what it remembers at most, answers and as many ids held.
    """

    def __init__(
        self,
        store: OnlineStore,
        clock: Clock,
        *,
        entries_max: int = ENTRIES_MAX,
        age_max_s: float = AGE_MAX_S,
    ) -> None:
        self._store = store
        self._clock = clock
        self._entries_max = entries_max
        self._age_max_us = round(age_max_s * SECOND_US)
        self._kept: OrderedDict[Id, _Kept] = OrderedDict()
        self._deciding: dict[Id, bytes] = {}
        """Ids in progress in this process, with the digest of their content."""
        self._held: OrderedDict[Id, tuple[bytes, int]] = OrderedDict()
        """Ids whose record may become durable, with digest and moment: not answered again before
        the store, which knows them, says so."""

    def __len__(self) -> int:
        """Answers remembered."""
        return len(self._kept)

    async def look_up(self, batch: Sequence[Arrival], *, late: bool) -> LookedUp:
        """See the port. One round trip; none for ids that this process knows."""
        known: list[Lookup | None] = []
        asked: list[Arrival] = []
        ids: list[Id] = []
        deciding = self._deciding
        for arrival in batch:
            auth = arrival.auth
            key = auth.tenant, auth.authorization_id
            found = self._known(key, arrival.digest)
            known.append(found)
            if found is None:
                deciding[key] = arrival.digest
                asked.append(arrival)
                ids.append(key)
        if not asked:
            return LookedUp([found for found in known if found is not None], [])
        try:
            replies, left_out = await self._ask(asked, late)
        except BaseException:
            for key in ids:
                deciding.pop(key, None)
            raise
        for i, (key, reply) in enumerate(zip(ids, replies, strict=True)):
            if reply.earlier is not None:
                del deciding[key]
                self._held.pop(key, None)
                self._keep(key, asked[i].digest, reply.earlier)
            elif reply.conflict or reply.in_progress_elsewhere:
                del deciding[key]
            elif self._held and key in self._held:
                if reply.lost or reply.unidentified:
                    del deciding[key]
                    same = self._held[key][0] == asked[i].digest
                    replies[i] = _BUSY if same else _CONFLICT
                else:
                    # The store kept its record for as long as a decision may take, and then there
                    # was no answer: nothing became durable.
                    del self._held[key]
        if len(asked) == len(batch):
            return LookedUp(replies, left_out)
        rest = iter(replies)
        return LookedUp([next(rest) if found is None else found for found in known], left_out)

    def _known(self, key: Id, digest: bytes) -> Lookup | None:
        """What this process knows; None to ask the store."""
        kept = self._kept.get(key)
        if kept is not None:
            if self._clock.now_us() - kept.at_us <= self._age_max_us:
                return _answered(kept.answer) if kept.digest == digest else _CONFLICT
            del self._kept[key]
        other = self._deciding.get(key)
        if other is not None:
            return _BUSY if other == digest else _CONFLICT
        return None

    async def _ask(self, batch: list[Arrival], late: bool) -> tuple[list[Lookup], list[str]]:
        if late:
            return await self._identify(batch), ["deadline"]
        try:
            replies = await self._store.observe(batch)
        except Unavailable:
            return await self._identify(batch), ["store"]
        again = [i for i, reply in enumerate(replies) if reply.unidentified]
        if again:
            for i, found in zip(
                again, await self._identify([batch[i] for i in again]), strict=True
            ):
                replies[i] = structs.replace(
                    replies[i],
                    earlier=found.earlier,
                    in_progress_elsewhere=found.in_progress_elsewhere,
                    conflict=found.conflict,
                    unidentified=found.unidentified,
                )
        return replies, ["store"] if any(reply.lost for reply in replies) else []

    async def _identify(self, batch: Sequence[Arrival]) -> list[Lookup]:
        try:
            return await self._store.identify(batch)
        except Unavailable:
            return [UNIDENTIFIED] * len(batch)

    def remember(self, answers: Sequence[tuple[Arrival, bytes]]) -> None:
        """See the port."""
        for arrival, answer in answers:
            key = arrival.auth.tenant, arrival.auth.authorization_id
            self._deciding.pop(key, None)
            if self._held:
                self._held.pop(key, None)
            self._keep(key, arrival.digest, answer)
        self._store.remember(answers)

    def release(self, arrivals: Sequence[Arrival]) -> None:
        """See the port."""
        self.abandon(arrivals)
        self._store.release(arrivals)

    def hold(self, arrivals: Sequence[Arrival]) -> None:
        """See the port."""
        now_us = self._clock.now_us()
        for arrival in arrivals:
            key = arrival.auth.tenant, arrival.auth.authorization_id
            if self._deciding.pop(key, None) is not None:
                self._held[key] = arrival.digest, now_us
        while self._held:
            _, since_us = next(iter(self._held.values()))
            if len(self._held) <= self._entries_max and now_us - since_us <= self._age_max_us:
                return
            self._held.popitem(last=False)

    def abandon(self, arrivals: Sequence[Arrival]) -> None:
        """These come again, from the same place in Kafka; no record of them can be there, and the
        store's own records wait for them. What ended otherwise stays as it is."""
        for arrival in arrivals:
            self._deciding.pop((arrival.auth.tenant, arrival.auth.authorization_id), None)

    def learn(self, answers: Iterable[Answered]) -> None:
        """Answers that the log holds, in its order; of one id the first stays."""
        for one in answers:
            key = one.tenant, one.authorization_id
            self._held.pop(key, None)
            self._keep(key, one.digest, one.answer, one.decided_at)

    def _keep(self, key: Id, digest: bytes, answer: bytes, at_us: int = 0) -> None:
        kept, now_us = self._kept, self._clock.now_us()
        kept.setdefault(key, _Kept(digest, answer, at_us or now_us))
        while kept:
            oldest = next(iter(kept.values()))
            if len(kept) <= self._entries_max and now_us - oldest.at_us <= self._age_max_us:
                return
            kept.popitem(last=False)


_BUSY = Lookup(None, None, None, None, in_progress_elsewhere=True)
_CONFLICT = Lookup(None, None, None, None, conflict=True)


def _answered(answer: bytes) -> Lookup:
    return Lookup(None, None, None, None, earlier=answer)
