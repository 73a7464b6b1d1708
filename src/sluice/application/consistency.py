"""The consistency check: served vectors recomputed from the archive, and compared bit for bit.

A decision names the version of each state it was served from, so its vector must come out of the
archived events up to there. It is compared only once the archive holds them all: until then it
waits, is counted, and is tried again. What cannot be compared never counts as equal.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from sluice.application.rejudge import COMPARED, Library, rejudge
from sluice.application.replay import EventHistory, Recomputed, Replay
from sluice.application.spread import Spread, one_by_one
from sluice.domain.clock import SECOND_US, Clock
from sluice.domain.features import catalogue
from sluice.domain.features.states import DECISIONS, PARTITIONS_MAX, source
from sluice.domain.records.decision import Decision
from sluice.errors import Rejected

VIEWS = catalogue.VIEWS
GROUP_MAX = 5_000
"""Decisions recomputed together: with their states about 150 MB."""
ROUND_MAX = 10_000
"""Decisions of one round of the continuous check; the rest comes in the next."""
WAITING_MAX = 50_000
"""Decisions that may wait for their turn, or for the archive. Past it the oldest are given up, and
counted."""
EXAMPLES_MAX = 5
"""Differing decisions that a report tells in full."""
MILLION = 1_000_000
TOO_MANY = "too_many_events"
"""Code of an event history's refusal to hold the events of so many entities."""


class Drawn(NamedTuple):
    """One decision of the sample: where it lies in ``decisions.v1``, and when it was made."""

    partition: int
    offset: int
    decided_at: int


class SampleSource(Protocol):
    """The archive, as the consistency check needs it."""

    def ends(self) -> dict[int, int]:
        """Last offset held of each source."""
        ...

    def drawn(
        self, sample_ppm: int, after: Mapping[int, int], upto: Mapping[int, int]
    ) -> Iterator[Drawn]:
        """The sample of the decisions behind ``after`` and not behind ``upto``, by partition.

        sample_ppm: share of all decisions, chosen by their authorization's id, so that whoever
        draws again draws the same. A partition that ``after`` does not name is taken whole.
        """
        ...

    def decisions(self, places: Sequence[Drawn]) -> list[Decision]:
        """(n,) places to n decisions, decoded from their own bytes."""
        ...

    def event_history(self, keys: Mapping[str, Collection[str]]) -> EventHistory:
        """All events of these entities, keys by view. Raises Rejected (TOO_MANY)."""
        ...


class Example(msgspec.Struct, frozen=True):
    """A decision whose vector does not come out again. features: name to [served, recomputed]."""

    authorization_id: str
    place: str
    features: dict[str, list[int]]


class ReplayExample(msgspec.Struct, frozen=True):
    """A decision that is judged otherwise. fields: name to [recorded, recomputed]."""

    authorization_id: str
    place: str
    fields: dict[str, list[str]]


class Freshness(msgspec.Struct, frozen=True):
    """One view of the decisions compared.

    behind_ms: how long the oldest decision about the entity had been made that the state served
    did not hold (nor the pending entries); 0 for most. behind: decisions with any such.
    """

    held: int
    new: int
    missing: int
    behind: int
    behind_ms_p50: float
    behind_ms_p99: float
    behind_ms_max: float


class PendingReport(msgspec.Struct, frozen=True):
    """decisions: had pending entries. mattered: would have had another vector without them."""

    decisions: int
    entries: int
    mattered: int


class Report(msgspec.Struct, frozen=True):
    """What a consistency check found. parity: equal / compared, null if nothing could be compared.

    waiting: name events that the archive does not hold yet. too_large: their entities have more
    events than an event history may hold. other_catalogue: made by a build with another catalogue,
    which alone can read their vector. gave_up: waited in vain. features: by name, how many vectors
    differ there, worst first;
    ``<view>_version`` is a version that the archive's events do not make.
    """

    compared: int
    equal: int
    differing: int
    parity: float | None
    worst: str | None
    waiting: int
    too_large: int
    other_catalogue: int
    gave_up: int
    entrypoints: dict[str, int]
    levels: dict[str, int]
    features: dict[str, int]
    examples: list[Example]
    freshness: dict[str, Freshness]
    pending: PendingReport
    defaulted: dict[str, int]
    """By feature: served its default because its view was missing or never written."""
    replayed: dict[str, int] = {}
    """Whole decisions judged again: how many by result, none where nothing holds policies."""
    fields: dict[str, int] = {}
    """Of them, by field besides the features: how many came out otherwise, worst first."""
    replay_examples: list[ReplayExample] = []
    why: list[str] = []
    """What was in the way of those that could not be judged again."""


