"""The featurizer: decisions and labels become states.

A decision updates its card's state here and leaves an observation for its terminal, merchant and
device; a label leaves one for all four. Observations, keyed by entity, update states. Every step
may run again: a state knows the last offset of each source, and skips what it has seen.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Protocol

import msgspec
import numpy as np

from sluice.application.decide import content_digest
from sluice.application.ports import Ints, StateStore, StateUpdate
from sluice.domain import states
from sluice.domain.authorization import Authorization, encode
from sluice.domain.decision import Answer, Rung
from sluice.domain.events import CARD, event_row, event_rows
from sluice.domain.identifiers import tag32
from sluice.domain.label import Label
from sluice.domain.observation import EntityKind, Observation
from sluice.domain.outcome import Outcome
from sluice.domain.windows import (
    AUTHORIZATION,
    DUPLICATE,
    FRAUD,
    GENUINE,
    REDELIVERED,
    TOO_OLD,
    scratch,
    update,
)
from sluice.errors import Corrupt, Unavailable
from sluice.faultpoints import kill_at

SWAP_ATTEMPTS_MAX = 8
"""Rounds against other writers of a state before the batch is given up and read again."""
_KINDS = {"authorization": AUTHORIZATION, "fraud": FRAUD, "genuine": GENUINE}
_RESULTS = {REDELIVERED: "redelivered", DUPLICATE: "duplicate", TOO_OLD: "too_old"}

Entity = tuple[EntityKind, str]


class Record(Protocol):
    """A message of one of the three topics."""

    @property
    def value(self) -> bytes:
        """JSON of a Decision, Observation or Label."""
        ...

    @property
    def topic(self) -> str:
        """Where it lay."""
        ...

    @property
    def partition(self) -> int:
        """Where it lay."""
        ...

    @property
    def offset(self) -> int:
        """Where it lay."""
        ...


class ObservationLog(Protocol):
    """``observations.v1``."""

    def produce(self, key: str, value: bytes) -> None:
        """Take one record; may wait while a queue is full. Raises Unavailable."""
        ...

    def flush(self) -> None:
        """Return when all are durable. Raises Unavailable."""
        ...


class _DecisionPart(msgspec.Struct, frozen=True):
    """What the featurizer needs of a Decision; skipping the rest halves the decoding."""

    authorization: Authorization
    reference_amount_minor: int
    outcome: Outcome
    reasons: list[str]
    score_ppm: int | None
    rung: Rung
    degraded: list[str]
    release: str | None
    policy: str
    decided_at: int


_decisions = msgspec.json.Decoder(_DecisionPart)
_observations = msgspec.json.Decoder(Observation)
_labels = msgspec.json.Decoder(Label)


class Applied(msgspec.Struct):
    """What a batch did. results: by (topic's stem, result)."""

    results: Counter[tuple[str, str]]
    written: Counter[str]
    conflicts: Counter[str]
    decided_at: list[int]
    """When the decisions among them were made: tells how far behind states are."""


class Featurizer:
    """Applies batches of records. One per process; not thread-safe."""

    def __init__(
        self,
        *,
        store: StateStore,
        observations: ObservationLog,
        topics: Mapping[str, str],
        stage: Callable[[str, float], None] = lambda _stage, _seconds: None,
    ) -> None:
        """topics: topic name to "decisions", "observations" or "labels"."""
        self._store = store
        self._observations = observations
        self._topics = topics
        self._stage = stage
        self._work = scratch()

    def apply(self, batch: Sequence[Record]) -> Applied:
        """Take effect of a batch; when it returns, its offsets may be committed.

        Raises Corrupt for a record that is none of ours: these topics have no other writers.
        Raises Unavailable if store or broker is; the batch can then be applied again.
        """
        done = Applied(Counter(), Counter(), Counter(), [])
        changes: dict[Entity, list[tuple[tuple[int, ...], tuple[int, int, int, int]]]] = {}
        stems: dict[Entity, str] = {}
        answers: list[tuple[str, str, bytes, bytes]] = []
        read = dict.fromkeys(self._topics.values(), 0)
        since = time.perf_counter()
        for record in batch:
            stem = self._topics[record.topic]
            try:
                if stem == "decisions":
                    part = _decisions.decode(record.value)
                    entity, change = self._decision(part, record)
                    auth = part.authorization
                    answers.append(
                        (auth.tenant, auth.authorization_id, content_digest(auth), _answer(part))
                    )
                    done.decided_at.append(part.decided_at)
                elif stem == "observations":
                    entity, change = _observation(_observations.decode(record.value))
                else:
                    self._label(_labels.decode(record.value), record)
                    read[stem] += 1
                    continue
            except (msgspec.DecodeError, msgspec.ValidationError) as exc:
                raise Corrupt(
                    f"a record of {stem} cannot be read: {exc}",
                    where=f"{record.topic}/{record.partition}@{record.offset}",
                    fix="find the foreign writer of this topic, then skip this offset",
                ) from exc
            read[stem] += 1
            changes.setdefault(entity, []).append(change)
            stems[entity] = stem
        done.results.update({(stem, "applied"): n for stem, n in read.items()})
        since = self._lap("decode", since)
        self._swap(changes, stems, done)
        kill_at("featurizer.after_states")
        since = self._lap("write", since)
        if answers:
            self._store.remember(answers)
        self._observations.flush()
        kill_at("featurizer.after_observations")
        self._lap("produce", since)
        done.results = +done.results  # without the zeros
        return done

    def _lap(self, stage: str, since: float) -> float:
        now = time.perf_counter()
        self._stage(stage, now - since)
        return now

    def _decision(
        self, part: _DecisionPart, record: Record
    ) -> tuple[Entity, tuple[tuple[int, ...], tuple[int, int, int, int]]]:
        auth = part.authorization
        declined = part.outcome is Outcome.DECLINE
        row = event_row(auth, part.reference_amount_minor, declined=declined)
        source = states.source(states.DECISIONS, record.partition)
        touched: list[Entity] = [("terminal", auth.terminal_id), ("merchant", auth.merchant_id)]
        if auth.device_id is not None:
            touched.append(("device", auth.device_id))
        for kind, key in touched:
            self._observe(
                Observation(
                    entity=kind,
                    key=key,
                    source=source,
                    offset=record.offset,
                    kind="authorization",
                    event_us=auth.event_at,
                    amount_minor=part.reference_amount_minor,
                    card_tag=row[CARD],
                    declined=declined,
                )
            )
        return ("card", auth.card_token), (row, (AUTHORIZATION, source, record.offset, 0))

    def _label(self, label: Label, record: Record) -> None:
        source = states.source(states.LABELS, record.partition)
        touched: list[Entity] = [
            ("card", label.card_token),
            ("terminal", label.terminal_id),
            ("merchant", label.merchant_id),
        ]
        if label.device_id is not None:
            touched.append(("device", label.device_id))
        for kind, key in touched:
            self._observe(
                Observation(
                    entity=kind,
                    key=key,
                    source=source,
                    offset=record.offset,
                    kind="fraud" if label.is_fraud else "genuine",
                    event_us=label.event_at,
                    known_us=label.known_at,
                    card_tag=tag32(label.card_token),
                )
            )

    def _observe(self, observation: Observation) -> None:
        self._observations.produce(f"{observation.entity}:{observation.key}", encode(observation))

    def _swap(
        self,
        changes: Mapping[Entity, Sequence[tuple[tuple[int, ...], tuple[int, int, int, int]]]],
        stems: Mapping[Entity, str],
        done: Applied,
    ) -> None:
        """Read, update and compare-and-set until every state is stored."""
        left = list(changes)
        for _ in range(SWAP_ATTEMPTS_MAX):
            if not left:
                return
            before = self._store.read(left)
            ends = np.cumsum([0, *(len(changes[e]) for e in left)]).astype(np.int64)
            rows = [pair for entity in left for pair in changes[entity]]
            updated = update(
                left,
                before,
                ends,
                event_rows([event for event, _ in rows]),
                np.fromiter(
                    chain.from_iterable(change for _, change in rows), np.int64, 4 * len(rows)
                ).reshape(len(rows), 4),
                self._work,
            )
            puts = [
                StateUpdate(kind, key, states.etag(old), new, max(newest, 0))
                for (kind, key), old, new, newest in zip(
                    left, before, updated.states, updated.newest_us, strict=True
                )
                if states.etag(old) != states.etag(new)
            ]
            stored = self._store.write(puts)
            lost = {(p.entity, p.key) for p, ok in zip(puts, stored, strict=True) if not ok}
            _count_others(left, lost, stems, ends, updated.statuses, done)
            done.written.update(p.entity for p, ok in zip(puts, stored, strict=True) if ok)
            left = [entity for entity in left if entity in lost]
            done.conflicts.update(kind for kind, _ in left)
        if left:
            raise Unavailable(
                f"{len(left)} states keep changing under us",
                fix="two featurizers of different groups write one store: stop one",
            )


def _count_others(
    entities: Sequence[Entity],
    lost: set[Entity],
    stems: Mapping[Entity, str],
    ends: Ints,
    statuses: Ints,
    done: Applied,
) -> None:
    """Every record counts as applied when it is read; count those again that were not."""
    others = np.flatnonzero(statuses)
    for at, status in zip(
        (np.searchsorted(ends, others, side="right") - 1).tolist(),
        statuses[others].tolist(),
        strict=True,
    ):
        entity = entities[at]
        if entity not in lost and status in _RESULTS:
            done.results[stems[entity], "applied"] -= 1
            done.results[stems[entity], _RESULTS[status]] += 1


def _observation(
    seen: Observation,
) -> tuple[Entity, tuple[tuple[int, ...], tuple[int, int, int, int]]]:
    row = (
        seen.event_us, 0, seen.amount_minor, seen.card_tag,
        0, 0, 0, 0, 0, 0, 0, 0, 0, int(seen.declined),
    )  # fmt: skip
    change = (_KINDS[seen.kind], seen.source, seen.offset, seen.known_us)
    return (seen.entity, seen.key), (row, change)


def _answer(part: _DecisionPart) -> bytes:
    """The same bytes as the door's own answer (see :func:`sluice.domain.decision.answer`)."""
    return encode(
        Answer(
            authorization_id=part.authorization.authorization_id,
            outcome=part.outcome,
            reasons=part.reasons,
            score_ppm=part.score_ppm,
            rung=part.rung,
            degraded=part.degraded,
            release=part.release,
            policy=part.policy,
            decided_at=part.decided_at,
        )
    )
