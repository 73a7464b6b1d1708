"""``sluice log verify --accounting`` against both brokers, asked by kafka-python."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from local.kafka.broker import Node
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalProducer
from sluice.cli import main
from tests.integration.kafka.conftest import Broker
from tests.support import logs
from tests.support.kafka import read_all, wait_ended

pytestmark = pytest.mark.integration

COUNT = 40


def test_what_a_broker_holds_and_no_record_tells_of_is_missing(
    broker: Broker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    topics = broker.topics
    monkeypatch.setenv("SLUICE_KAFKA_TOPIC_PREFIX", topics.labels.removesuffix("labels.v1"))
    argv = ["log", "verify", str(tmp_path / "log"), "--key", str(logs.KEY), "--accounting"]
    argv += ["--bootstrap", broker.bootstrap, "--json"]

    def verified(lacks: int) -> tuple[int, list[str]]:
        """With a log that tells of all records of the topic but some."""
        messages = read_all(broker.bootstrap, topics.labels)
        told = [
            logs.entry(at, topic=topics.labels, partition=one.partition, offset=one.offset)
            for at, one in enumerate(messages[: len(messages) - lacks])
        ]
        logs.write_log(tmp_path / "log", told)
        capsys.readouterr()
        status = main(argv)
        said = json.loads(capsys.readouterr().out)
        return status, [f"{one['partition']}@{one['first']}" for one in said["missing"]]

    producer = EventProducer(broker.bootstrap, client_id="test")
    for number in range(COUNT):
        producer.produce(topics.labels, b"{}", key=b"%d" % number)
    producer.flush(60)
    assert verified(0) == (0, [])
    last = read_all(broker.bootstrap, topics.labels)[-1]
    assert verified(1) == (2, [f"{last.partition}@{last.offset}"])


def test_no_committed_record_hides_in_a_gap(
    kafka: Node,
    make_topics: Callable[[int], Topics],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A log with a true gap for each marker and aborted transaction, and then with a false one."""
    topics = make_topics(1)
    topic = topics.decisions
    monkeypatch.setenv("SLUICE_KAFKA_TOPIC_PREFIX", topic.removesuffix("decisions.v1"))
    writer = TransactionalProducer(kafka.bootstrap, transactional_id=topic, client_id="test")
    for size in (3, -2, 1, -200, 4, -1, 90, 2):
        writer.begin()
        for number in range(abs(size)):
            writer.produce(topic, "card", b"%d" % number)
        if size > 0:
            writer.commit()
        else:
            writer._producer.flush(60)
            writer.abort()
    wait_ended(kafka.bootstrap, topic)
    there = [one.offset for one in read_all(kafka.bootstrap, topic)]
    assert len(there) == 100
    end = 8 + 3 + 2 + 1 + 200 + 4 + 1 + 90 + 2
    argv = ["log", "verify", str(tmp_path / "log"), "--key", str(logs.KEY), "--accounting"]
    argv += ["--bootstrap", kafka.bootstrap, "--json"]

    def verified(*hidden: int) -> tuple[int, list[int], dict[str, Any]]:
        """Of a log that says of these offsets that they hold no record."""
        told = sorted({*there} - {*hidden})
        holes = [(a, b) for a, b in pairwise([-1, *told, end]) if b - a > 1]
        entries = [logs.entry(at, topic=topic, offset=one) for at, one in enumerate(told)]
        entries += [
            logs.gap(
                999, a + 1, b, topic=topic, sequence=at,
                reason="aborted" if b - a > 2 else "transaction_marker",
            )
            for at, (a, b) in enumerate(holes)
        ]  # fmt: skip
        logs.write_log(tmp_path / "log", entries)
        capsys.readouterr()
        status = main(argv)
        said = json.loads(capsys.readouterr().out)
        missing = [n for one in said["missing"] for n in range(one["first"], one["until"])]
        assert all(one["hidden"] for one in said["missing"])
        (balance,) = said["partitions"]
        assert balance["hidden"] == len(missing)
        return status, missing, balance

    status, missing, balance = verified()
    assert (status, missing, balance["unproved"]) == (0, [], 0)
    assert sum(balance["gaps"].values()) == end - 100
    for hidden in ([there[0]], [there[3]], there[40:43], [there[-1]], there[2:6]):
        status, missing, _ = verified(*hidden)
        assert (status, missing) == (2, hidden)

    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.delete_records([TopicPartition(topic, 0, there[4])]).values():
        future.result(60)
    status, missing, balance = verified(there[0], there[5])
    assert (status, missing) == (2, [there[5]])
    assert balance["unproved"] == there[4] - 3


def test_a_broker_that_is_not_there_is_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.write_log(tmp_path, logs.entries(3))
    argv = ["log", "verify", str(tmp_path), "--key", str(logs.KEY), "--accounting"]
    assert main([*argv, "--bootstrap", "localhost:1"]) == 3
    assert "the brokers are not there" in capsys.readouterr().err
