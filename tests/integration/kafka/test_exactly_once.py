"""Each authorization's decision is seen once by read_committed readers, whatever dies or moves."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.transactions import TransactionalProducer, TransactionalStream
from sluice.errors import Corrupt
from sluice.testing.counting import Counted
from tests.support.kafka import read_all, wait_ended, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.fault]
PROCESS = Path(__file__).with_name("stream_process.py")


@pytest.fixture
def start(apache) -> Iterator:
    running: list[subprocess.Popen] = []

    def start(identity: str, kill_at: str = "") -> subprocess.Popen:
        process = subprocess.Popen(
            [
                *(sys.executable, str(PROCESS), apache.bootstrap),
                *(apache.topics.authorizations.removesuffix("authorizations.v1"), identity),
            ],
            env=os.environ | {"SLUICE_KILL_AT": kill_at},
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


def send(apache, numbers: range) -> None:
    producer = EventProducer(apache.bootstrap, client_id="test")
    for number in numbers:
        producer.produce(
            apache.topics.authorizations, b"%d" % number, key=b"card-%d" % (number % 97)
        )
    producer.flush(60)


def decided(apache, *, committed: bool = True) -> Counter:
    messages = read_all(apache.bootstrap, apache.topics.decisions, committed=committed)
    return Counter(int(message.value.split()[0]) for message in messages)


def deciders(apache) -> set[bytes]:
    messages = read_all(apache.bootstrap, apache.topics.decisions)
    return {message.value.split()[1] for message in messages}


def open_stream(apache, identity: str) -> TransactionalStream:
    return TransactionalStream(
        apache.bootstrap,
        group=f"{apache.topics.authorizations}entrypoint",
        topics=[apache.topics.authorizations],
        transactional_id=f"{apache.topics.authorizations}{identity}",
        client_id="test",
    )


def place_after(batch) -> dict:
    return {(message.topic, message.partition): message.offset + 1 for message in batch}


@pytest.mark.parametrize(
    "point",
    ["stream.before_offsets:3", "stream.before_commit:3", "stream.after_commit:3"],
)
def test_an_entrypoint_killed_around_its_commit_decides_each_authorization_once(
    apache, start, point
):
    send(apache, range(600))
    assert start("entrypoint-0", kill_at=point).wait(180) == -signal.SIGKILL
    start("entrypoint-0")
    wait_until(lambda: sum(decided(apache).values()) >= 600, "all are decided")
    assert decided(apache) == Counter(range(600))


def test_what_an_aborted_transaction_wrote_is_never_seen_and_comes_again(apache):
    send(apache, range(40))
    entrypoint = open_stream(apache, "entrypoint-0")
    batch = wait_until(lambda: entrypoint.poll_batch(40, 0.1), "authorizations")
    entrypoint.begin()
    for message in batch:
        entrypoint.produce(apache.topics.decisions, message.key, b"999")
    entrypoint._producer._producer.flush(60)
    entrypoint.abort()
    moved = 0
    while moved < 40:
        batch = wait_until(lambda: entrypoint.poll_batch(40, 0.1), "the same authorizations")
        entrypoint.begin()
        for message in batch:
            entrypoint.produce(apache.topics.decisions, message.key, message.value)
        entrypoint.commit(place_after(batch))
        moved += len(batch)
    entrypoint.close()
    wait_ended(apache.bootstrap, apache.topics.decisions)
    assert decided(apache) == Counter(range(40))
    assert decided(apache, committed=False)[999] > 0


def test_more_records_than_the_queue_holds_wait_for_room_and_keep_their_order(apache):
    counted = Counted()
    writer = TransactionalProducer(
        apache.bootstrap,
        transactional_id=f"{apache.topics.decisions}-full",
        client_id="test",
        extra={"queue.buffering.max.messages": 7},
        count=counted,
    )
    writer.begin()
    writer.produce_each(apache.topics.decisions, ((b"one", b"%d" % n, []) for n in range(100)))
    writer.commit()
    wait_ended(apache.bootstrap, apache.topics.decisions)
    found = read_all(apache.bootstrap, apache.topics.decisions)
    assert [int(message.value) for message in found] == list(range(100))
    assert counted["sluice_producer_queue_full_total"] > 0


def test_a_second_entrypoint_with_the_same_id_fences_the_first(apache):
    send(apache, range(10))
    first = open_stream(apache, "entrypoint-0")
    batch = wait_until(lambda: first.poll_batch(10, 0.1), "authorizations")
    first.begin()
    first.produce(apache.topics.decisions, b"k", b"1")
    second = open_stream(apache, "entrypoint-0")
    with pytest.raises(Corrupt, match="another process") as caught:
        first.commit(place_after(batch))
    assert caught.value.code == "fenced"
    first.close()
    second.close()
    assert decided(apache) == Counter()


def test_entrypoints_that_come_and_go_under_traffic_decide_each_authorization_once(apache, start):
    sent = 0

    def traffic(until: int) -> None:
        nonlocal sent
        while sum(decided(apache).values()) < until:
            send(apache, range(sent, sent + 100))
            sent += 100

    first = start("entrypoint-0")
    traffic(200)
    start("entrypoint-1")
    wait_until(lambda: traffic(sent + 1) or len(deciders(apache)) == 2, "both decide")
    first.terminate()
    assert first.wait(180) == 0
    traffic(sent + 200)
    start("entrypoint-0", kill_at="stream.before_commit:5")
    traffic(sent + 200)
    wait_until(lambda: sum(decided(apache).values()) >= sent, "all are decided")
    assert decided(apache) == Counter(range(sent))
