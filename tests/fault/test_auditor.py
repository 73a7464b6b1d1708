"""The auditor as it is deployed: killed between Kafka and its disk, and recounted against both."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from local.kafka.broker import Node, free_port
from sluice.adapters.kafka.config import REQUEST_MAX_S
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.rollouts import RolloutTopic
from sluice.adapters.kafka.shard import LOOK_EVERY_S
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.tiles.folder import LogFolder
from sluice.application.log_keys import make_log_key
from sluice.application.log_silence import SIGNS, SignsOfLife
from sluice.application.ports import Partition
from sluice.application.sign_release import read_private_key
from sluice.audit.checkpoints import open_checkpoint
from sluice.audit.entries import split
from sluice.audit.merkle import leaf_hash, root_of
from sluice.audit.notes import LOG, Key, parse_key
from sluice.audit.tiles import read_entries, reader, tiles_of
from sluice.bootstrap.keystore import make_keystore
from sluice.cli import main
from sluice.domain.activation import Activation, statement_of
from sluice.domain.records.authorization import encode
from sluice.domain.records.log_record import (
    AnyRecord,
    GapRecord,
    HeartbeatRecord,
    KeyRotationRecord,
    read,
)
from sluice.domain.records.rollout import Rollout
from sluice.settings import KeystoreSettings, Settings
from sluice.testing.factories import NOON_US, make_authorization, make_label
from tests.support.decisions import decide
from tests.support.kafka import read_all, wait_ended, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.fault]
NAME = "test/eu/0"


class Auditor:
    """Its processes, one after another, over one disk."""

    def __init__(self, bootstrap: str, topics: Topics, folder: Path) -> None:
        self.bootstrap, self.topics, self.folder = bootstrap, topics, folder
        self.prefix = topics.decisions.removesuffix("decisions.v1")
        self.running: list[subprocess.Popen] = []
        self.key = folder / "log.key"
        make_log_key(self.key, NAME, witness=False)
        self.retired = ""
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
                "SLUICE_AUDITOR_RETIRED_KEYS_FILE": self.retired,
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
                for topic in (self.topics.decisions, self.topics.labels, self.topics.rollouts)
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
    producer.flush(60)


def obey(auditor: Auditor, *emitters: str) -> None:
    """Deciders say which policy they decide by, and by whose word."""
    said = Activation(
        what="policy", id="p-1", digest="d" * 64, epoch=NOON_US, act="activate", who="ann", why="x"
    )
    step = Rollout(
        at=NOON_US, emitter="", step="began", role="policy", release="p-1", digest="d" * 64,
        epoch=NOON_US, who="ann", why="x", statement=statement_of(said).statement.decode(),
        signers=["a" * 16], score_ppm=[None, None, 900_000], expected_loss_minor=[None] * 3,
    )  # fmt: skip
    producer = EventProducer(auditor.bootstrap, client_id="test")
    topic = RolloutTopic(
        auditor.topics.rollouts, lambda: TopicReader(auditor.bootstrap), lambda: producer
    )
    topic.write([structs.replace(step, emitter=emitter) for emitter in emitters])


def test_a_killed_auditor_tells_of_each_offset_once(auditor: Auditor) -> None:
    decide(auditor.bootstrap, auditor.topics, 0, 300)
    label(auditor, 40)
    obey(auditor, "decider-0/1-1", "decider-1/1-1")
    for point in ("auditor.after_publish:2", "auditor.after_ahead:3", "auditor.after_commit"):
        assert auditor.start(kill_at=point).wait(180) == -signal.SIGKILL, point
    decide(auditor.bootstrap, auditor.topics, 300, 400)
    obey(auditor, "decider-0/2-1")
    last = auditor.start()
    wait_until(
        lambda: (
            sum(map(len, auditor.told().values())) >= sum(map(len, auditor.expected().values()))
        ),
        "all is told of",
    )
    last.terminate()
    assert last.wait(180) == 0
    assert {place: sorted(found) for place, found in auditor.told().items()} == auditor.expected()
    records = auditor.records()
    kinds = [record.type for record in records]
    assert (kinds.count("decision"), kinds.count("label")) == (400, 40)
    assert kinds.count("log_start") == kinds.count("time_sync") == 4
    assert (kinds.count("rollout"), kinds.count("policy"), kinds.count("threshold")) == (3, 1, 1)
    assert kinds[-1] == "log_stop"
    own = [record.sequence for record in records if record.emitter == "auditor"]
    assert own == list(range(len(own)))
    wait_ended(auditor.bootstrap, auditor.topics.checkpoints)
    published = read_all(auditor.bootstrap, auditor.topics.checkpoints)
    assert published[-1].value == LogFolder(auditor.folder / "log" / "0").read("checkpoint")


@pytest.mark.slow
def test_an_auditor_gives_signs_of_life_while_its_broker_says_nothing(
    auditor: Auditor, kafka: Node
) -> None:
    """It asks for new partitions and waits for the answer; its log keeps its promise meanwhile."""
    label(auditor, 10)
    running = auditor.start()
    wait_until(lambda: auditor.told() == auditor.expected(), "all is told of")
    kafka.pause()
    try:
        time.sleep(LOOK_EVERY_S + REQUEST_MAX_S + 4)
    finally:
        kafka.resume()
    label(auditor, 10)
    wait_until(lambda: auditor.told() == auditor.expected(), "what came since is told of")
    running.terminate()
    assert running.wait(30) == 0
    signs, records = SignsOfLife(), auditor.records()
    for record in records:
        if record.type in SIGNS:
            signs.take(record.type, record.recorded_at)
    assert not [one for one in signs.ended(records[-1].recorded_at) if one.writing]
    assert any(isinstance(one, HeartbeatRecord) and not one.body.taking for one in records)


def test_an_auditor_whose_key_was_rotated_says_so_and_its_log_verifies(
    auditor: Auditor, capsys: pytest.CaptureFixture[str]
) -> None:
    label(auditor, 3)
    log, known = auditor.folder / "log" / "0", auditor.folder / "known"
    first = auditor.start()
    wait_until(auditor.records, "a checkpoint is shown")
    first.terminate()
    assert first.wait(180) == 0
    known.write_bytes((log / "checkpoint").read_bytes())
    old, auditor.key = auditor.key, auditor.folder / "new.key"
    make_log_key(auditor.key, NAME, witness=False)
    assert auditor.start().wait(180) == 1, "the log is another key's"
    auditor.retired = f"{old}.pub"
    second = auditor.start()
    wait_until(
        lambda: (log / "checkpoint").read_bytes() != known.read_bytes(), "a checkpoint is shown"
    )
    second.terminate()
    assert second.wait(180) == 0
    (rotation,) = [r.body for r in auditor.records() if isinstance(r, KeyRotationRecord)]
    assert (rotation.before, rotation.after) == tuple(
        parse_key(Path(f"{key}.pub").read_text()).short for key in (old, auditor.key)
    )
    verify = ["log", "verify", str(log), "--known", str(known), "--key", f"{auditor.key}.pub"]
    assert main([*verify, "--retired", f"{old}.pub"]) == 0
    assert main(verify) == 3
    assert "key_rotation 1" in capsys.readouterr().out


def test_a_second_auditor_on_another_disk_is_refused_and_ends_the_first(auditor: Auditor) -> None:
    decide(auditor.bootstrap, auditor.topics, 0, 50)
    first = auditor.start()
    wait_until(auditor.records, "a checkpoint is shown")
    second = auditor.start(folder="other")
    assert second.wait(180) == 1
    assert first.wait(180) == 1
