"""The featurizer: decisions and labels become states.

A decision updates its card's state here and leaves an observation for its terminal, merchant and
device; a label leaves one for all four. Observations go to the partition of their entity, a batch's
in one record a partition, and update states. Every step may run again: a state knows the last
offset of each source, and skips what it has seen.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from sluice.application import recorded
from sluice.application.ports import Ints, Message, Partition, StateStore, StateUpdate
from sluice.domain.features import states
from sluice.domain.features.events import (
    AMOUNT,
    CARD,
    DECLINED,
    DEVICE,
    EVENT_US,
    MERCHANT,
    TERMINAL,
    WIDTH,
    event_row,
    event_rows,
)
from sluice.domain.features.kernel import (
    AUTHORIZATION,
    DONE,
    DUPLICATE,
    FRAUD,
    GENUINE,
    REDELIVERED,
    TOO_OLD,
    U_KIND,
    U_KNOWN_US,
    U_OFFSET,
    U_SOURCE,
    UPDATE_WIDTH,
    WITHDRAWN,
    scratch,
    update,
)
from sluice.domain.records.authorization import encode
from sluice.domain.records.entity import ENTITY_KINDS, EntityKind, key_of
from sluice.domain.records.identifiers import tag32
from sluice.domain.records.label import Label
from sluice.domain.records.observation import COLUMNS, ROWS_MAX, Observations
from sluice.domain.records.outcome import Outcome
from sluice.domain.records.superseded import REACH, Superseded
from sluice.errors import Corrupt, Unavailable
from sluice.faultpoints import kill_at

SWAP_ATTEMPTS_MAX = 8
"""Rounds against other writers of a state before the batch is given up and read again."""
STATES_MAX = 20_000
"""Of one round: bounds what is held of them, 10 MB at 500 bytes each, whatever a batch brings."""
_RESULTS = {REDELIVERED: "redelivered", DUPLICATE: "duplicate", TOO_OLD: "too_old"}

Entity = tuple[EntityKind, str]
Flags = npt.NDArray[np.bool_]
T = TypeVar("T")


class ObservationLog(Protocol):
    """``observations.v1``."""

    @property
    def partitions(self) -> int:
        """How many it has; the same for as long as this process runs. Raises Unavailable."""
        ...

    def produce(self, partition: int, value: bytes) -> None:
        """Take one record; may wait while a queue is full. Raises Unavailable."""
        ...

    def flush(self) -> None:
        """Return when all are durable. Raises Unavailable."""
        ...


_observations = msgspec.json.Decoder(Observations).decode
_labels = msgspec.json.Decoder(Label).decode


Earlier = Callable[[int, int, int], Iterable[Message]]
"""Records of ``decisions.v1``: partition, first offset, and the offset behind the last."""


class Applied(msgspec.Struct):
    """What a batch did. results: by (topic's stem, result); observations count one by one."""

    results: Counter[tuple[str, str]]
    written: Counter[str]
    conflicts: Counter[str]
    decided_at: list[int]
    """When the decisions among them were made: tells how far behind states are."""


class _Rows(NamedTuple):
    """Updates of states, (n,) entities and as many rows of events and changes for the kernel."""

    entities: list[Entity]
    events: Ints
    changes: Ints


class _Grouped(NamedTuple):
    """The same by entity: the first sizes[0] rows are entities[0]'s. sizes: (k,)."""

    entities: list[Entity]
    sizes: Ints
    events: Ints
    changes: Ints
    own: Flags
    """(n,) whether a row is a decision's own card, or was observed."""


class Featurizer:
    """Applies batches of records. One per process; not thread-safe."""

    def __init__(
        self,
        *,
        store: StateStore,
        observations: ObservationLog,
        topics: Mapping[str, str],
        stage: Callable[[str, float], None] = lambda _stage, _seconds: None,
        answers_since: Callable[[], int] = lambda: 0,
        earlier: Earlier = lambda _partition, _first, _end: (),
    ) -> None:
        """topics: topic name to "decisions", "observations" or "labels". answers_since: moment
        before which an answer is not remembered any more; a rebuild reads weeks of them. earlier:
        read once a partition, for the ids decided before the first record of a batch."""
        self._store = store
        self._observations = observations
        self._topics = topics
        self._stage = stage
        self._answers_since = answers_since
        self._earlier = earlier
        self._superseded: dict[int, Superseded] = {}
        """By partition of ``decisions.v1``."""
        self._work = scratch()

    def apply(self, batch: Sequence[Message]) -> Applied:
        """Take effect of a batch; when it returns, its offsets may be committed.

        Raises Corrupt for a record that is none of ours: these topics have no other writers.
        Raises Unavailable if store or broker is; the batch can then be applied again.
        """
        since = time.perf_counter()
        records: dict[str, list[Message]] = {
            "decisions": [],
            "observations": [],
            "labels": [],
        }
        for record in batch:
            records[self._topics[record.topic]].append(record)
        decided = _decoded(recorded.read, records["decisions"], "decisions")
        places, decided = self._counting(records["decisions"], decided)
        seen = _decoded(_observations, records["observations"], "observations")
        labels = _decoded(_labels, records["labels"], "labels")

        own = _card_rows(decided, _places(states.DECISIONS, places))
        others = _observed_rows(seen)
        if decided:
            self._observe_decisions(decided, own)
        uncounted = Counter(label.uncounted for label in labels if label.uncounted is not None)
        if labels:
            self._observe_labels(labels, _places(states.LABELS, records["labels"]))
        done = Applied(Counter(), Counter(), Counter(), [one.rest.decided_at for one in decided])
        done.results["decisions", "applied"] = len(decided)
        done.results["decisions", "superseded"] = len(records["decisions"]) - len(decided)
        done.results["observations", "applied"] = len(others.entities)
        done.results["labels", "applied"] = len(labels) - uncounted.total()
        done.results.update({("labels", why): number for why, number in uncounted.items()})
        since = self._lap("decode", since)
        self._store_states(own, others, done)
        kill_at("featurizer.after_states")
        since = self._lap("write", since)
        oldest_us = self._answers_since()
        if answers := [
            recorded.answered(one)[:4] for one in decided if one.rest.decided_at >= oldest_us
        ]:
            self._store.remember(answers)
        self._observations.flush()
        kill_at("featurizer.after_observations")
        self._lap("produce", since)
        done.results = +done.results  # without the zeros
        return done

    def forget(self, partitions: Iterable[Partition]) -> None:
        """What was read of these: another member had them."""
        for topic, number in partitions:
            if self._topics[topic] == "decisions":
                self._superseded.pop(number, None)

    def _counting(
        self, messages: Sequence[Message], decided: Sequence[recorded.Recorded]
    ) -> tuple[list[Message], list[recorded.Recorded]]:
        """Those of the records that count: not a second one of an id."""
        places: list[Message] = []
        counting: list[recorded.Recorded] = []
        windows: dict[int, Superseded] = {}
        for message, one in zip(messages, decided, strict=True):
            window = windows.get(message.partition)
            if window is None:
                window = self._window(message.partition, message.offset)
                windows[message.partition] = window
            auth = one.authorization
            if not window.read(message.offset, auth.tenant, auth.authorization_id):
                places.append(message)
                counting.append(one)
        return places, counting

    def _window(self, partition: int, offset: int) -> Superseded:
        """A partition's, for a batch that begins at this offset. Raises Unavailable."""
        window = self._superseded.get(partition)
        if window is None or offset < window.since:
            window = Superseded(since=offset)
            before = list(self._earlier(partition, max(0, offset - REACH), offset))
            for message, one in zip(
                before, _decoded(recorded.read, before, "decisions"), strict=True
            ):
                auth = one.authorization
                window.read(message.offset, auth.tenant, auth.authorization_id)
            self._superseded[partition] = window
        else:
            # A batch begins where the one before ended, unless that comes again.
            window.forget_before(offset)
        return window

    def _lap(self, stage: str, since: float) -> float:
        now = time.perf_counter()
        self._stage(stage, now - since)
        return now

    def _observe_decisions(self, decided: Sequence[recorded.Recorded], own: _Rows) -> None:
        auths = [one.authorization for one in decided]
        events = own.events
        remote = np.flatnonzero(events[:, DEVICE])
        whose = np.concatenate([np.arange(len(auths)), np.arange(len(auths)), remote])
        tags = np.concatenate([events[:, TERMINAL], events[:, MERCHANT], events[remote, DEVICE]])
        entities: list[Entity] = [("terminal", auth.terminal_id) for auth in auths]
        entities += [("merchant", auth.merchant_id) for auth in auths]
        entities += [("device", auth.device_id) for auth in auths if auth.device_id is not None]
        self._observe(_Rows(entities, events[whose], own.changes[whose]), tags)

    def _observe_labels(self, labels: Sequence[Label], places: Sequence[tuple[int, int]]) -> None:
        entities: list[Entity] = []
        tags: list[int] = []
        changes: list[tuple[int, ...]] = []
        taken_back: list[int] = []
        for label, place in zip(labels, places, strict=True):
            if label.uncounted is not None:
                continue
            kind = FRAUD if label.is_fraud else GENUINE
            if label.withdraws is not None:
                kind = WITHDRAWN
            for entity in ENTITY_KINDS:
                key = key_of(label, entity)
                if key is not None:
                    entities.append((entity, key))
                    tags.append(tag32(key))
                    changes.append((kind, *place, label.known_at))
                    taken_back.append(label.withdraws or 0)
        if not entities:
            return
        events = np.zeros((len(entities), WIDTH), np.int64)
        events[:, EVENT_US] = taken_back
        rows = _Rows(entities, events, np.array(changes, np.int64))
        self._observe(rows, np.array(tags, np.int64))

    def _observe(self, rows: _Rows, tags: Ints) -> None:
        """Send each row to the partition of its entity's tag. Rows of one keep their order."""
        count = self._observations.partitions
        partitions = tags % count
        order = np.argsort(partitions, kind="stable")
        events, changes = rows.events[order], rows.changes[order]
        entities = [rows.entities[i] for i in order.tolist()]
        at_us = np.where(
            changes[:, U_KIND] == AUTHORIZATION, events[:, EVENT_US], changes[:, U_KNOWN_US]
        )
        withdrawn = changes[:, U_KIND] == WITHDRAWN
        columns = (
            changes[:, U_SOURCE],
            changes[:, U_OFFSET],
            np.where(withdrawn, GENUINE, changes[:, U_KIND]),
            at_us,
            events[:, AMOUNT],
            events[:, CARD],
            events[:, DECLINED],
        )
        lists = [
            [kind for kind, _ in entities],
            [key for _, key in entities],
            *(column.tolist() for column in columns),
        ]
        end = 0
        for partition, size in enumerate(np.bincount(partitions, minlength=count).tolist()):
            start, end = end, end + size
            for at in range(start, end, ROWS_MAX):
                some = slice(at, min(at + ROWS_MAX, end))
                columns_of = {c: x[some] for c, x in zip(COLUMNS, lists, strict=False)}
                if withdrawn[some].any():
                    columns_of["withdrawn_us"] = np.where(withdrawn, events[:, EVENT_US], 0)[
                        some
                    ].tolist()
                self._observations.produce(partition, encode(Observations(**columns_of)))

    def _store_states(self, own: _Rows, others: _Rows, done: Applied) -> None:
        """Group the rows by entity, keeping their order; store STATES_MAX at a time."""
        index: defaultdict[Entity, int] = defaultdict()
        index.default_factory = index.__len__
        whose = np.array([index[entity] for entity in chain(own.entities, others.entities)], int)
        order = np.argsort(whose, kind="stable")
        grouped = _Grouped(
            list(index),
            np.bincount(whose),
            np.concatenate([own.events, others.events])[order],
            np.concatenate([own.changes, others.changes])[order],
            order < len(own.entities),
        )
        ends = np.cumsum(grouped.sizes)
        for at in range(0, len(index), STATES_MAX):
            sizes = grouped.sizes[at : at + STATES_MAX]
            some = slice(ends[at] - sizes[0], ends[at] - sizes[0] + sizes.sum())
            self._swap(
                _Grouped(
                    grouped.entities[at : at + STATES_MAX],
                    sizes,
                    grouped.events[some],
                    grouped.changes[some],
                    grouped.own[some],
                ),
                done,
            )

    def _swap(self, left: _Grouped, done: Applied) -> None:
        """Read, update and compare-and-set until every state is stored."""
        for _ in range(SWAP_ATTEMPTS_MAX):
            before = self._store.read(left.entities)
            updated = update(
                left.entities,
                before,
                np.concatenate([[0], np.cumsum(left.sizes)]),
                left.events,
                left.changes,
                self._work,
            )
            versions = [
                (states.etag(old), states.etag(new))
                for old, new in zip(before, updated.states, strict=True)
            ]
            puts = [
                StateUpdate(kind, key, old, state, max(newest, 0))
                for (kind, key), (old, new), state, newest in zip(
                    left.entities, versions, updated.states, updated.newest_us, strict=True
                )
                if old != new
            ]
            stored = self._store.write(puts)
            done.written.update(put.entity for put, ok in zip(puts, stored, strict=True) if ok)
            refused = {(p.entity, p.key) for p, ok in zip(puts, stored, strict=True) if not ok}
            lost = np.array([entity in refused for entity in left.entities], np.bool_)
            lost_rows = np.repeat(lost, left.sizes)
            _count_others(left.own, updated.statuses, lost_rows, done)
            if not refused:
                return
            done.conflicts.update(kind for kind, _ in refused)
            left = _Grouped(
                [entity for entity in left.entities if entity in refused],
                left.sizes[lost],
                left.events[lost_rows],
                left.changes[lost_rows],
                left.own[lost_rows],
            )
        raise Unavailable(
            f"{len(left.entities)} states keep changing under us",
            fix="two featurizers of different groups write one store: stop one",
        )


def _count_others(own: Flags, statuses: Ints, lost: Flags, done: Applied) -> None:
    """Every row counts as applied when it is read; count those again that were not."""
    reported = np.flatnonzero((statuses != DONE) & ~lost)
    for is_own, status in zip(own[reported].tolist(), statuses[reported].tolist(), strict=True):
        stem = "decisions" if is_own else "observations"
        done.results[stem, "applied"] -= 1
        done.results[stem, _RESULTS[status]] += 1


def _decoded(decode: Callable[[bytes], T], records: Sequence[Message], stem: str) -> list[T]:
    done: list[T] = []
    try:
        for record in records:
            done.append(decode(record.value))
    except MemoryError:
        raise
    except Exception as exc:  # text that is no UTF-8, brackets too deep: a place to go on from
        bad = records[len(done)]
        raise Corrupt(
            f"a record of {stem} cannot be read: {exc}",
            where=f"{bad.topic}/{bad.partition}@{bad.offset}",
            fix="find the foreign writer of this topic, then skip this offset",
        ) from exc
    return done


def _places(kind: int, records: Sequence[Message]) -> list[tuple[int, int]]:
    """Source and offset of each."""
    sources = {p: states.source(kind, p) for p in {record.partition for record in records}}
    return [(sources[record.partition], record.offset) for record in records]


def _card_rows(decided: Sequence[recorded.Recorded], places: Sequence[tuple[int, int]]) -> _Rows:
    """What decisions do to their cards."""
    rows = [
        event_row(
            one.authorization,
            one.rest.reference_amount_minor,
            declined=one.rest.outcome is Outcome.DECLINE,
        )
        for one in decided
    ]
    changes = np.zeros((len(rows), UPDATE_WIDTH), np.int64)
    changes[:, U_KIND] = AUTHORIZATION
    if places:
        changes[:, [U_SOURCE, U_OFFSET]] = places
    return _Rows(
        [("card", one.authorization.card_token) for one in decided], event_rows(rows), changes
    )


def _observed_rows(seen: Sequence[Observations]) -> _Rows:
    """What observations do to their entities."""

    def column(name: str) -> Ints:
        return np.array([*chain.from_iterable(getattr(o, name) for o in seen)], np.int64)

    entities = [entity for o in seen for entity in zip(o.entity, o.key, strict=True)]
    events = np.zeros((len(entities), WIDTH), np.int64)
    changes = np.empty((len(entities), UPDATE_WIDTH), np.int64)
    changes[:, U_KIND] = column("kind")
    changes[:, U_SOURCE] = column("source")
    changes[:, U_OFFSET] = column("offset")
    changes[:, U_KNOWN_US] = events[:, EVENT_US] = column("at_us")
    events[:, AMOUNT] = column("amount_minor")
    events[:, CARD] = column("card_tag")
    events[:, DECLINED] = column("declined")
    if any(o.withdrawn_us is not None for o in seen):
        taken_back = np.array(
            [*chain.from_iterable(o.withdrawn_us or [0] * len(o.key) for o in seen)], np.int64
        )
        withdrawn = taken_back > 0
        changes[withdrawn, U_KIND] = WITHDRAWN
        events[withdrawn, EVENT_US] = taken_back[withdrawn]
    return _Rows(entities, events, changes)
