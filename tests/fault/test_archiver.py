"""Kill the archiver at each named point, start it again, and recount rows against the topic."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from local import metrics_page
from local.kafka.broker import free_port
from local.stack import SESSION_S
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalProducer
from sluice.adapters.parquet.archive import Archive
from sluice.adapters.storage import AnyPath
from sluice.adapters.storage import at as at_place
from sluice.domain.records.authorization import encode
from sluice.errors import Unavailable
from sluice.testing.factories import make_authorization, make_label
from sluice.testing.records import make_decision, make_shadow_scores
from tests.support.kafka import read_all, wait_until
from tests.support.s3_server import BUCKET, REGION

pytestmark = [pytest.mark.integration, pytest.mark.fault]

POINTS = (
    "archiver.before_link:2",
    "archiver.after_link:2",
    "archiver.after_commit:1",  # one commit may be behind all four files
)


@pytest.fixture
def start(kafka, topics: Topics, tmp_path: Path) -> Iterator:
    running: list[subprocess.Popen] = []

    def start(
        kill_at: str = "",
        roll_s: int = 1,
        admin_port: int = 0,
        log: bool = False,
        root: str = str(tmp_path / "archive"),
    ) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.archiver.main"],
            stderr=subprocess.PIPE if log else None,
            env=os.environ
            | {
                "SLUICE_KAFKA_BOOTSTRAP": kafka.bootstrap,
                "SLUICE_KAFKA_SESSION_S": SESSION_S,
                "SLUICE_KAFKA_TOPIC_PREFIX": topics.decisions.removesuffix("decisions.v1"),
                "SLUICE_ARCHIVER_ROOT": root,
                "SLUICE_ARCHIVER_ROLL_S": str(roll_s),
                "SLUICE_SERVICE_ADMIN_PORT": str(admin_port),
                "SLUICE_KILL_AT": kill_at,
            },
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


def decide(kafka, topics: Topics, numbers: range) -> None:
    """Decisions in transactions, as the stream processor writes them: markers leave gaps in
    offsets."""
    writer = TransactionalProducer(
        kafka.bootstrap, transactional_id=topics.decisions, client_id="test"
    )
    for at in range(numbers.start, numbers.stop, 50):
        writer.begin()
        for number in range(at, min(at + 50, numbers.stop)):
            decision = make_decision(f"a-{number}", card_token=f"card-{number % 13}")
            writer.produce(topics.decisions, decision.authorization.card_token, encode(decision))
        writer.commit()


def decide_at_last(kafka, topics: Topics, numbers: range) -> None:
    """At most one transaction, once a broker that was given up by its controller leads again."""

    def done() -> bool:
        try:
            decide(kafka, topics, numbers)
        except Unavailable:
            return False
        return True

    wait_until(done, "these are decided")


def label(kafka, topics: Topics, count: int) -> None:
    producer = EventProducer(kafka.bootstrap, client_id="test")
    for number in range(count):
        record = make_label(make_authorization(f"a-{number}"), known_at=number)
        producer.produce(topics.labels, encode(record), key=record.authorization_id)
    producer.flush(60)


def shadow(kafka, topics: Topics, count: int) -> None:
    producer = EventProducer(kafka.bootstrap, client_id="test")
    for number in range(count):
        record = make_shadow_scores(f"a-{number}", digest=f"{number:064x}")
        producer.produce(topics.shadow_scores, encode(record), key=record.digest)
    producer.flush(60)


def archived(tmp_path: Path, kind: str = "decisions") -> list[tuple]:
    return rows_of(tmp_path / "archive", kind)


def rows_of(root: AnyPath, kind: str = "decisions") -> list[tuple]:
    rows = Archive(root).read(kind, ["partition", "offset", "record"])
    return list(zip(*rows.to_pydict().values(), strict=True))


def in_topic(kafka, topic: str) -> list[tuple]:
    return [(m.partition, m.offset, m.value) for m in read_all(kafka.bootstrap, topic)]


def caught_up(port: int) -> bool:
    """True if the archiver has fetched all its partitions to their ends."""
    try:
        text = page(port)
    except OSError:
        return False
    lags = [sample.value for sample in metrics_page.samples(text, "sluice_consumer_lag_messages")]
    return len(lags) == 12 and set(lags) == {0}


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_archiver_leaves_each_row_once(kafka, topics, start, tmp_path, point):
    decide(kafka, topics, range(300))
    assert start(kill_at=point).wait(180) == -signal.SIGKILL
    decide(kafka, topics, range(300, 400))
    start()
    expected = in_topic(kafka, topics.decisions)
    assert len(expected) == 400
    wait_until(lambda: len(archived(tmp_path)) >= 400, "all are archived")
    assert archived(tmp_path) == expected


def test_sigterm_writes_what_is_buffered_and_a_successor_goes_on(kafka, topics, start, tmp_path):
    decide(kafka, topics, range(100))
    label(kafka, topics, 40)
    shadow(kafka, topics, 30)
    first = start(roll_s=1)
    wait_until(lambda: len(archived(tmp_path)) == 100, "the first are archived")
    first.terminate()
    assert first.wait(180) == 0
    decide(kafka, topics, range(100, 180))
    port = free_port()
    second = start(roll_s=3600, admin_port=port)
    wait_until(lambda: caught_up(port), "the second has read all")
    assert len(archived(tmp_path)) == 100
    second.terminate()
    assert second.wait(180) == 0
    start(roll_s=1)
    wait_until(lambda: len(archived(tmp_path)) >= 180, "all are archived")
    assert archived(tmp_path) == in_topic(kafka, topics.decisions)
    assert archived(tmp_path, "labels") == in_topic(kafka, topics.labels)
    assert archived(tmp_path, "shadow_scores") == in_topic(kafka, topics.shadow_scores)


def test_two_archivers_share_the_partitions_and_write_each_row_once(kafka, topics, start, tmp_path):
    decide(kafka, topics, range(200))
    start()
    wait_until(lambda: len(archived(tmp_path)) >= 100, "the first works")
    second = start()
    for turn in range(200, 600, 50):
        decide(kafka, topics, range(turn, turn + 50))
    second.kill()
    wait_until(lambda: len(archived(tmp_path)) >= 600, "all are archived")
    assert archived(tmp_path) == in_topic(kafka, topics.decisions)


def test_a_broker_that_stalls_for_longer_than_its_session_is_waited_for(
    kafka, topics, start, tmp_path
):
    decide(kafka, topics, range(200))
    process = start()
    wait_until(lambda: len(archived(tmp_path)) >= 200, "the first are archived")
    decide(kafka, topics, range(200, 300))
    kafka.pause()
    time.sleep(float(SESSION_S) + 2)
    kafka.resume()
    decide_at_last(kafka, topics, range(300, 350))
    decide_at_last(kafka, topics, range(350, 400))
    wait_until(lambda: len(archived(tmp_path)) >= 400, "all are archived")
    assert archived(tmp_path) == in_topic(kafka, topics.decisions)
    assert process.poll() is None, "it waited"


@pytest.mark.parametrize("how", ["gone", pytest.param("silent", marks=pytest.mark.slow)])
def test_object_storage_that_is_away_is_waited_for(kafka, topics, start, s3, how):
    leave, come = (s3.stop, s3.start) if how == "gone" else (s3.pause, s3.resume)
    root = at_place(f"s3://{BUCKET}/{topics.decisions}", s3.endpoint, REGION)
    decide(kafka, topics, range(200))
    port = free_port()
    process = start(admin_port=port, root=str(root))
    wait_until(lambda: len(rows_of(root)) == 200, "the first are archived")
    leave()
    try:
        decide(kafka, topics, range(200, 300))
        wait_until(lambda: given_up(port) > 0, "it cannot write, and counts that")
        decide(kafka, topics, range(300, 400))
        wait_until(lambda: lag(port) >= 200, "what waits is counted, the newest too")
    finally:
        come()
    wait_until(lambda: len(rows_of(root)) >= 400, "all are archived")
    assert rows_of(root) == in_topic(kafka, topics.decisions)
    assert process.poll() is None, "it waited"


def given_up(port: int) -> float:
    aborts = metrics_page.samples(page(port), "sluice_consumer_aborts_total")
    return sum(sample.value for sample in aborts if sample.labels.get("code") == "storage")


def lag(port: int) -> float:
    return metrics_page.total(page(port), "sluice_consumer_lag_messages")


def page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


@pytest.mark.parametrize("gone", ["everything", "the newest files"])
def test_files_that_are_gone_are_made_again_from_the_topic(kafka, topics, start, tmp_path, gone):
    decide(kafka, topics, range(200))
    first = start()
    wait_until(lambda: len(archived(tmp_path)) == 200, "the first are archived")
    decide(kafka, topics, range(200, 300))
    wait_until(lambda: len(archived(tmp_path)) == 300, "and the others")
    first.terminate()
    assert first.wait(180) == 0
    lost = tmp_path / "archive" / "decisions"
    if gone == "everything":
        shutil.rmtree(lost)
    else:
        newest = {file.partition: file.path for file in Archive(tmp_path / "archive").files()}
        for path in newest.values():
            path.unlink()
    start()
    wait_until(lambda: len(archived(tmp_path)) >= 300, "all are archived")
    assert archived(tmp_path) == in_topic(kafka, topics.decisions)


def test_an_empty_folder_whose_records_the_topic_no_longer_holds_is_refused(
    kafka, topics, start, tmp_path
):
    decide(kafka, topics, range(200))
    first = start()
    wait_until(lambda: len(archived(tmp_path)) == 200, "all are archived")
    first.terminate()
    assert first.wait(180) == 0
    (tmp_path / "archive").rename(tmp_path / "elsewhere")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for done in admin.delete_records(
        [TopicPartition(topics.decisions, number, 3) for number in range(4)]
    ).values():
        done.result(60)
    process = start(log=True)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 1
    stopped = said.decode().splitlines()[-1]
    assert "archive_lost" in stopped
    assert f"archiver.root, {topics.decisions}/" in stopped
    assert archived(tmp_path) == []
    (tmp_path / "archive").rename(tmp_path / "empty")
    (tmp_path / "elsewhere").rename(tmp_path / "archive")
    start()
    decide(kafka, topics, range(200, 250))
    wait_until(lambda: len(archived(tmp_path)) == 250, "with its folder back it goes on")
