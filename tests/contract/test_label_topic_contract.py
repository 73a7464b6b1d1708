"""``labels.v1`` as the labeller has it: the fake and the adapter keep the same promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sluice.adapters.kafka.labels import KafkaLabels
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.reader import TopicReader
from sluice.application.label import LabelTopic
from sluice.errors import Corrupt
from sluice.testing.labels import FakeLabelTopic, Log
from tests.support.kafka import wait_until


class Made:
    """Writers of one topic, and what others write and read."""

    def __init__(
        self,
        writer: Callable[[], LabelTopic],
        put: Callable[[bytes], None],
        dead_letters: Callable[[], list[bytes]],
    ) -> None:
        self.writer = writer
        self.put = put
        self.dead_letters = dead_letters


@pytest.fixture(params=["fake", pytest.param("kafka", marks=pytest.mark.integration)])
def made(request: pytest.FixtureRequest) -> Iterator[Made]:
    if request.param == "fake":
        log = Log()
        last = FakeLabelTopic(log)

        def another() -> FakeLabelTopic:
            return FakeLabelTopic(log)

        yield Made(another, last.put, lambda: [value for _, value in log.dead_letters])
        return
    kafka, names = request.getfixturevalue("kafka"), request.getfixturevalue("topics")
    producer = EventProducer(kafka.bootstrap, client_id="test")
    writers: list[KafkaLabels] = []

    def connect() -> KafkaLabels:
        writers.append(KafkaLabels(kafka.bootstrap, names))
        return writers[-1]

    def put(value: bytes) -> None:
        producer.produce(names.labels, value, key=value)
        producer.flush(60)

    def dead_letters() -> list[bytes]:
        reader = TopicReader(kafka.bootstrap)
        found = [message.value for message in reader.records(names.dead_letters)]
        reader.close()
        return found

    yield Made(connect, put, dead_letters)
    for writer in writers:
        writer.close()


def values(topic: LabelTopic, count: int) -> list[bytes]:
    """So many, however long they take to come: what a writer committed is seen a moment later."""
    found: list[bytes] = []

    def come() -> bool:
        found.extend(message.value for message in topic.news())
        return len(found) >= count

    wait_until(come, f"{count} labels")
    return sorted(found)


def test_all_that_lies_there_comes_first_and_then_what_is_new_once(made: Made) -> None:
    for value in (b"a", b"b", b"c"):
        made.put(value)
    topic = made.writer()
    assert values(topic, 3) == [b"a", b"b", b"c"]
    assert values(topic, 0) == []
    made.put(b"d")
    topic.write([("k", b"e"), ("l", b"f")], [])
    assert values(topic, 3) == [b"d", b"e", b"f"]
    assert values(topic, 0) == []
    assert values(made.writer(), 6) == [b"a", b"b", b"c", b"d", b"e", b"f"]


def test_dead_letters_go_with_the_labels_or_alone(made: Made) -> None:
    topic = made.writer()
    topic.write([("k", b"a")], [("here/0", b"x")])
    topic.write([], [("here/0", b"y")])
    wait_until(lambda: sorted(made.dead_letters()) == [b"x", b"y"], "two dead letters")
    assert values(topic, 1) == [b"a"]


def test_whoever_comes_last_writes_and_the_one_before_is_told(made: Made) -> None:
    first = made.writer()
    first.write([("k", b"a")], [])
    second = made.writer()
    with pytest.raises(Corrupt):
        first.write([("k", b"b")], [])
    second.write([("k", b"c")], [])
    assert values(second, 2) == [b"a", b"c"]
