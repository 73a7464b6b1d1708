"""What the auditor reads of a real broker: each offset once, markers and aborted ones included."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from services.auditor.main import LIMITS, Auditing
from services.loop import ConsumerLoop
from sluice.adapters.kafka.checkpoints import CheckpointTopic
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.shard import ShardConsumer
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalProducer
from sluice.adapters.tiles.ahead import WriteAheadFiles
from sluice.adapters.tiles.folder import LogFolder
from sluice.application.append_log import FENCED, AppendLog
from sluice.application.keep_log import KeepsLog
from sluice.application.ports import Partition
from sluice.audit.entries import split
from sluice.domain.clock import SystemClock
from sluice.domain.records.log_record import GapRecord, Provenance, read
from sluice.errors import Corrupt, Unavailable
from sluice.testing.log import ORIGIN, PRIVATE, PlainEntries
from tests.support.kafka import wait_ended, wait_until

pytestmark = pytest.mark.integration


class Writer:
    """One auditor in this process, in steps."""

    def __init__(self, bootstrap: str, topics: Topics, folder: Path, shard: int = 0, of: int = 1):
        self.folder = folder
        (folder / "log").mkdir(parents=True, exist_ok=True)
        self.published = published(bootstrap, topics)
        self.log = AppendLog(
            LogFolder(folder / "log"),
            WriteAheadFiles(folder / "ahead"),
            self.published,
            origin=ORIGIN,
            private=PRIVATE,
        )
        self.beside = ThreadPoolExecutor(1)
        self.keeps = KeepsLog(
            self.log,
            PlainEntries(),
            LogFolder(folder / "resume"),
            SystemClock(),
            self.beside.submit,
            decisions=topics.decisions,
            earlier=lambda _, __, ___: [],
            provenance=Provenance(build=None, image=None, config=None, trace=None),
        )
        self.consumer = consumer(bootstrap, topics, shard, of)
        handler = Auditing(
            self.keeps,
            oldest=self.consumer.oldest,
            ids=self.consumer.confirm,
            ends=self.consumer.ends,
        )
        self.loop = ConsumerLoop(self.consumer, handler, LIMITS)

    def until(self, ends: dict[Partition, int]) -> None:
        """Work until so much is told of."""

        def done() -> bool:
            self.loop.once()
            return all(self.keeps.next.get(place, 0) >= end for place, end in ends.items())

        wait_until(done, f"the log tells of {ends}")

    def die(self) -> None:
        """Without a word."""
        self.beside.shutdown()
        self.log.close()
        self.consumer.raw.close()

    def offsets(self) -> dict[Partition, list[int]]:
        """Each offset that is told of, as often as it is."""
        self.log.checkpoint()
        return self.shown()

    def shown(self) -> dict[Partition, list[int]]:
        """The same, of what a checkpoint shows."""
        found: dict[Partition, list[int]] = {}
        for entry in self.log.entries(0, self.log.signed.size):
            record = read(split(entry)[0])
            if record.source is not None:
                source = record.source
                place = source.topic, source.partition
                found.setdefault(place, []).append(source.offset)
            elif isinstance(record, GapRecord):
                assert record.body.topic is not None
                assert record.body.partition is not None
                place = record.body.topic, record.body.partition
                found.setdefault(place, []).extend(range(record.body.first, record.body.until))
        return found


def consumer(bootstrap: str, topics: Topics, shard: int = 0, of: int = 1) -> ShardConsumer:
    return ShardConsumer(
        bootstrap,
        group=f"{topics.decisions}-auditor-{shard}",
        topics=[topics.decisions, topics.labels],
        client_id="auditor",
        shard=shard,
        shards=of,
    )


def published(bootstrap: str, topics: Topics, origin: str = ORIGIN) -> CheckpointTopic:
    return CheckpointTopic(
        topics.checkpoints,
        origin,
        partial(TopicReader, bootstrap),
        partial(
            TransactionalProducer,
            bootstrap,
            transactional_id=f"{topics.checkpoints}-{origin}",
            client_id="auditor",
        ),
    )


def decide(bootstrap: str, topics: Topics, *sizes: int) -> None:
    """Transactions of so many records, over all partitions; one of a negative size is aborted."""
    writer = TransactionalProducer(bootstrap, transactional_id=topics.decisions, client_id="test")
    for size in sizes:
        writer.begin()
        for number in range(abs(size)):
            writer.produce(topics.decisions, f"card-{number}", b"%d" % number)
        if size > 0:
            writer.commit()
        else:
            writer._producer.flush(60)
            writer.abort()
    wait_ended(bootstrap, topics.decisions)


def watermarks(bootstrap: str, topic: str) -> dict[Partition, int]:
    reader = TopicReader(bootstrap)
    try:
        return {(topic, number): end for number, (_, end) in reader.spans(topic).items()}
    finally:
        reader.close()


def test_every_offset_up_to_the_watermark_is_told_once(kafka, topics, tmp_path):
    decide(kafka.bootstrap, topics, 50, -20, 10, -1, 40)
    labels = EventProducer(kafka.bootstrap, client_id="test")
    for number in range(30):
        labels.produce(topics.labels, b"%d" % number, key=str(number))
    labels.flush(60)
    first = Writer(kafka.bootstrap, topics, tmp_path)
    ends = watermarks(kafka.bootstrap, topics.decisions) | watermarks(
        kafka.bootstrap, topics.labels
    )
    first.until({place: end // 2 for place, end in ends.items()})
    first.die()
    decide(kafka.bootstrap, topics, 30, -30)
    ends |= watermarks(kafka.bootstrap, topics.decisions)
    second = Writer(kafka.bootstrap, topics, tmp_path)
    second.until(ends)
    assert {place: sorted(told) for place, told in second.offsets().items() if told} == {
        place: list(range(end)) for place, end in ends.items() if end
    }
    second.die()


def test_offsets_are_committed_behind_what_a_checkpoint_shows(kafka, topics, tmp_path):
    decide(kafka.bootstrap, topics, 40)
    writer = Writer(kafka.bootstrap, topics, tmp_path)
    places = [(topics.decisions, number) for number in range(4)]

    def committed() -> bool:
        writer.loop.once()
        found = writer.consumer.committed(places)
        return len(found) == 4 and sum(found.values()) > 0  # the first may be of a log's start

    wait_until(committed, "a checkpoint was made")
    behind = writer.consumer.committed(places)
    writer.die()  # what a checkpoint that is being written would show, too
    shown = writer.shown()
    assert sum(behind.values()) > 0
    for place, until in behind.items():
        assert sorted(shown.get(place, [])) >= list(range(until))


def polled(one: ShardConsumer) -> bool:
    """False while the broker has only just begun to coordinate its group, as for every service."""
    try:
        one.poll_batch(1, 0.1)
    except Unavailable:
        return False
    return True


def test_shards_share_the_partitions(kafka, make_topics):
    topics = make_topics(5)
    mine = []
    for shard in range(2):
        one = consumer(kafka.bootstrap, topics, shard, 2)
        wait_until(lambda one=one: polled(one), "its coordinator answers")
        mine.append({number for topic, number in one.assignment() if topic == topics.decisions})
        one.close()
    assert mine == [{0, 2, 4}, {1, 3}]


def test_a_second_writer_fences_the_first(kafka, topics):
    first = published(kafka.bootstrap, topics)
    assert first.last() is None
    first.publish(b"not even a checkpoint")
    second = published(kafka.bootstrap, topics)
    assert second.last() == b"not even a checkpoint"
    with pytest.raises(Corrupt) as refused:
        first.publish(b"late")
    assert refused.value.code == FENCED
    assert second.last() == b"not even a checkpoint"


def test_a_disk_that_was_set_back_is_refused_by_the_topic(kafka, topics, tmp_path):
    decide(kafka.bootstrap, topics, 40)
    writer = Writer(kafka.bootstrap, topics, tmp_path / "one")
    wait_until(lambda: writer.loop.once() or writer.log.signed.size >= 40, "a checkpoint was made")
    writer.die()
    other = Writer(kafka.bootstrap, topics, tmp_path / "two")
    with pytest.raises(Corrupt, match="was published, and the disk has 0"):
        other.loop.once()
    other.die()


def test_the_newest_checkpoint_is_found_behind_those_of_other_logs(kafka, make_topics):
    topics = make_topics(1)
    ours = published(kafka.bootstrap, topics)
    ours.last()
    ours.publish(b"ours")
    producer = EventProducer(kafka.bootstrap, client_id="test")
    for number in range(2_500):
        producer.produce(topics.checkpoints, b"%d" % number, key="another/log/0")
    producer.flush(60)
    assert ours.last() == b"ours"
    assert published(kafka.bootstrap, topics, "third/log/0").last() is None
