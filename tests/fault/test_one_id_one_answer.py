"""Storms in which callers ask again after 0.4 s, at both entrypoints and two replicas.

An id that a replica or the store can know has one answer, whatever is slow, stalled or gone. What
nobody can know (an id that comes to the other entrypoint while the store is away) may be decided
twice: then the first record counts, everywhere, and the number is printed.
"""

from __future__ import annotations

import http.client
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local.kafka.broker import Node
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.parquet.archive import Archive
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.bootstrap.services import store_at
from sluice.domain.records.authorization import encode
from tests.support.deployment import Deployment, make_deployment
from tests.support.kafka import wait_until
from tests.support.traffic import Impatient, StreamTraffic, call

pytestmark = [pytest.mark.fault, pytest.mark.slow]

RATE = 40
"""A second, at each of the three: the machine is shared, and the storm is in what fails."""
BEFORE = 60
"""Ids answered before it begins."""
TIGHT = {
    "SLUICE_STORE_BUDGET_MS": "10",
    "SLUICE_STORE_BATCH_BUDGET_MS": "200",
    "SLUICE_ARCHIVER_ROLL_S": "1",
}
"""Budgets as they ship, which the harness otherwise widens."""


@pytest.fixture
def deployment(kafka: Node, store: EmbeddedStore, tmp_path: Path) -> Iterator[Deployment]:
    with make_deployment(
        kafka.bootstrap, store.url, tmp_path / "world", environment=TIGHT
    ) as deployment:
        deployment.start("decider-stream", "featurizer", "archiver", "decider-sync")
        second = deployment.stack.start("decider-sync", replica="2")
        deployment.stack.wait_ready(second)
        yield deployment


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that answers nothing, and whose connections stay."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def process_of(store: EmbeddedStore) -> int:
    side = store_at(store.url).states()
    found = side.info().process_id
    side.close()
    return found


def slow_store(_: Deployment, store: EmbeddedStore, __: Node) -> None:
    """Answers late, again and again: some within the budget of ids, some not."""
    pid = process_of(store)
    for n in range(24):
        with stopped(pid):
            time.sleep((0.02, 0.05, 0.12, 0.45)[n % 4])
        time.sleep(0.15)


def hung_store(_: Deployment, store: EmbeddedStore, __: Node) -> None:
    """Longer than a connection is kept that says nothing."""
    with stopped(process_of(store)):
        time.sleep(5)


def lost_store(deployment: Deployment, store: EmbeddedStore, _: Node) -> None:
    """Gone, then back with nothing in it, then rebuilt."""
    store.stop()
    time.sleep(4)
    store.start()
    time.sleep(2)
    done = deployment.stack.verb("states", "rebuild", "--topic-alone")
    assert done.returncode == 0, done.stderr


def stalled_kafka(_: Deployment, __: EmbeddedStore, kafka: Node) -> None:
    """Longer than the sync API waits for a record, and than its client tries to send it."""
    kafka.pause()
    try:
        time.sleep(6)
    finally:
        kafka.resume()


Storm = Callable[[Deployment, EmbeddedStore, Node], None]


