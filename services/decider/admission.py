"""What the sync API takes on under overload; the rest it refuses, the least important first.

Without it everyone waits until everyone is late, and whoever floods turns the model off for all
others. So there is a limit of authorizations that are decided at once (:class:`Limit`). Past it
others stand in a room, ordered by what is at stake (:class:`Room`): when a place is free the most
important one takes it, and who is pushed out or has stood too long is refused. Nobody is ordered
while there is room. :class:`Pace` bounds what the refused can cost.

Sources: CoDel (RFC 8289) asks whether the *least* delay of an interval is above the target, so that
the queue stands, or whether it was a burst. Netflix's gradient limit (concurrency-limits,
Gradient2Limit) scales by target over delay, and grows by the square root. Our target is a share of
the default deadline, not the delay without load as there: a batch of many is slower than a batch of
one by design. See docs/decisions/0026.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right, insort
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from sluice.application.ports import Arrival
from sluice.domain.clock import SECOND_US
from sluice.domain.records.authorization import Channel
from sluice.errors import Misconfigured, Rejected

DECIDED = 0.75
"""Of the requests in flight: how many are decided at once at most. The others may stand."""
TARGET = 0.3
"""Of the default deadline: the age that the oldest of a batch may have when it is decided."""
INTERVAL_S = 0.1
"""CoDel's: so long the age must stay above the target before the limit is lowered."""
STEP_DOWN = 0.5
"""The limit is at most halved at once."""
LIMIT_MIN = 16
"""Fewer make small batches, which cost more a row; and with no more inside it is not load that
makes them old."""
STAND = 0.5
"""Of the default deadline: how long one stands in the room at most. What these two leave is for
what nobody sees, the turn of the loop before a request is read, and for the answer."""
LEFT = 0.2
"""Of its deadline: what an authorization must still have when its batch begins. Whoever has less
would be decided without the model, and would make so all others of the batch. While the limit is
reached it is refused."""

TOLD_PER_DECIDED = 0.15
"""Refusals told for each authorization decided. Between many others one costs up to half of a
decision: so all of them take a thirteenth of the time at most."""
TOLD_AT_ONCE = 64.0
"""Refusals that need not wait for decisions, after a calm."""
IDLE_S = 0.1
"""Nothing was decided for so long: nobody's time is taken."""
UNTOLD_MAX_S = 1.0
"""The longest that a refusal waits for its turn: its own Retry-After."""

LATE, FULL, OUTRANKED = "late", "full", "outranked"
"""Stood or waited too long; no place to stand; others were more important."""
PRIORITIES = ("lowest", "low", "high", "highest")
_BOUNDS = (1_000, 10_000, 100_000)
"""Where low, high and highest begin: value in minor units of the reference currency."""


def priority(value: float) -> str:
    """The class of a value, for metrics. The order itself is by the value.

    >>> priority(999), priority(1_000), priority(5e6)
    ('lowest', 'low', 'highest')
    """
    return PRIORITIES[bisect_right(_BOUNDS, value)]


class Weights:
    """What is at stake: the amount in the reference currency, times channel's and tenant's weight.

    said: as in ``decider.priority``. Raises Misconfigured, naming what is wrong with it.

    >>> Weights("channel.atm=2, tenant.bank-a=10").of("atm", "bank-a")
    20.0
    """

    def __init__(self, said: str = "") -> None:
        self._channels: dict[str, float] = {}
        self._tenants: dict[str, float] = {}
        of = {"channel": self._channels, "tenant": self._tenants}
        for part in filter(None, (part.strip() for part in said.split(","))):
            key, _, number = part.partition("=")
            kind, _, name = key.strip().partition(".")
            try:
                weight = float(number)
            except ValueError:
                weight = math.nan
            known = name in set(Channel) if kind == "channel" else bool(name)
            if kind not in of or not known or not 0 < weight <= 1e6:
                raise Misconfigured(
                    f"{part!r} is no weight",
                    where="decider.priority",
                    fix="channel.NAME=N or tenant.NAME=N, comma separated, 0 < N <= 1000000; "
                    f"channels are {', '.join(Channel)}",
                )
            of[kind][name] = weight

    def of(self, channel: str, tenant: str) -> float:
        """1 for what is not named."""
        return self._channels.get(channel, 1.0) * self._tenants.get(tenant, 1.0)


