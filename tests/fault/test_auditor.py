"""The auditor as it is deployed: killed between Kafka and its disk, and recounted against both."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.kafka.broker import free_port
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.tiles.folder import LogFolder
from sluice.application.ports import Partition
from sluice.application.sign_release import make_key, read_private_key
from sluice.audit.checkpoints import open_checkpoint
from sluice.audit.entries import split
from sluice.audit.merkle import leaf_hash, root_of
from sluice.audit.notes import LOG, Key
from sluice.audit.tiles import read_entries, reader, tiles_of
from sluice.bootstrap.keystore import make_keystore
from sluice.domain.records.authorization import encode
from sluice.domain.records.log_record import AnyRecord, GapRecord, read
from sluice.settings import KeystoreSettings, Settings
from sluice.testing.factories import make_authorization, make_label
from tests.support.decisions import decide
from tests.support.kafka import read_all, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.fault]
NAME = "test/eu/0"


class Auditor:
    """Its processes, one after another, over one disk."""

    def __init__(self, bootstrap: str, topics: Topics, folder: Path) -> None:
        self.bootstrap, self.topics, self.folder = bootstrap, topics, folder
        self.prefix = topics.decisions.removesuffix("decisions.v1")
        self.running: list[subprocess.Popen] = []
        self.key = folder / "log.key"
        make_key(self.key)
        kept = KeystoreSettings(path=str(folder / "k/keys"), roots=str(folder / "r/roots"))
        make_keystore(Settings(keystore=kept))

    def start(self, kill_at: str = "", folder: str = "log") -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.auditor.main"],
            env=os.environ
            | {
                "SLUICE_KAFKA_BOOTSTRAP": self.bootstrap,
                "SLUICE_KAFKA_TOPIC_PREFIX": self.prefix,
                "SLUICE_AUDITOR_ROOT": str(self.folder / folder),
                "SLUICE_AUDITOR_KEY_FILE": str(self.key),
                "SLUICE_AUDITOR_ENVIRONMENT": "test",
                "SLUICE_AUDITOR_CELL": "eu",
                "SLUICE_KEYSTORE_PATH": str(self.folder / "k/keys"),
                "SLUICE_KEYSTORE_ROOTS": str(self.folder / "r/roots"),
                "SLUICE_SERVICE_ADMIN_PORT": str(free_port()),
                "SLUICE_KILL_AT": kill_at,
            },
        )
        self.running.append(process)
        return process

    def records(self) -> list[AnyRecord]:
        """What the newest checkpoint shows, its root checked."""
        read_file = LogFolder(self.folder / "log" / "0").read
        try:
            raw = read_file("checkpoint")
        except FileNotFoundError:
            return []
        key = Key(NAME, LOG, read_private_key(self.key).public_key())
        shown = open_checkpoint(raw, NAME, key).checkpoint
        entries = [
            entry
            for tile in tiles_of(shown.size)
            if tile.level == 0
            for entry in read_entries(read_file, tile)
        ]
        assert root_of(shown.size, reader(shown.size, read_file)) == shown.root
        first = reader(shown.size, read_file)
        assert all(leaf_hash(entry) == first(0, at) for at, entry in enumerate(entries))
        return [read(split(entry)[0]) for entry in entries]

    def told(self) -> dict[Partition, list[int]]:
        found: dict[Partition, list[int]] = {}
        for record in self.records():
            if record.source is not None:
                place = record.source.topic, record.source.partition
                found.setdefault(place, []).append(record.source.offset)
            elif isinstance(record, GapRecord):
                body = record.body
                assert body.topic is not None
                assert body.partition is not None
                found.setdefault((body.topic, body.partition), []).extend(
                    range(body.first, body.until)
                )
        return found

    def expected(self) -> dict[Partition, list[int]]:
        """Every offset below the watermarks."""
        asked = TopicReader(self.bootstrap)
        try:
            return {
                (topic, number): list(range(end))
                for topic in (self.topics.decisions, self.topics.labels)
                for number, (_, end) in asked.spans(topic).items()
                if end
            }
        finally:
            asked.close()


@pytest.fixture
def auditor(kafka, topics: Topics, tmp_path: Path) -> Iterator[Auditor]:
    made = Auditor(kafka.bootstrap, topics, tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


def label(auditor: Auditor, count: int) -> None:
    producer = EventProducer(auditor.bootstrap, client_id="test")
    for number in range(count):
        record = make_label(make_authorization(f"a-{number}"), known_at=number)
        producer.produce(auditor.topics.labels, encode(record), key=record.authorization_id)
    producer.flush(30)


def test_a_killed_auditor_tells_of_each_offset_once(auditor: Auditor) -> None:
    decide(auditor.bootstrap, auditor.topics, 0, 300)
    label(auditor, 40)
    for point in ("auditor.after_publish:2", "auditor.after_ahead:3", "auditor.after_commit"):
        assert auditor.start(kill_at=point).wait(60) == -signal.SIGKILL, point
    decide(auditor.bootstrap, auditor.topics, 300, 400)
    last = auditor.start()
    wait_until(
        lambda: (
            sum(map(len, auditor.told().values())) >= sum(map(len, auditor.expected().values()))
        ),
        "all is told of",
    )
    last.terminate()
    assert last.wait(30) == 0
    assert {place: sorted(found) for place, found in auditor.told().items()} == auditor.expected()
    records = auditor.records()
    kinds = [record.type for record in records]
    assert (kinds.count("decision"), kinds.count("label")) == (400, 40)
    assert kinds.count("log_start") == 4
    assert kinds[-1] == "log_stop"
    own = [record.sequence for record in records if record.emitter == "auditor"]
    assert own == list(range(len(own)))
    published = read_all(auditor.bootstrap, auditor.topics.checkpoints)
    assert published[-1].value == LogFolder(auditor.folder / "log" / "0").read("checkpoint")


def test_a_second_auditor_on_another_disk_is_refused_and_ends_the_first(auditor: Auditor) -> None:
    decide(auditor.bootstrap, auditor.topics, 0, 50)
    first = auditor.start()
    wait_until(auditor.records, "a checkpoint is shown")
    second = auditor.start(folder="other")
    assert second.wait(60) == 1
    assert first.wait(60) == 1