@pytest.mark.parametrize("storm", [slow_store, hung_store, lost_store, stalled_kafka])
def test_an_id_that_somebody_knows_has_one_answer(
    storm: Storm, deployment: Deployment, store: EmbeddedStore, kafka: Node
) -> None:
    processes = deployment.stack.processes
    ports = [processes[name].port for name in ("decider-sync", "decider-sync-2")]
    producer = EventProducer(deployment.bootstrap, client_id="crossing")
    topic = deployment.topics.authorizations

    def hashed(authorization_id: str) -> int:
        return ports[zlib.crc32(authorization_id.encode()) % len(ports)]

    def cross(raw: bytes, key: str) -> None:
        producer.produce(topic, raw, key=key)

    callers = Impatient(hashed, "sync", rate=RATE)
    crossing = Impatient(hashed, "cross", rate=RATE / 4, sent=cross)
    stream = StreamTraffic(
        deployment.bootstrap, topic, "stream", rate=RATE, replays=3, after_s=Impatient.AGAIN_S
    )
    with callers, crossing, stream:
        wait_until(lambda: sum(map(bool, callers.heard.values())) > BEFORE, "callers are answered")
        storm(deployment, store, kafka)
        after = len(callers.heard)
        wait_until(lambda: len(callers.heard) > after + BEFORE, "traffic goes on after it")
    producer.flush(60)
    ledger = deployment.settle()

    twice = ledger.decided_twice()
    crossed = [key for key in twice if key.startswith("cross-")]
    heard = {**callers.heard, **crossing.heard}
    differing = sorted(key for key, answers in heard.items() if len(answers) > 1)
    print(
        f"\n{storm.__name__}: {len(callers.heard):,} ids of the sync API, {len(crossing.heard):,} "
        f"of both entrypoints, {stream.sent:,} of the stream; decided twice {len(twice)}, of them "
        f"at both entrypoints {len(crossed)}; two answers heard of {len(differing)}; refused "
        f"{dict(callers.refused + crossing.refused)}; given up {len(callers.given_up)}"
    )
    # Who could know is asked: the replica by the hash of the id, the stream processor by its key.
    assert [key for key in differing if not key.startswith("cross-")] == []
    assert sorted(set(twice) - set(crossed)) == []
    assert callers.given_up == []
    assert ledger.unbalanced() == {}
    # A caller hears what is recorded; of two records either.
    recorded = ledger.every_answer()
    assert {key for key, answers in heard.items() if not answers <= recorded[key]} == set()
    # What was decided twice counts once, live and from the log.
    assert ledger.wrong_states(store.url) == []
    wait_until(
        lambda: (
            Archive(deployment.stack.folder / "archive").read(columns=["offset"]).num_rows
            == len(ledger.decisions)
        ),
        "all is archived",
    )
    marked = Archive(deployment.stack.folder / "archive").read(columns=["superseded"])
    assert sum(marked["superseded"].to_pylist()) == len(twice)


def test_a_replica_that_starts_knows_what_was_answered_before_it(
    deployment: Deployment, store: EmbeddedStore
) -> None:
    """And the stream processor: both are killed, and find no store when they are back."""
    processes = deployment.stack.processes
    callers = Impatient(lambda _id: processes["decider-sync-2"].port, "kept", rate=RATE)
    with callers:
        wait_until(lambda: sum(map(bool, callers.heard.values())) > BEFORE, "some are answered")
    ledger = deployment.settle(heard=callers.heard)
    for name in ("decider-sync-2", "decider-stream"):
        deployment.stack.kill(name)
    store.stop()
    deployment.start("decider-stream")
    deployment.stack.wait_ready(deployment.stack.start("decider-sync", replica="2"))
    for name in ("decider-sync-2", "decider-stream"):
        wait_until(
            lambda name=name: (  # type: ignore[misc]
                processes[name].metric("sluice_decider_recalled_total") >= len(ledger.decisions)
            ),
            f"{name} has read the log's tail",
        )
    port = processes["decider-sync-2"].port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    producer = EventProducer(deployment.bootstrap, client_id="again")
    for decision in ledger.decisions:
        auth = decision.authorization
        raw = encode(auth)
        (said,) = callers.heard[auth.authorization_id]
        assert call(connection, raw) == (200, said)
        producer.produce(deployment.topics.authorizations, raw, key=auth.card_token)
    connection.close()
    producer.flush(60)
    wait_until(
        lambda: len(deployment.ledger().dead_letters) == len(ledger.decisions),
        "the stream processor knows them all",
    )
    after = deployment.ledger()
    assert {letter.code for letter in after.dead_letters} == {"duplicate"}
    assert len(after.decisions) == len(ledger.decisions)
