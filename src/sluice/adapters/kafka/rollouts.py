"""``rollouts.v1`` and ``shadow-scores.v1``: written by each decider, and what others found read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.reader import NewRecords, TopicReader
from sluice.application.ports import Message
from sluice.domain.activation import AHEAD_MAX_US, POLICY
from sluice.domain.records.authorization import encode
from sluice.domain.records.rollout import Rollout, ShadowScores
from sluice.errors import SluiceError

FLUSH_MAX_S = 5.0
EVENTS_MAX = 120_000
"""The newest that are read at the start; each decider writes a few a step."""
RETURNED = "returned"
_decoder = msgspec.json.Decoder(Rollout)


def written_since_ms(epoch: int) -> int:
    """From when on a step of this epoch may have been written, milliseconds UTC: the clock of who
    signed may be ahead of those of deciders and broker."""
    return max(0, epoch - AHEAD_MAX_US) // 1000


def returned(messages: Iterable[Message], epoch: int) -> list[Rollout]:
    """The returns of an epoch among records. What cannot be read is passed over."""
    found = []
    for message in messages:
        try:
            event = _decoder.decode(message.value)
        except msgspec.DecodeError:
            continue
        if event.step == RETURNED and event.epoch == epoch:
            found.append(event)
    return found


class RolloutTopic:
    """The port Log (:mod:`sluice.application.challengers`). Connects when it is first used."""

    def __init__(
        self,
        topic: str,
        reader: Callable[[], TopicReader],
        producer: Callable[[], EventProducer],
    ) -> None:
        self._topic = topic
        self._make_reader, self._make_producer = reader, producer
        self._reader: TopicReader | None = None
        self._producer: EventProducer | None = None
        self._new: NewRecords | None = None
        self._epoch = 0

    def returned(self, epoch: int) -> Sequence[Rollout]:
        """See the port."""
        self._reader = reader = self._reader or self._make_reader()
        try:
            if self._new is not None and self._epoch == epoch:
                return returned(self._new.since(), epoch)
            self._new, self._epoch = None, epoch
            new = NewRecords(reader, self._topic)
            since_ms = written_since_ms(epoch)
            found = returned(reader.tail(self._topic, EVENTS_MAX, since_ms), epoch)
        except SluiceError:
            self._new = None  # some of it may have been read and lost: all again
            raise
        self._new = new
        return found

    def write(self, events: Sequence[Rollout]) -> None:
        """See the port."""
        self._producer = producer = self._producer or self._make_producer()
        for event in events:
            # Steps of the policy in the order in which they were written, so in one partition.
            key = POLICY if event.role == POLICY else event.digest
            producer.produce(self._topic, encode(event), key=key)
        producer.flush(FLUSH_MAX_S)


class ShadowTopic:
    """The port Scores. Connects when it is first used."""

    def __init__(self, topic: str, producer: Callable[[], EventProducer]) -> None:
        self._topic = topic
        self._make = producer
        self._producer: EventProducer | None = None

    def write(self, scores: ShadowScores) -> None:
        """See the port."""
        self._producer = producer = self._producer or self._make()
        producer.produce(self._topic, encode(scores), key=scores.digest)
        producer.poll()
