"""Make the states again after the online store lost some: from the archive, then the topics.

While it runs the store says so, deciders serve none of its states (degradation level D2), and
featurizers stay away until the archive's part is written. What was killed half-way can be run
again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sluice.application.ports import (
    CATCHING_UP,
    NOEVICTION,
    READY,
    STORE_LOST,
    UNKNOWN,
    Offsets,
    Partition,
    StateUpdate,
    Watermark,
    WatermarkStore,
)
from sluice.application.replay import EventHistory
from sluice.domain.features.kernel import scratch, update
from sluice.domain.records.entity import ENTITY_KINDS
from sluice.errors import Misconfigured, Unavailable
from sluice.faultpoints import kill_at

EVENTS_A_CHUNK = 100_000
"""Events through the kernel at a time; bounds what it writes into."""
LEAVE_MAX_S = 90.0
"""A featurizer leaves its group within a batch; one that was killed, when its session ends."""
LOOK_EVERY_S = 0.5

Spans = Mapping[Partition, tuple[int, int]]
"""By topic and partition: the first offset still there, and the next to be written."""


class Group(Protocol):
    """The featurizers' consumer group."""

    def members(self) -> list[str]:
        """Who is in it."""
        ...

    def reset(self, offsets: Offsets) -> None:
        """Where it reads on; nobody may be in it."""
        ...


class Log(Protocol):
    """The topics."""

    def spans(self, topic: str) -> Mapping[int, tuple[int, int]]:
        """First and next offset of each partition."""
        ...

    def ends(self, topic: str) -> Mapping[int, int]:
        """Offset behind the last record of each partition."""
        ...


@dataclass(frozen=True, slots=True)
class TopicNames:
    """The three topics that featurizers read."""

    decisions: str
    labels: str
    observations: str


def starts(
    spans: Spans, archived: Offsets, observations: str, *, accept_gaps: bool = False
) -> dict[Partition, int]:
    """Where featurizers read on: behind the archive, else at the beginning; observations at their
    end, since they are made again from decisions and labels.

    spans: of all three topics. archived: offset behind the archive's last record of a partition;
    empty without an archive. Raises Misconfigured where records are in neither, unless
    accept_gaps, and where the archive is of another topic.
    """
    found: dict[Partition, int] = {}
    gaps: list[str] = []
    for place, (first, end) in spans.items():
        topic, number = place
        if topic == observations:
            found[place] = end
            continue
        at = archived.get(place, 0) if archived else first
        if at > end:
            raise Misconfigured(
                f"the archive ends at offset {at - 1}, the topic at {end - 1}",
                where=f"{topic}/{number}",
                fix="the topic was made anew: name the archive of this one, or --topic-alone",
            )
        if at < first:
            gaps.append(f"{topic}/{number}: {at} to {first - 1}")
        found[place] = max(at, first)
    if gaps and not accept_gaps:
        raise Misconfigured(
            f"offsets that neither archive nor topic holds: {'; '.join(gaps)}",
            fix="find the archive's missing files; or --topic-alone, which makes the 35 days of "
            "the windows; or --accept-gaps, and those events are not counted",
        )
    return found


def check_policy(policy: str) -> None:
    """Raise Misconfigured unless a store of this eviction policy keeps what is put there."""
    if policy not in (NOEVICTION, UNKNOWN):
        raise Misconfigured(
            f"the online store's maxmemory-policy is {policy}: it would be lost again",
            where="store.url",
            fix=f"CONFIG SET maxmemory-policy {NOEVICTION}, or in a managed store's parameters",
        )


def check_archive(held: Mapping[str, Collection[str]], ids: Mapping[str, str]) -> None:
    """Raise Misconfigured unless an archive's files are of the topics that are there now.

    held: ids in the newest file of each partition, by topic, "" where a file does not say. ids: of
    the topics now; none where the broker gives none.
    """
    for topic, found in held.items():
        if topic in ids and not set(found) <= {"", ids[topic]}:
            raise Misconfigured(
                "the archive is of another topic of this name, which was deleted and made again",
                where=topic,
                fix="name the archive of this one, or --topic-alone",
            )


