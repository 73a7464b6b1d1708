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


_Kept = tuple[bytes, bytes, int]
"""Digest of the content, answer, and the moment of it."""


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
        kept, deciding = self._kept, self._deciding
        known: dict[int, Lookup] = {}
        ids: list[Id] = []
        for i, arrival in enumerate(batch):
            auth = arrival.auth
            key = auth.tenant, auth.authorization_id
            if key in kept or key in deciding:
                found = self._known(key, arrival.digest)
                if found is not None:
                    known[i] = found
                    continue
            deciding[key] = arrival.digest
            ids.append(key)
        if not ids:
            return LookedUp([*known.values()], [])
        asked = [a for i, a in enumerate(batch) if i not in known] if known else batch
        try:
            replies, left_out = await self._ask(asked, late)
        except BaseException:
            for key in ids:
                deciding.pop(key, None)
            raise
        for i, reply in enumerate(replies):
            if (
                reply.earlier is not None
                or reply.in_progress_elsewhere
                or reply.conflict
                or self._held
                or ids[i] in kept
            ):
                replies[i] = self._settled(ids[i], asked[i], reply)
        if not known:
            return LookedUp(replies, left_out)
        rest = iter(replies)
        return LookedUp(
            [known[i] if i in known else next(rest) for i in range(len(batch))], left_out
        )

    def _known(self, key: Id, digest: bytes) -> Lookup | None:
        """What this process knows; None to ask the store."""
        kept = self._kept.get(key)
        if kept is not None:
            known_as, answer, at_us = kept
            if self._clock.now_us() - at_us <= self._age_max_us:
                return _answered(answer) if known_as == digest else _CONFLICT
            del self._kept[key]
        other = self._deciding.get(key)
        if other is not None:
            return _BUSY if other == digest else _CONFLICT
        return None

    def _settled(self, key: Id, arrival: Arrival, reply: Lookup) -> Lookup:
        """The store's reply about an id, in the light of what this process knows by now."""
        known = self._kept.get(key)
        if known is not None:
            # Learned from the log, or acknowledged late, while the store was asked.
            self._deciding.pop(key, None)
            digest, answer, _ = known
            if digest != arrival.digest:
                return _CONFLICT
            self._store.remember([(arrival, answer)])
            return _answered(answer)
        if reply.earlier is not None:
            self._held.pop(key, None)
            self._keep([(key, arrival.digest, reply.earlier, self._clock.now_us())])
        elif key in self._held and not (reply.conflict or reply.in_progress_elsewhere):
            if reply.lost or reply.unidentified:
                self._deciding.pop(key, None)
                return _BUSY if self._held[key][0] == arrival.digest else _CONFLICT
            # The store kept its record for as long as a decision may take, and then there was no
            # answer: nothing became durable.
            del self._held[key]
            return reply
        if reply.earlier is not None or reply.conflict or reply.in_progress_elsewhere:
            self._deciding.pop(key, None)
        return reply

    async def _ask(self, batch: Sequence[Arrival], late: bool) -> tuple[list[Lookup], list[str]]:
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
        now_us, kept, forget = self._clock.now_us(), self._kept, self._deciding.pop
        for arrival, answer in answers:
            auth = arrival.auth
            key = auth.tenant, auth.authorization_id
            forget(key, None)
            if key not in kept:
                kept[key] = arrival.digest, answer, now_us
            if self._held:
                self._held.pop(key, None)
        self._trim(now_us)
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

    def learn(self, answers: Sequence[Answered]) -> None:
        """Answers that the log holds, in its order; of one id the first stays."""
        for one in answers:
            self._held.pop((one.tenant, one.authorization_id), None)
        self._keep(
            ((one.tenant, one.authorization_id), one.digest, one.answer, one.decided_at)
            for one in answers
        )

    def _keep(self, answers: Iterable[tuple[Id, bytes, bytes, int]]) -> None:
        for key, digest, answer, at_us in answers:
            self._kept.setdefault(key, (digest, answer, at_us))
        self._trim(self._clock.now_us())

    def _trim(self, now_us: int) -> None:
        """Forget what is too much or too old, the oldest first."""
        kept = self._kept
        for _ in range(len(kept) - self._entries_max):
            kept.popitem(last=False)
        while kept and now_us - next(iter(kept.values()))[2] > self._age_max_us:
            kept.popitem(last=False)


_BUSY = Lookup(None, None, None, None, in_progress_elsewhere=True)
_CONFLICT = Lookup(None, None, None, None, conflict=True)


def _answered(answer: bytes) -> Lookup:
    return Lookup(None, None, None, None, earlier=answer)
