"""``labels.v1`` for the labeller: its one writer, in transactions, and all that lies in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sluice.adapters.kafka.config import Extra
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalProducer
from sluice.application.ports import TOPIC_REMADE, Count, Message, uncounted
from sluice.errors import Corrupt


class KafkaLabels:
    """See :class:`sluice.application.label.LabelTopic`.

    Its transactional id is one for all: whoever starts ends what the one before left open, and the
    one before writes no more.
    """

    def __init__(
        self,
        bootstrap: str,
        topics: Topics,
        *,
        extra: Extra | None = None,
        count: Count = uncounted,
    ) -> None:
        """Raises Unavailable; waits for a transaction that another one has open."""
        self._topics = topics
        self._reader = TopicReader(bootstrap, extra=extra)
        self._producer = TransactionalProducer(
            bootstrap,
            transactional_id=f"{topics.labels}-labeller",
            client_id="sluice-labeller",
            extra=extra,
            count=count,
        )
        self._read: dict[int, int] = {}
        """The next offset of each partition."""

    def news(self) -> Iterator[Message]:
        """See the port."""
        self._producer.renew()
        topic = self._topics.labels
        spans = self._reader.spans(topic)
        ends = {number: end for number, (_, end) in spans.items()}
        gone = [number for number, at in self._read.items() if at > ends.get(number, 0)]
        if gone:
            raise Corrupt(
                f"partitions {gone} end before what was read of them: the topic was made again",
                where=topic,
                fix="docs/runbooks/topic-made-again.md",
                code=TOPIC_REMADE,
            )
        starts = {
            number: max(first, self._read.get(number, 0)) for number, (first, _) in spans.items()
        }
        left = {number: at for number, at in starts.items() if at < ends[number]}
        if left:
            yield from self._reader.spread(topic, left, ends)
        self._read = ends

    def write(
        self, labels: Sequence[tuple[str, bytes]], dead_letters: Sequence[tuple[str, bytes]]
    ) -> None:
        """See the port."""
        producer = self._producer
        producer.begin()
        producer.produce_each(self._topics.labels, ((key, value, []) for key, value in labels))
        producer.produce_each(
            self._topics.dead_letters, ((key, value, []) for key, value in dead_letters)
        )
        producer.commit()

    def close(self) -> None:
        """Free the connections."""
        self._producer.abort()
        self._reader.close()
