"""A topic that is deleted and made again under running services: said, and nothing passed over."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from local.kafka.broker import Node
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.parquet.archive import Archive
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.application.ports import LOST
from sluice.domain.records.authorization import encode
from sluice.testing.factories import make_authorization
from tests.fault.test_store_lost import levels, mark, metric, rebuild, stream
from tests.support.deployment import Deployment, make_deployment
from tests.support.kafka import read_all, remake, wait_until
from tests.support.recount import wait_applied

pytestmark = [pytest.mark.fault, pytest.mark.slow]

PARTITIONS = 3
COUNT = 300


@pytest.fixture
def deployment(kafka: Node, store: EmbeddedStore, tmp_path: Path) -> Iterator[Deployment]:
    with make_deployment(
        kafka.bootstrap,
        store.url,
        tmp_path / "world",
        partitions=PARTITIONS,
        environment={"SLUICE_ARCHIVER_ROLL_S": "1"},
    ) as made:
        yield made


def decided(deployment: Deployment, name: str) -> int:
    return sum(
        d.authorization.authorization_id.startswith(f"{name}-")
        for d in deployment.ledger().decisions
    )


def send(deployment: Deployment, name: str, count: int) -> None:
    """The same cards each time: as many records in each partition as before."""
    producer = EventProducer(deployment.bootstrap, client_id="test")
    for number in range(count):
        auth = make_authorization(
            f"{name}-{number}",
            event_at=time.time_ns() // 1000,
            card_token=f"card-{number % 7}",
        )
        producer.produce(deployment.topics.authorizations, encode(auth), key=auth.card_token)
    producer.flush(60)


def test_authorizations_made_again_are_decided_from_their_beginning(deployment):
    deployment.start("decider-stream")
    send(deployment, "before", COUNT)
    wait_until(lambda: decided(deployment, "before") == COUNT, "the first are decided")

    popen = deployment.stack.processes["decider-stream"].popen
    popen.send_signal(signal.SIGSTOP)  # a pause, so that it never sees the new topic empty
    remake(deployment.bootstrap, deployment.topics.authorizations, PARTITIONS)
    send(deployment, "after", COUNT)
    popen.send_signal(signal.SIGCONT)
    wait_until(lambda: decided(deployment, "after") == COUNT, "those after it are decided")
    assert deployment.ledger().decided_twice() == []
    assert "topic_remade" in deployment.logs()
    remade = "sluice_consumer_topics_remade_total"
    assert metric(deployment, "decider-stream", remade) >= 1
    assert deployment.stack.processes["decider-stream"].alive()


@pytest.mark.parametrize("running", [True, False])
def test_states_and_archive_do_not_go_on_with_decisions_made_again(
    deployment, store, tmp_path, running
):
    """Nor where they stood still meanwhile: their own offsets are of the topic that is gone."""
    names = deployment.topics
    deployment.start("decider-stream", "featurizer", "archiver")
    stream(deployment, "before", COUNT)
    deployment.settle()
    held = read_all(deployment.bootstrap, names.decisions)
    archive = Archive(deployment.stack.folder / "archive")
    wait_until(lambda: archived(archive) == len(held), "all of it is archived")
    if not running:
        deployment.stack.stop("featurizer")
        deployment.stack.stop("archiver")

    remake(deployment.bootstrap, names.decisions, PARTITIONS)
    stream(deployment, "after", 2 * COUNT)  # more than lay in it: the old offsets are within it
    if not running:
        deployment.stack.start("featurizer")
        deployment.stack.start("archiver")
    wait_until(lambda: mark(store).state == LOST, "the featurizer has marked the states lost")
    assert "made again" in mark(store).why
    stream(deployment, "late", 20)
    assert set(levels(deployment, "late")) == {"D2"}

    archiver = deployment.stack.processes["archiver"]
    wait_until(lambda: not archiver.alive(), "the archiver has ended")
    assert archived(archive) == len(held)
    assert "topic_remade" in archiver.log.read_text()
    again = deployment.stack.start("archiver")
    wait_until(lambda: not again.alive(), "it refuses that folder")
    assert archived(archive) == len(held)

    assert "of another topic" in rebuild(deployment).stderr
    fresh = deployment.stack.start("archiver", SLUICE_ARCHIVER_ROOT=str(tmp_path / "fresh"))
    deployment.stack.wait_ready(fresh)
    done = rebuild(deployment, "--archive", str(tmp_path / "fresh"))
    assert done.returncode == 0, done.stderr
    stream(deployment, "rebuilt", 20)
    assert set(levels(deployment, "rebuilt")) == {"D0"}
    wait_applied(deployment.bootstrap, names, deployment.featurizer_group)
    assert deployment.ledger().wrong_states(store.url) == []


def archived(archive: Archive) -> int:
    return len(archive.read("decisions", ["offset"]))


def test_a_new_partition_is_read_within_half_a_minute(deployment):
    topic = deployment.topics.authorizations
    deployment.start("decider-stream")
    send(deployment, "before", 10)
    wait_until(lambda: decided(deployment, "before") == 10, "the group reads")
    admin = AdminClient({"bootstrap.servers": deployment.bootstrap})
    admin.create_partitions([NewPartitions(topic, PARTITIONS + 1)])[topic].result(60)
    producer = EventProducer(deployment.bootstrap, client_id="test")
    auth = make_authorization("new-0", event_at=time.time_ns() // 1000)
    producer.produce(topic, encode(auth), partition=PARTITIONS)
    producer.flush(60)
    wait_until(lambda: decided(deployment, "new") == 1, "it is decided", at_most_s=30)