class Rebuild:
    """One rebuild. fill: writes the archive's states, or None without an archive. policy: the
    store's eviction policy."""

    def __init__(
        self,
        *,
        watermark: WatermarkStore,
        group: Group,
        log: Log,
        topics: TopicNames,
        clear: Callable[[], int],
        fill: Callable[[], None] | None,
        archived: Offsets,
        policy: Callable[[], str] = lambda: UNKNOWN,
        accept_gaps: bool = False,
        report: Callable[[str], None] = lambda _text: None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._watermark = watermark
        self._group = group
        self._log = log
        self._topics = topics
        self._clear = clear
        self._fill = fill
        self._archived = archived
        self._policy = policy
        self._accept_gaps = accept_gaps
        self._report = report
        self._wait = wait

    def run(self) -> None:
        """Returns when the store is ready. Raises Misconfigured before anything was touched;
        Unavailable if something is down, was lost again, or featurizers do not leave."""
        check_policy(self._policy())
        mark = self._watermark.read()
        if mark.state == CATCHING_UP:
            self._report("the archive's states are there already: waiting for the featurizers")
        else:
            mark = self._make()
        self._catch_up(mark.id, (self._topics.decisions, self._topics.labels))
        self._catch_up(mark.id, (self._topics.observations,))
        self._watermark.move(mark.id, READY)

    def _make(self) -> Watermark:
        def plan() -> dict[Partition, int]:
            spans = {
                (topic, number): span
                for topic in (
                    self._topics.decisions,
                    self._topics.labels,
                    self._topics.observations,
                )
                for number, span in self._log.spans(topic).items()
            }
            return starts(
                spans, self._archived, self._topics.observations, accept_gaps=self._accept_gaps
            )

        plan()
        watermark_id = self._watermark.begin()
        self._wait_until_left()
        self._report(f"{self._clear():,} old states removed")
        if self._fill is not None:
            self._fill()
        kill_at("rebuild.filled")
        offsets = plan()  # again: the last featurizer may have left observations behind it
        self._group.reset(offsets)
        kill_at("rebuild.reset")
        self._watermark.move(watermark_id, CATCHING_UP, offsets)
        kill_at("rebuild.catching_up")
        return self._watermark.read()

    def _wait_until_left(self) -> None:
        waited_s = 0.0
        while members := self._group.members():
            if waited_s >= LEAVE_MAX_S:
                raise Unavailable(
                    f"still in the featurizers' group: {', '.join(members)}",
                    fix="stop them, then run this again; the store waits",
                )
            self._report(f"waiting for {', '.join(members)} to leave")
            self._wait(LOOK_EVERY_S)
            waited_s += LOOK_EVERY_S

    def _catch_up(self, watermark_id: str, topics: Sequence[str]) -> None:
        """Wait until all that lies in these topics now has taken effect."""
        ends = {(t, number): end for t in topics for number, end in self._log.ends(t).items()}
        while True:
            mark = self._watermark.read()
            if mark.id != watermark_id or mark.state != CATCHING_UP:
                raise Unavailable(
                    f"the store is {mark.state} again", fix="run this again", code=STORE_LOST
                )
            behind = sum(max(0, end - mark.applied.get(at, 0)) for at, end in ends.items())
            if not behind:
                return
            idle = "" if self._group.members() else "; no featurizer is running"
            self._report(f"{behind:,} records of {', '.join(topics)} to be applied{idle}")
            self._wait(LOOK_EVERY_S)


def states_of(
    event_history: EventHistory, chunk: int = EVENTS_A_CHUNK
) -> Iterator[list[StateUpdate]]:
    """Every state that an event history makes, to be written where there is none.

    In pieces of about so many events; one entity is never cut.
    """
    work = scratch()
    for view, kind in enumerate(ENTITY_KINDS):
        codes, keys = event_history.entities[view], list(event_history.codes[view])
        # Versions only rise, so each source's events must come in order; sources may mix.
        order = np.lexsort((event_history.changes[:, 2], codes))
        order = order[np.searchsorted(codes[order], 0) :]
        bounds = np.searchsorted(codes[order], np.arange(len(keys) + 1))
        first = 0
        while first < len(keys):
            reach = int(np.searchsorted(bounds, bounds[first] + chunk, side="right")) - 1
            last = min(max(reach, first + 1), len(keys))
            mine = order[bounds[first] : bounds[last]]
            entities = [(kind, key) for key in keys[first:last]]
            made = update(
                entities,
                [b""] * len(entities),
                (bounds[first : last + 1] - bounds[first]).astype(np.int64),
                event_history.events[mine],
                event_history.changes[mine],
                work,
            )
            yield [
                StateUpdate(kind, key, b"", state, max(newest, 0))
                for (_, key), state, newest in zip(
                    entities, made.states, made.newest_us, strict=True
                )
            ]
            first = last
