"""``rollouts.v1`` on a real broker: what one decider writes, others read, once each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from msgspec import structs

from local.kafka.broker import Node
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.rollouts import RolloutTopic
from sluice.adapters.kafka.topics import Topics
from sluice.domain.activation import AHEAD_MAX_US
from sluice.domain.records.rollout import Rollout
from sluice.errors import Misconfigured

pytestmark = pytest.mark.integration

NOW = time.time_ns() // 1000
EPOCH = NOW + AHEAD_MAX_US - 60_000_000
"""Signed where the clock is four minutes ahead of ours and the broker's."""
RETURNED = Rollout(
    at=NOW, emitter="decider-0/1-1", step="returned", role="canary", release="next",
    digest="ab" * 32, epoch=EPOCH, who="ann", why="a test", reason="errors", detail="2 runs",
)  # fmt: skip


@pytest.fixture
def decider(kafka: Node) -> Iterator[Callable[[str], RolloutTopic]]:
    """Makes one decider's end of a topic."""
    made: list[TopicReader] = []

    def reader() -> TopicReader:
        made.append(TopicReader(kafka.bootstrap))
        return made[-1]

    producer = partial(EventProducer, kafka.bootstrap, client_id="test")
    yield lambda topic: RolloutTopic(topic, reader, producer)
    for each in made:
        each.close()


def test_a_return_is_read_by_all_others_once_whatever_the_clock_of_who_signed(
    decider: Callable[[str], RolloutTopic], topics: Topics, kafka: Node
) -> None:
    one, other, late = (decider(topics.rollouts) for _ in range(3))
    assert other.returned(EPOCH) == []
    one.write([structs.replace(RETURNED, step="began"), RETURNED])
    assert other.returned(EPOCH) == [RETURNED]
    assert other.returned(EPOCH) == []
    assert late.returned(EPOCH) == [RETURNED]
    assert late.returned(EPOCH + 1) == []


def test_what_cannot_be_read_hides_no_return(
    decider: Callable[[str], RolloutTopic], topics: Topics, kafka: Node
) -> None:
    producer = EventProducer(kafka.bootstrap, client_id="test")
    for value in (b"", b"{", b'{"step":"returned"}', b'{"v":1,"role":"queen"}'):
        producer.produce(topics.rollouts, value, key="x")
    producer.flush(60)
    one = decider(topics.rollouts)
    one.write([RETURNED])
    assert decider(topics.rollouts).returned(EPOCH) == [RETURNED]


def test_a_topic_that_is_not_there_is_said(decider: Callable[[str], RolloutTopic]) -> None:
    with pytest.raises(Misconfigured, match="not-there"):
        decider("not-there").returned(EPOCH)