class Limit:
    """How many authorizations may be decided at once, learned from their age when they are.

    target_us: the age that the oldest of a batch may have. most: where it begins, and its bound.
    """

    def __init__(self, target_us: int, most: int) -> None:
        self.value = most
        self._target_us = target_us
        self._most = most
        self._exact = float(most)
        self._until = 0
        self._least: float = math.inf
        self._inside = 0

    def decided(self, now_us: int, age_us: int, inside: int) -> None:
        """Take note of a batch. age_us: of its oldest, from receipt to the decision. inside: how
        many were being decided, this batch among them."""
        self._least = min(self._least, age_us if inside > LIMIT_MIN else 0)
        self._inside = max(self._inside, inside)
        if now_us < self._until:
            return
        if self._until:
            self._learn()
        self._until = now_us + round(INTERVAL_S * SECOND_US)
        self._least, self._inside = math.inf, 0

    def _learn(self) -> None:
        if self._least > self._target_us:
            step = max(STEP_DOWN, self._target_us / self._least)
            self._exact = max(float(LIMIT_MIN), min(self._exact, self._inside) * step)
        else:
            self._exact += math.sqrt(self._exact)
        self._exact = min(self._exact, float(self._most))
        self.value = int(self._exact)


class Standing(NamedTuple):
    """One in the room. In the order of importance; of two equal ones the older goes first."""

    value: float
    number: int
    """Falls with time."""
    since: float
    take: Callable[[int], None]
    """Decide it. Told for how many microseconds it stood."""
    refuse: Callable[[], None]


class Room:
    """Where a few stand while the limit is reached."""

    def __init__(self) -> None:
        self._standing: list[Standing] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._standing)

    def enter(
        self,
        value: float,
        since: float,
        take: Callable[[int], None],
        refuse: Callable[[], None],
        places: int,
    ) -> Standing | None:
        """Stand, if there is a place or somebody less important. Returns whom it pushed out: the
        newcomer itself where all others are at least as important. O(places)."""
        self._number -= 1
        insort(self._standing, Standing(value, self._number, since, take, refuse))
        return self._standing.pop(0) if len(self._standing) > places else None

    def leave(self) -> Standing:
        """The most important one."""
        return self._standing.pop()

    def expire(self, before: float) -> list[Standing]:
        """Those who stand since ``before`` or longer. O(n)."""
        gone = [one for one in self._standing if one.since <= before]
        self._standing = [one for one in self._standing if one.since > before]
        return gone

    def oldest(self) -> float:
        """Since when somebody has stood here; never where nobody does."""
        return min((one.since for one in self._standing), default=math.inf)


