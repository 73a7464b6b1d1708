"""``sluice log verify --accounting`` against both brokers, asked by kafka-python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sluice.adapters.kafka.producer import EventProducer
from sluice.cli import main
from tests.integration.kafka.conftest import Broker
from tests.support import logs
from tests.support.kafka import read_all

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
    producer.flush(30)
    assert verified(0) == (0, [])
    last = read_all(broker.bootstrap, topics.labels)[-1]
    assert verified(1) == (2, [f"{last.partition}@{last.offset}"])


def test_a_broker_that_is_not_there_is_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.write_log(tmp_path, logs.entries(3))
    argv = ["log", "verify", str(tmp_path), "--key", str(logs.KEY), "--accounting"]
    assert main([*argv, "--bootstrap", "localhost:1"]) == 3
    assert "watermarks" in capsys.readouterr().err
