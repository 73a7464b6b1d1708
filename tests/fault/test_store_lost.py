"""A store that comes back empty: decisions go on and say so, states are made again from the log."""

from __future__ import annotations

import http.client
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from local.kafka.broker import Node
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.parquet.archive import Archive
from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.watermark import RedisWatermark
from sluice.application.ports import CATCHING_UP, LOST, REBUILDING, Watermark
from sluice.domain.clock import SECOND_US
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import Decision, answer
from sluice.testing.factories import make_label
from tests.support.deployment import Deployment, make_deployment
from tests.support.kafka import wait_until
from tests.support.recount import Ledger
from tests.support.traffic import Caller, StreamTraffic, call

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@pytest.fixture
def deployment(kafka: Node, store: EmbeddedStore, tmp_path: Path) -> Iterator[Deployment]:
    rolled = {"SLUICE_ARCHIVER_ROLL_S": "1"}
    with make_deployment(
        kafka.bootstrap, store.url, tmp_path / "world", environment=rolled
    ) as deployment:
        deployment.start("decider-stream", "featurizer")
        yield deployment


def stream(deployment: Deployment, name: str, count: int) -> None:
    """Send so many, and wait until they are decided."""
    before = len(deployment.ledger().decisions)
    traffic = StreamTraffic(deployment.bootstrap, deployment.topics.authorizations, name, rate=400)
    with traffic:
        wait_until(lambda: traffic.sent >= count, "traffic was sent")
    wait_until(
        lambda: len(deployment.ledger().decisions) == before + traffic.sent, "all is decided"
    )


def label_some(deployment: Deployment, ledger: Ledger) -> None:
    producer = EventProducer(deployment.bootstrap, client_id="test")
    for decision in ledger.decisions[::10]:
        label = make_label(decision.authorization, known_at=decision.decided_at)
        producer.produce(deployment.topics.labels, encode(label), key=label.authorization_id)
    producer.flush(60)


def levels(deployment: Deployment, name: str) -> Counter[str]:
    return Counter(
        d.degradation_level
        for d in deployment.ledger().decisions
        if d.authorization.authorization_id.startswith(f"{name}-")
    )


def rebuild(deployment: Deployment, *options: str, kill_at: str = "") -> CompletedProcess[str]:
    return deployment.stack.verb("states", "rebuild", *options, kill_at=kill_at)


def command(store: EmbeddedStore, *words: bytes) -> object:
    connection = BlockingConnection(store.url, timeout_s=5)
    (answer,) = connection.call(pack(*words), 1)
    connection.close()
    return answer


def mark(store: EmbeddedStore) -> Watermark:
    watermark = RedisWatermark(store.url)
    found = watermark.read()
    watermark.close()
    return found


def decided_after(deployment: Deployment, moment_us: int) -> list[Decision]:
    return [d for d in deployment.ledger().decisions if d.decided_at > moment_us]


def now_us() -> int:
    return time.time_ns() // 1000


def test_without_the_store_decisions_go_on_at_a_lower_degradation_level_and_recover(
    deployment: Deployment, store: EmbeddedStore
) -> None:
    stream(deployment, "before", 200)
    assert set(levels(deployment, "before")) == {"D0"}
    known = deployment.settle()

    store.stop()
    stream(deployment, "without", 100)
    without = [d for d in deployment.ledger().decisions if d.sequence >= len(known.decisions)]
    assert {d.degradation_level for d in without} == {"D2"}
    assert {tuple(d.degraded) for d in without} == {("store", "idempotency", *catalogue.VIEWS)}

    # Ids decided before are known by the replica that decided them: a repeat is none the less one.
    again = known.authorizations[0]
    producer = EventProducer(deployment.bootstrap, client_id="test")
    producer.produce(deployment.topics.authorizations, again.value, key=again.key)
    producer.flush(60)
    wait_until(
        lambda: [d.code for d in deployment.ledger().dead_letters] == ["duplicate"],
        "the repeat was known",
    )
    assert deployment.ledger().decided_twice() == []

    store.start()
    stream(deployment, "emptied", 20)
    assert set(levels(deployment, "emptied")) == {"D2"}
    wait_until(
        lambda: mark(store).state == LOST, "the featurizer has reported that states are lost"
    )
    done = rebuild(deployment)
    assert done.returncode == 0, done.stderr
    stream(deployment, "after", 20)
    assert set(levels(deployment, "after")) == {"D0"}
    assert deployment.settle().wrong_states(store.url) == []