class Pace:
    """Tells the refused, so many for each authorization decided; the others hear it a little later.

    To read and refuse costs up to half of a decision: at five times the load it would leave no time
    to decide. A caller that has not heard yet sends nothing else on its connection, so that what
    comes beyond the pace stays where it came from. Where nothing is decided, as while the broker
    stands still, there is time enough, and all are told.
    """

    def __init__(self) -> None:
        self._allowed = TOLD_AT_ONCE
        self._decided_at = -math.inf
        self._untold: deque[tuple[float, Callable[[], None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._now: Callable[[], float] | None = None
        """The loop's; to ask for the loop is a system call in Python 3.11, 3 us of a decision."""

    def __len__(self) -> int:
        return len(self._untold)

    def refused(self, tell: Callable[[], None]) -> None:
        """Tell when its turn comes; within UNTOLD_MAX_S at the latest."""
        loop = asyncio.get_running_loop()
        if not self._untold and (self._allowed >= 1 or self._idle(loop)):
            self._allowed -= 1
            tell()
            return
        self._untold.append((loop.time() + UNTOLD_MAX_S, tell))
        if self._timer is None:
            self._timer = loop.call_later(IDLE_S, self._look, loop)

    def decided(self, count: int = 1) -> None:
        """Tell as many as so many decisions allow."""
        if self._now is None:
            self._now = asyncio.get_running_loop().time
        self._decided_at = self._now()
        self._allowed = min(TOLD_AT_ONCE, self._allowed + TOLD_PER_DECIDED * count)
        while self._untold and self._allowed >= 1:
            self._allowed -= 1
            self._untold.popleft()[1]()

    def close(self) -> None:
        """Tell all."""
        while self._untold:
            self._untold.popleft()[1]()

    def _idle(self, loop: asyncio.AbstractEventLoop) -> bool:
        return loop.time() - self._decided_at >= IDLE_S

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        idle = self._idle(loop)
        while self._untold and (idle or self._untold[0][0] <= loop.time()):
            self._untold.popleft()[1]()
        self._timer = loop.call_later(IDLE_S, self._look, loop) if self._untold else None


class Peeked(msgspec.Struct, gc=False):
    """As much of an authorization as its importance needs."""

    amount_minor: int
    currency: str
    channel: str = ""
    tenant: str = ""


_peek = msgspec.json.Decoder(Peeked)


class Admission:
    """Of one event loop. While ``inside < limit.value``, add to ``inside`` and decide; past it,
    ``stand``. Whoever was inside has to ``leave``.

    deadline_ms: the default one. in_flight_max: of those inside and those standing together.
    reference: amount and currency to minor units of the reference currency; raises Rejected.
    """

    def __init__(
        self,
        *,
        deadline_ms: int,
        in_flight_max: int,
        weights: Weights,
        reference: Callable[[int, str], int],
    ) -> None:
        most = max(round(in_flight_max * DECIDED), min(in_flight_max, LIMIT_MIN))
        self.inside = 0
        """Being decided now."""
        self.limit = Limit(round(deadline_ms * 1000 * TARGET), most)
        self.pace = Pace()
        self.shed: Counter[tuple[str, str]] = Counter()
        """Refused since last asked, by reason and priority; whoever reads it empties it."""
        self._in_flight_max = in_flight_max
        self._stand_s = deadline_ms * STAND / 1000
        self._weights = weights
        self._reference = reference
        self._room = Room()
        self._timer: asyncio.TimerHandle | None = None
        self._letting_in = False

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self.inside >= self.limit.value

    @property
    def in_flight(self) -> int:
        """Inside, standing, and refused without having heard it."""
        return self.inside + len(self._room) + len(self.pace)

    def stand(self, body: bytes, take: Callable[[int], None], refuse: Callable[[], None]) -> None:
        """Wait for a place. Exactly one of take and refuse is called, now or soon."""
        value = self.value(body)
        places = min(self.limit.value, self._in_flight_max - self.inside)
        if places <= 0:
            self.refuse(FULL, value, refuse)
            return
        loop = asyncio.get_running_loop()
        pushed = self._room.enter(value, loop.time(), take, refuse, places)
        if pushed is not None:
            self.refuse(OUTRANKED, pushed.value, pushed.refuse)
        if self._timer is None:
            self._timer = loop.call_later(self._stand_s, self._expire, loop)

    def leave(self, count: int = 1) -> None:
        """So many are decided, or were refused for what they are: others may come in."""
        self.inside -= count
        self.pace.decided(count)
        if self._letting_in or not len(self._room):
            return
        self._letting_in = True  # whoever is refused at once leaves at once
        try:
            while len(self._room) and self.inside < self.limit.value:
                one = self._room.leave()
                one.take(round((asyncio.get_running_loop().time() - one.since) * SECOND_US))
        finally:
            self._letting_in = False

    def refuse(self, reason: str, value: float, tell: Callable[[], None]) -> None:
        """Count one, and have it told when its turn comes."""
        self.count(reason, value)
        self.pace.refused(tell)

    def count(self, reason: str, value: float) -> None:
        """Count one that is refused together with others."""
        self.shed[reason, priority(value)] += 1

    def value_of(self, arrival: Arrival) -> float:
        """What is at stake in an authorization that was read."""
        return arrival.amount_minor * self._weights.of(arrival.auth.channel, arrival.auth.tenant)

    def value(self, body: bytes) -> float:
        """The same of one that was not. What cannot be read is worth nothing."""
        try:
            seen = _peek.decode(body)
            amount = self._reference(seen.amount_minor, seen.currency)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Rejected, KeyError):
            return 0.0
        return amount * self._weights.of(seen.channel, seen.tenant)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        for one in self._room.expire(loop.time() - self._stand_s):
            self.refuse(LATE, one.value, one.refuse)
        self._timer = (
            loop.call_at(self._room.oldest() + self._stand_s, self._expire, loop)
            if len(self._room)
            else None
        )

    def close(self) -> None:
        """Refuse who still stands, and tell all who wait to hear it."""
        for one in self._room.expire(math.inf):
            self.refuse(LATE, one.value, one.refuse)
        self.pace.close()