@dataclass(slots=True)
class Tally:
    """Counts of decisions looked at, and nothing about any card."""

    compared: int = 0
    differing: int = 0
    waiting: int = 0
    too_large: int = 0
    other_catalogue: int = 0
    gave_up: int = 0
    entrypoints: Counter[str] = field(default_factory=Counter)
    levels: Counter[str] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    behind_us: dict[str, list[int]] = field(default_factory=lambda: {v: [] for v in VIEWS})
    """Of states that were not missing."""
    new: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    with_pending: int = 0
    pending_entries: int = 0
    pending_mattered: int = 0
    replayed: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    replay_examples: list[ReplayExample] = field(default_factory=list)
    why: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count what another one counted, of decisions behind ours: a sum, and the first examples
        of all."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            match mine:
                case int():
                    setattr(self, each.name, mine + theirs)
                case Counter():
                    mine.update(theirs)
                case dict():
                    for view, ages in theirs.items():
                        mine[view] += ages
                case list():
                    mine += [one for one in theirs if one not in mine]
                    del mine[EXAMPLES_MAX:]

    @property
    def parity(self) -> float | None:
        """Share of the compared that are equal."""
        return (self.compared - self.differing) / self.compared if self.compared else None

    @property
    def worst(self) -> str | None:
        """The feature that most vectors differ in."""
        return self.features.most_common(1)[0][0] if self.features else None

    def report(self) -> Report:
        """For people and gates."""
        return Report(
            compared=self.compared,
            equal=self.compared - self.differing,
            differing=self.differing,
            parity=self.parity,
            worst=self.worst,
            waiting=self.waiting,
            too_large=self.too_large,
            other_catalogue=self.other_catalogue,
            gave_up=self.gave_up,
            entrypoints=dict(self.entrypoints),
            levels=dict(sorted(self.levels.items())),
            features=dict(self.features.most_common()),
            examples=self.examples,
            freshness={view: self._freshness(view) for view in VIEWS},
            pending=PendingReport(self.with_pending, self.pending_entries, self.pending_mattered),
            defaulted={
                f.name: n
                for f in catalogue.FEATURES
                if (n := self.new[f.entity] + self.missing[f.entity])
            },
            replayed=dict(self.replayed),
            fields=dict(self.fields.most_common()),
            replay_examples=self.replay_examples,
            why=self.why,
        )

    def _freshness(self, view: str) -> Freshness:
        ages = np.array(self.behind_us[view] or [0], np.int64)
        p50, p99 = np.percentile(ages, (50, 99), method="higher")
        return Freshness(
            held=len(self.behind_us[view]) - self.new[view],
            new=self.new[view],
            missing=self.missing[view],
            behind=int((ages > 0).sum()),
            behind_ms_p50=int(p50) / 1000,
            behind_ms_p99=int(p99) / 1000,
            behind_ms_max=int(ages.max()) / 1000,
        )


class Checked(NamedTuple):
    """What was found, and the decisions that the archive could not tell of yet."""

    tally: Tally
    waiting: list[Drawn]


def check(
    sample_source: SampleSource,
    places: Sequence[Drawn],
    ends: Mapping[int, int],
    library: Library | None = None,
    spread: Spread = one_by_one,
) -> Checked:
    """Recompute these decisions and compare. ends: what the archive held before they were drawn.
    library: to judge them again, score, policy and reasons; None compares vectors alone. spread:
    where groups of them are."""
    tally = Tally()
    waiting: list[Drawn] = []
    groups = [places[at : at + GROUP_MAX] for at in range(0, len(places), GROUP_MAX)]
    for group in spread(partial(_group_check, sample_source, ends, library), groups):
        tally.add(group.tally)
        waiting += group.waiting
    tally.waiting = len(waiting)
    return Checked(tally, waiting)


