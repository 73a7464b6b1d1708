"""Reads the topics to their ends and recounts: nothing missing, nothing twice, states as said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import msgspec
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from sluice.adapters.kafka.config import REQUEST_MAX_S, heals
from sluice.adapters.kafka.topics import Topics
from sluice.application.ports import Message
from sluice.application.replay import Replay
from sluice.bootstrap.services import store_at
from sluice.domain.features import states
from sluice.domain.records.authorization import Authorization, encode
from sluice.domain.records.dead_letter import REDRIVEN, DeadLetter
from sluice.domain.records.decision import Decision, Origin, answer
from sluice.domain.records.entity import ENTITY_KINDS, EntityKind, key_of
from sluice.domain.records.label import Label
from sluice.testing.history import event_history_of
from tests.support.kafka import read_all, wait_until

Place = tuple[str, int, int]
"""Topic, partition, offset."""


_decision = msgspec.json.Decoder(Decision).decode
_dead_letter = msgspec.json.Decoder(DeadLetter).decode
_label = msgspec.json.Decoder(Label).decode


@dataclass(frozen=True)
class Ledger:
    """All that committed readers of four topics find, by partition and offset."""

    authorizations: list[Message]
    decided: list[tuple[Message, Decision]]
    dead_letters: list[DeadLetter]
    labels: list[tuple[Message, Label]]

    @property
    def decisions(self) -> list[Decision]:
        """The decisions alone."""
        return [decision for _, decision in self.decided]

    def unbalanced(self) -> dict[Place, int]:
        """Offsets of ``authorizations.v1`` that are not exactly one decision or dead letter."""
        ends: Counter[Place] = Counter()
        for origin in [d.origin for d in self.decisions] + [
            x.origin for x in self.dead_letters if x.code != REDRIVEN
        ]:
            if origin is not None:
                ends[_place(origin)] += 1
        sent = {(m.topic, m.partition, m.offset) for m in self.authorizations}
        return {place: ends[place] for place in sent | set(ends) if ends[place] != 1}

    def decided_twice(self) -> list[str]:
        """Ids with more than one decision."""
        ids = Counter(d.authorization.authorization_id for d in self.decisions)
        return [key for key, count in ids.items() if count > 1]

    def holes(self) -> dict[str, list[int]]:
        """Numbers missing in the sequence of each emitter."""
        seen: dict[str, set[int]] = {}
        for decision in self.decisions:
            seen.setdefault(decision.emitter, set()).add(decision.sequence)
        missing = {name: set(range(max(had) + 1)) - had for name, had in seen.items()}
        return {name: sorted(numbers) for name, numbers in missing.items() if numbers}

    def answers(self) -> dict[str, bytes]:
        """What the caller of each decision must have heard."""
        return {d.authorization.authorization_id: encode(answer(d)) for d in self.decisions}

    def every_answer(self) -> dict[str, set[bytes]]:
        """The same of every record of an id."""
        found: dict[str, set[bytes]] = {}
        for d in self.decisions:
            found.setdefault(d.authorization.authorization_id, set()).add(encode(answer(d)))
        return found

    def replay(self, *, since: Callable[[Message], bool] = lambda _: True) -> Replay:
        """From the decisions and labels that lie where ``since`` says."""
        return Replay(
            event_history_of(
                [
                    (states.source(states.DECISIONS, m.partition), m.offset, d)
                    for m, d in self.decided
                    if since(m)
                ],
                [
                    (
                        states.source(states.LABELS, m.partition),
                        m.offset,
                        x.is_fraud,
                        x.known_at,
                        (x.card_token, x.terminal_id, x.merchant_id, x.device_id),
                    )
                    for m, x in self.labels
                    if since(m)
                ],
            )
        )

    def entities(self) -> dict[EntityKind, list[str]]:
        """Every entity named, by view."""
        found: dict[EntityKind, set[str | None]] = {kind: set() for kind in ENTITY_KINDS}
        named: list[Authorization | Label] = [d.authorization for d in self.decisions]
        named += [label for _, label in self.labels]
        for one in named:
            for kind in ENTITY_KINDS:
                key = key_of(one, kind)
                found[kind].add(key)
        return {kind: sorted(k for k in keys if k is not None) for kind, keys in found.items()}

    def wrong_states(
        self, store_url: str, *, since: Callable[[Message], bool] = lambda _: True
    ) -> list[tuple[EntityKind, str]]:
        """Entities whose state in the store is not what the log makes."""
        replay = self.replay(since=since)
        store = store_at(store_url).states()
        wrong: list[tuple[EntityKind, str]] = []
        for kind, keys in self.entities().items():
            stored = store.read([(kind, key) for key in keys])
            again = replay.states(kind, keys, [None] * len(keys))
            wrong += [(kind, key) for key, a, b in zip(keys, stored, again, strict=True) if a != b]
        store.close()
        return wrong


def read_ledger(bootstrap: str, topics: Topics) -> Ledger:
    """Read the four topics as they are now. Waits for open transactions to end."""
    return Ledger(
        read_all(bootstrap, topics.authorizations),
        [(m, _decision(m.value)) for m in read_all(bootstrap, topics.decisions)],
        [_dead_letter(m.value) for m in read_all(bootstrap, topics.dead_letters)],
        [(m, _label(m.value)) for m in read_all(bootstrap, topics.labels)],
    )


def wait_balanced(bootstrap: str, topics: Topics, *, heard: Collection[str] = ()) -> Ledger:
    """Wait until every authorization of the topic has its end, and these ids a decision."""

    def settled() -> Ledger | None:
        ledger = read_ledger(bootstrap, topics)
        decided = {d.authorization.authorization_id for d in ledger.decisions}
        return ledger if not ledger.unbalanced() and decided.issuperset(heard) else None

    found: Ledger = wait_until(settled, "each authorization has its decision or dead letter")
    return found


def wait_applied(bootstrap: str, topics: Topics, group: str) -> None:
    """Wait until a featurizer's group has committed all decisions, labels and observations."""
    for names in ([topics.decisions, topics.labels], [topics.observations]):
        # Observations are made from the others, so they are looked at when those are done.
        ends: dict[tuple[str, int], int] = {}
        for name in names:
            for message in read_all(bootstrap, name):
                ends[name, message.partition] = message.offset + 1
        wait_until(
            lambda ends=ends: all(  # type: ignore[misc]
                committed(bootstrap, group).get(place, 0) >= end for place, end in ends.items()
            ),
            f"{group} has read {', '.join(names)}",
        )


def committed(bootstrap: str, group: str) -> Mapping[tuple[str, int], int]:
    """Offsets that a group has committed, by topic and partition. Waits while its coordinator comes
    back or moves."""
    admin = AdminClient({"bootstrap.servers": bootstrap})

    def ask() -> list[list[TopicPartition]]:
        asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
        try:
            return [asked[group].result(REQUEST_MAX_S).topic_partitions]
        except KafkaException as exc:
            if heals(exc.args[0]):
                return []
            raise

    [found] = wait_until(ask, f"the coordinator of {group} answers")
    return {(p.topic, p.partition): p.offset for p in found}


def _place(origin: Origin) -> Place:
    return origin.topic, origin.partition, origin.offset