def test_a_flush_under_traffic_is_noticed_at_once_and_rebuilt_while_decisions_go_on(
    deployment: Deployment, store: EmbeddedStore
) -> None:
    deployment.start("decider-sync", "archiver")
    traffic = StreamTraffic(deployment.bootstrap, deployment.topics.authorizations, "s")
    caller = Caller(deployment.stack.port, "c")
    with traffic, caller:
        wait_until(
            lambda: traffic.sent > 300 and len(caller.heard) > 50 and archived(deployment) > 100,
            "traffic runs, and part of it is archived",
        )
        label_some(deployment, deployment.ledger())
        asked_again = [make_again(d) for d in deployment.ledger().decisions[:40:4]]

        command(store, b"FLUSHALL")
        flushed = now_us()
        wait_until(
            lambda: len(decided_after(deployment, flushed + SECOND_US)) > 100, "decisions go on"
        )
        wait_until(
            lambda: mark(store).state == LOST, "the featurizer has reported that states are lost"
        )
        lost = decided_after(deployment, flushed)
        # A batch that was under way may have been served.
        assert {d.degradation_level for d in lost if d.received_at > flushed} == {"D2"}
        assert {d.degradation_level for d in lost} <= {"D0", "D2"}
        assert {"store" in d.degraded for d in lost if d.degradation_level == "D2"} == {True}
        assert metric(deployment, "decider-sync", "sluice_store_ready") == 0
        assert metric(deployment, "featurizer", "sluice_store_ready") == 0

        done = rebuild(deployment)
        assert done.returncode == 0, done.stderr
        rebuilt = now_us()
        wait_until(lambda: len(decided_after(deployment, rebuilt)) > 100, "decisions go on")
        assert {d.degradation_level for d in decided_after(deployment, rebuilt)} == {"D0"}
        assert metric(deployment, "decider-sync", "sluice_store_ready") == 1

    ledger = deployment.settle(heard=caller.heard)
    assert ledger.wrong_states(store.url) == []
    assert ledger.unbalanced() == {}
    # Answers by id came back too: whoever asks again is not decided again.
    connection = http.client.HTTPConnection("127.0.0.1", deployment.stack.port, timeout=10)
    for raw, said in asked_again:
        assert call(connection, raw) == (200, said)
    connection.close()
    assert len(deployment.ledger().decisions) == len(ledger.decisions)


def test_a_store_that_went_back_in_time_is_noticed_and_rebuilt(
    deployment: Deployment, store: EmbeddedStore
) -> None:
    """As when a replica takes over that had not received the last writes."""
    stream(deployment, "before", 100)
    deployment.settle()
    assert command(store, b"SAVE") == b"OK"
    older = mark(store)
    stream(deployment, "later", 100)
    deployment.settle()
    assert mark(store).applied != older.applied

    store.stop()
    store.start()
    stream(deployment, "back", 20)
    wait_until(
        lambda: mark(store).state == LOST, "the featurizer has reported that states are lost"
    )
    stream(deployment, "lost", 20)
    assert set(levels(deployment, "lost")) == {"D2"}
    assert rebuild(deployment).returncode == 0
    stream(deployment, "after", 20)
    assert set(levels(deployment, "after")) == {"D0"}
    assert deployment.settle().wrong_states(store.url) == []


def test_a_rebuild_killed_anywhere_is_run_again_from_archive_or_topic(
    deployment: Deployment, store: EmbeddedStore
) -> None:
    deployment.start("archiver")
    stream(deployment, "archived", 200)
    label_some(deployment, deployment.ledger())
    wait_until(lambda: archived(deployment) >= 100, "part of it is archived")
    assert deployment.stack.stop("archiver") == 0
    stream(deployment, "not-archived", 100)
    ledger = deployment.settle()
    assert ledger.wrong_states(store.url) == []

    command(store, b"FLUSHALL")
    for point in ("rebuild.filled", "rebuild.reset", "rebuild.catching_up"):
        assert rebuild(deployment, kill_at=point).returncode == -signal.SIGKILL
        assert mark(store).state in {REBUILDING, CATCHING_UP}
        stream(deployment, f"killed-at-{point}", 10)
        assert set(levels(deployment, f"killed-at-{point}")) == {"D2"}
    assert rebuild(deployment).returncode == 0
    assert deployment.settle().wrong_states(store.url) == []

    # A store that lost nothing may be rebuilt too, and the topic alone is enough.
    alone = rebuild(deployment, "--topic-alone")
    assert (alone.returncode, "topics alone" in alone.stderr) == (0, True), alone.stderr
    assert deployment.settle().wrong_states(store.url) == []
    stream(deployment, "after", 20)
    assert set(levels(deployment, "after")) == {"D0"}


def archived(deployment: Deployment) -> int:
    folder = deployment.stack.folder / "archive"
    return Archive(folder).read(columns=["offset"]).num_rows if folder.exists() else 0


def make_again(decision: Decision) -> tuple[bytes, bytes]:
    """What its sender sends again, and what it must hear."""
    return encode(decision.authorization), encode(answer(decision))


def metric(deployment: Deployment, process: str, name: str) -> float:
    return deployment.stack.processes[process].metric(name)