def _group_check(
    sample_source: SampleSource, ends: Mapping[int, int], library: Library | None
) -> Callable[[Sequence[Drawn]], Checked]:
    """The check of at most GROUP_MAX decisions."""

    def checked(group: Sequence[Drawn]) -> Checked:
        tally = Tally()
        waiting: list[Drawn] = []
        ready: list[tuple[Drawn, Decision]] = []
        for place, decision in zip(group, sample_source.decisions(group), strict=True):
            if decision.catalogue != catalogue.DIGEST:
                tally.other_catalogue += 1
            elif is_ahead(decision, ends):
                waiting.append(place)
            else:
                ready.append((place, decision))
        _compare(sample_source, ready, tally, library)
        return Checked(tally, waiting)

    return checked


class ConsistencyCheck:
    """Goes through the archive's decisions round by round, a sample of them, each once."""

    def __init__(
        self,
        sample_source: SampleSource,
        clock: Clock,
        *,
        sample_ppm: int,
        settle_s: float,
        lookback_s: float,
        library: Library | None = None,
    ) -> None:
        """settle_s: age from which a decision is looked at: by then the archive holds what was
        decided before it. lookback_s: age of the oldest that the first round looks at. library:
        see :func:`check`."""
        self._sample_source = sample_source
        self._clock = clock
        self._library = library
        self._sample_ppm = sample_ppm
        self._settle_us = round(settle_s * SECOND_US)
        self._since_us = clock.now_us() - round(lookback_s * SECOND_US)
        self._after: dict[int, int] = {}
        self._queue: deque[Drawn] = deque()
        self._waiting: deque[Drawn] = deque()

    def round(self) -> Tally:
        """Look at what is new and old enough, and once more at what waits.

        What is new goes first, so that decisions that wait in vain hold up no others.
        """
        ends = self._sample_source.ends()
        decided = decisions_of(ends)
        for one in self._sample_source.drawn(self._sample_ppm, self._after, decided):
            if one.decided_at >= self._since_us:
                self._queue.append(one)
        self._after = decided
        settled_us = self._clock.now_us() - self._settle_us
        ready = [one for one in self._queue if one.decided_at <= settled_us][:ROUND_MAX]
        again = list(islice(self._waiting, ROUND_MAX - len(ready)))
        tally, waiting = check(self._sample_source, [*ready, *again], ends, self._library)
        taken = set(ready)
        self._queue = deque(one for one in self._queue if one not in taken)
        self._waiting = deque([*islice(self._waiting, len(again), None), *waiting])
        for queue in (self._waiting, self._queue):
            while len(queue) > WAITING_MAX:
                queue.popleft()
                tally.gave_up += 1
        tally.waiting = len(self._waiting)
        return tally

    def oldest_waiting_s(self) -> float:
        """Age of the oldest decision that the archive cannot tell of yet; 0 without one."""
        if not self._waiting:
            return 0.0
        oldest = min(one.decided_at for one in self._waiting)
        return max(0, self._clock.now_us() - oldest) / SECOND_US


def newest(
    sample_source: SampleSource, sample_ppm: int, count: int, ends: Mapping[int, int]
) -> list[Drawn]:
    """The newest ``count`` of a sample of the whole archive, up to ends."""
    drawn = sample_source.drawn(sample_ppm, {}, decisions_of(ends))
    return heapq.nlargest(count, drawn, key=attrgetter("decided_at"))


def at_random(
    sample_source: SampleSource, count: int, seed: int, ends: Mapping[int, int]
) -> list[Drawn]:
    """``count`` decisions of the whole archive, up to ends, each as likely as any other; all if
    there are fewer. Keeps no more than these in memory."""
    rng = random.Random(seed)
    held: list[Drawn] = []
    for i, one in enumerate(sample_source.drawn(MILLION, {}, decisions_of(ends))):
        if len(held) < count:
            held.append(one)
        elif (at := rng.randrange(i + 1)) < count:
            held[at] = one
    return held


class Gate(NamedTuple):
    """A check, and what it says: 0 all that was compared is equal, 1 some vector differs, 2 fewer
    could be compared than were asked for."""

    report: Report
    status: int


def gate(
    sample_source: SampleSource,
    sample_ppm: int,
    count: int,
    at_least: int,
    library: Library | None = None,
    spread: Spread = one_by_one,
) -> Gate:
    """Check the newest ``count`` of a sample, once."""
    ends = sample_source.ends()
    places = newest(sample_source, sample_ppm, count, ends)
    return gate_of(sample_source, places, ends, at_least, library, spread)


