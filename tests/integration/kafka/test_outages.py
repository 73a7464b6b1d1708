"""What callers are told while the broker is away, and that all goes on once it is back."""

import asyncio
import os
import subprocess
import sys

import psutil
import pytest

from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.decision_log import DecisionProducer
from sluice.adapters.kafka.producer import EventProducer
from sluice.domain.records.authorization import encode
from sluice.errors import Misconfigured, Unavailable
from sluice.testing.counting import Counted
from sluice.testing.factories import make_arrival
from sluice.testing.records import make_decision
from tests.support.kafka import read_all, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.fault]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def log_of(
    apache, *, append_max_ms: int = 10_000, counted: Counted | None = None
) -> DecisionProducer:
    return DecisionProducer(
        apache.bootstrap,
        topic=apache.topics.decisions,
        client_id="test",
        append_max_ms=append_max_ms,
        count=Counted() if counted is None else counted,
    )


def some(count: int, *, start: int = 0) -> list:
    return [
        (make_arrival(f"a-{n}", card_token=f"card-{n % 5}"), make_decision(f"a-{n}"))
        for n in range(start, start + count)
    ]


async def append_at_last(log: DecisionProducer, decisions: list) -> None:
    """While it still connects, an append may miss its deadline."""
    async with asyncio.timeout(180):
        while True:
            try:
                return await log.append(decisions)
            except Unavailable:
                continue


async def test_an_append_returns_when_its_decisions_can_be_read(apache):
    log = log_of(apache)
    await log.ready()
    await asyncio.gather(*(log.append(some(3, start=n)) for n in range(0, 90, 3)))
    found = read_all(apache.bootstrap, apache.topics.decisions)
    await log.close()
    assert sorted(m.value for m in found) == sorted(encode(d) for _, d in some(90))
    assert {m.key for m in found} == {b"card-%d" % n for n in range(5)}


async def test_an_append_carries_the_callers_trace(apache):
    log = log_of(apache)
    arrival, decision = some(1)[0]
    traced = type(arrival)(
        arrival.auth, arrival.amount_minor, arrival.digest, 0, None, traceparent=TRACE
    )
    await log.append([(traced, decision)])
    await log.close()
    assert read_all(apache.bootstrap, apache.topics.decisions)[0].traceparent == TRACE


async def test_a_missing_topic_is_a_wrong_setting(apache):
    log = DecisionProducer(
        apache.bootstrap, topic="nowhere", client_id="test", append_max_ms=10_000
    )
    with pytest.raises(Misconfigured, match="UNKNOWN_TOPIC"):
        await log.ready()
    counted = Counted()
    producer = EventProducer(apache.bootstrap, client_id="test", count=counted)
    producer.produce("nowhere", b"1")
    with pytest.raises(Misconfigured, match="1 records were not delivered"):
        producer.flush(60)
    assert counted["sluice_producer_failed_total other"] == 1


async def test_clients_say_so_while_the_broker_is_down_and_go_on_after(kafka, apache):
    counted, heard_by_member = Counted(), Counted()
    log = log_of(apache, append_max_ms=300, counted=counted)
    await append_at_last(log, some(1))
    producer = EventProducer(apache.bootstrap, client_id="test")
    member = GroupConsumer(
        apache.bootstrap,
        group="g",
        topics=[apache.topics.labels],
        client_id="test",
        count=heard_by_member,
    )
    wait_until(lambda: member.poll_batch(1, 0.1) or member.assignment(), "an assignment")
    kafka.kill()
    try:
        with pytest.raises(Unavailable, match="not acknowledged after 300 ms"):
            await log.append(some(2, start=1))
        assert counted["sluice_producer_appends_late_total"] >= 1
        for number in range(5):
            producer.produce(apache.topics.labels, b"%d" % number)
        with pytest.raises(Unavailable, match="5 still queued"):
            producer.flush(0.2)
        assert member.poll_batch(10, 0.2) == []
    finally:
        kafka.start()
    producer.flush(60)
    got: list = []
    wait_until(lambda: got.extend(member.poll_batch(10, 0.1)) or len(got) >= 5, "five labels")
    member.close()
    await append_at_last(log, some(1, start=9))
    await log.close()
    assert encode(some(1, start=9)[0][1]) in {
        m.value for m in read_all(apache.bootstrap, apache.topics.decisions)
    }
    assert sorted(m.value for m in got) == [b"%d" % number for number in range(5)]
    lost = [name for name in heard_by_member if name.startswith("sluice_kafka_errors_total ")]
    assert sum(heard_by_member[name] for name in lost) > 0


async def test_what_becomes_durable_after_its_append_was_given_up_is_told(kafka, apache):
    counted, told = Counted(), asyncio.Event()
    log = log_of(apache, append_max_ms=300, counted=counted)
    await append_at_last(log, some(1))
    name = "sluice_producer_appends_durable_late_total"
    before = counted[name]  # of those while it still connected
    kafka.pause()
    try:
        with pytest.raises(Unavailable, match="not acknowledged after 300 ms"):
            await log.append(some(2, start=1), lambda lost: lost or told.set())
        assert not told.is_set()
    finally:
        kafka.resume()
    async with asyncio.timeout(180):
        await told.wait()
    assert counted[name] == before + 1
    await log.close()
    found = {m.value for m in read_all(apache.bootstrap, apache.topics.decisions)}
    assert found == {encode(d) for _, d in some(3)}


async def test_what_no_broker_took_is_told_by_its_place(kafka, apache):
    """So that the next record can tell of its number, and the log has a gap for it."""
    told: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    log = log_of(apache, append_max_ms=300, counted=Counted())
    await append_at_last(log, some(1))
    kafka.kill()
    try:
        with pytest.raises(Unavailable, match="not acknowledged after 300 ms"):
            await log.append(some(2, start=1), lambda lost: told.set_result(sorted(lost)))
        assert not told.done()
        async with asyncio.timeout(180):
            assert await told == [0, 1]
    finally:
        kafka.start()
    await log.close()


def test_a_broker_of_a_killed_test_run_dies_with_it(tmp_path):
    program = f"""
import os, signal
from pathlib import Path
from local.kafka.broker import JarNode, free_port
node = JarNode(Path({str(tmp_path)!r}), free_port(), detached=False)
node.start()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, env=os.environ)
    assert done.returncode < 0
    pid = int((tmp_path / "broker.pid").read_text())

    def gone() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(gone, "the broker is gone")