def gate_of(
    sample_source: SampleSource,
    places: Sequence[Drawn],
    ends: Mapping[int, int],
    at_least: int,
    library: Library | None = None,
    spread: Spread = one_by_one,
) -> Gate:
    """Check these decisions, once. library, spread: see :func:`check`; with one, what is
    asked for are decisions judged again."""
    report = check(sample_source, places, ends, library, spread).tally.report()
    if report.differing or report.replayed.get("differing"):
        return Gate(report, 1)
    found = report.compared if library is None else report.replayed.get("equal", 0)
    return Gate(report, 2 if found < at_least else 0)


def decisions_of(ends: Mapping[int, int]) -> dict[int, int]:
    """Of the last offsets of all sources those of ``decisions.v1``, by partition."""
    first = source(DECISIONS, 0)
    return {s - first: end for s, end in ends.items() if first <= s < first + PARTITIONS_MAX}


def is_ahead(decision: Decision, ends: Mapping[int, int]) -> bool:
    """Whether it was served from events that the archive does not hold yet."""
    return any(
        offset > ends.get(source, -1)
        for view in VIEWS
        for source, offset in decision.states.of(view) or ()
    )


def _compare(
    sample_source: SampleSource,
    some: Sequence[tuple[Drawn, Decision]],
    tally: Tally,
    library: Library | None,
) -> None:
    """Compare decisions; half of them at once where one event history cannot hold their events."""
    if not some:
        return
    decisions = [decision for _, decision in some]
    try:
        replay = Replay(sample_source.event_history(keys_of(decisions)))
    except Rejected as error:
        if error.code != TOO_MANY:
            raise
        if len(some) == 1:
            tally.too_large += 1
            return
        half = len(some) // 2
        _compare(sample_source, some[:half], tally, library)
        _compare(sample_source, some[half:], tally, library)
        return
    again = replay.recompute(decisions)
    for i, (place, decision) in enumerate(some):
        _count(tally, place, decision, again, i)
        for view in VIEWS:
            if decision.states.of(view) is not None:
                tally.behind_us[view].append(replay.behind_us(view, decision))
    if library is None:
        return
    for (place, decision), judged in zip(some, rejudge(decisions, again, library), strict=True):
        tally.replayed[judged.result] += 1
        if judged.why and judged.why not in tally.why and len(tally.why) < EXAMPLES_MAX:
            tally.why.append(judged.why)
        told = [name for name in judged.differences if name in COMPARED]
        tally.fields.update(told)
        if told and len(tally.replay_examples) < EXAMPLES_MAX:
            tally.replay_examples.append(
                ReplayExample(
                    decision.authorization.authorization_id,
                    _place(place),
                    {name: [str(each) for each in judged.differences[name]] for name in told},
                )
            )


def keys_of(decisions: Sequence[Decision]) -> dict[str, set[str]]:
    """The entities that they name, by view."""
    named = {view: {decision.entity(view) for decision in decisions} for view in VIEWS}
    return {view: {key for key in keys if key is not None} for view, keys in named.items()}


def _place(place: Drawn) -> str:
    return f"decisions.v1/{place.partition}@{place.offset}"


def _count(tally: Tally, place: Drawn, decision: Decision, again: Recomputed, i: int) -> None:
    tally.compared += 1
    tally.entrypoints[decision.entrypoint] += 1
    tally.levels[decision.degradation_level] += 1
    served = np.array(decision.features, np.int64)
    different = np.flatnonzero(served != again.features[i])
    names = [catalogue.NAMES[f] for f in different]
    for view, made in zip(VIEWS, again.versions[i], strict=True):
        version = decision.states.of(view)
        tally.missing[view] += version is None
        tally.new[view] += version == []
        if version is not None and list(map(tuple, version)) != made:
            names.append(f"{view}_version")
    if names:
        tally.differing += 1
        tally.features.update(names)
        if len(tally.examples) < EXAMPLES_MAX:
            tally.examples.append(
                Example(
                    decision.authorization.authorization_id,
                    _place(place),
                    {
                        catalogue.NAMES[f]: [int(served[f]), int(again.features[i, f])]
                        for f in different
                    },
                )
            )
    if decision.pending:
        tally.with_pending += 1
        tally.pending_entries += len(decision.pending)
        tally.pending_mattered += bool((again.features[i] != again.without_pending[i]).any())
