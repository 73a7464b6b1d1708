"""The labeller as a process on a real Kafka: each report one label, whatever fails in between."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from local.kafka.broker import Node
from local.stack import Process, Stack
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.topics import Topics
from sluice.domain.clock import DAY_US, SystemClock
from sluice.domain.records.dead_letter import DeadLetter
from sluice.domain.records.label import Label
from tests.support.kafka import wait_until

pytestmark = pytest.mark.integration

NOW_US = SystemClock().now_us()


def told(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "source": "visa-tc40",
        "report_id": name,
        "kind": "issuer_report",
        "is_fraud": True,
        "authorization_id": f"auth-{name}",
        "tenant": "bank",
        "known_at": NOW_US - DAY_US,
        "event_at": NOW_US - 9 * DAY_US,
        "card_token": "card-1",
        "merchant_id": "merchant-1",
        "terminal_id": "terminal-1",
        "channel": "ecom",
    } | changes


class Labelling:
    """A labeller, its topics, and a topic of reports."""

    def __init__(self, kafka: Node, topics: Topics, folder: Path) -> None:
        self.kafka = kafka
        self.topics = topics
        self.cases = f"cases-{uuid.uuid4().hex[:8]}"
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        for done in admin.create_topics([NewTopic(self.cases, 2, 1)]).values():
            done.result(60)
        self.stack = Stack(
            kafka.bootstrap,
            "redis://localhost:1/0",
            folder,
            {
                "SLUICE_KAFKA_TOPIC_PREFIX": topics.labels.removesuffix("labels.v1"),
                "SLUICE_LABELLER_TOPIC": self.cases,
            },
        )
        self.producer = EventProducer(kafka.bootstrap, client_id="test")

    def start(self, replica: str = "1") -> Process:
        process = self.stack.start("labeller", replica=replica)
        self.stack.wait_ready(process)
        return process

    def post(self, process: Process, *reports: dict[str, Any]) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{process.port}/v1/labels"
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(url, json.dumps(reports).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, [
                    one.get("outcome", one.get("code")) for one in json.load(answer)
                ]
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["code"]

    def send(self, *reports: bytes | dict[str, Any]) -> None:
        for report in reports:
            raw = report if isinstance(report, bytes) else json.dumps(report).encode()
            self.producer.produce(self.cases, raw, key=raw)
        self.producer.flush(60)

    def labels(self) -> list[Label]:
        return [msgspec.json.decode(raw, type=Label) for raw in self._all(self.topics.labels)]

    def dead_letters(self) -> list[DeadLetter]:
        raws = self._all(self.topics.dead_letters)
        return [msgspec.json.decode(raw, type=DeadLetter) for raw in raws]

    def _all(self, topic: str) -> list[bytes]:
        reader = TopicReader(self.kafka.bootstrap)
        try:
            return [message.value for message in reader.records(topic)]
        finally:
            reader.close()


@pytest.fixture
def labelling(kafka: Node, topics: Topics, tmp_path: Path) -> Iterator[Labelling]:
    made = Labelling(kafka, topics, tmp_path)
    with made.stack:
        yield made


def test_reports_become_labels_once_over_http_and_kafka_and_a_killed_labeller_loses_none(
    labelling: Labelling,
) -> None:
    process = labelling.start()
    assert labelling.post(process, told("1"), told("2"), told("3", kind="x")) == (
        200,
        ["new", "new", "unknown_value"],
    )
    labelling.send(told("1"), told("4"), b"{", told("2", is_fraud=False))
    wait_until(lambda: len(labelling.dead_letters()) == 2, "two dead letters")
    assert {(x.origin.topic, x.code, x.service) for x in labelling.dead_letters()} == {
        (labelling.cases, "invalid_json", "labeller"),
        (labelling.cases, "report_conflict", "labeller"),
    }
    assert process.metric("sluice_labeller_labels_total") == 3

    labelling.stack.kill("labeller")
    again = labelling.start()
    verdict = told("5", kind="verdict", is_fraud=False, authorization_id="auth-1")
    status, outcomes = labelling.post(again, told("1"), told("2"), told("4"), verdict)
    assert (status, outcomes) == (200, ["duplicate", "duplicate", "duplicate", "turned"])
    assert sorted((x.report_id, x.uncounted) for x in labelling.labels()) == [
        (name, None) for name in ("1", "2", "4", "5")
    ]
    seven = 4 + 3  # reports and authorizations
    wait_until(lambda: again.metric("sluice_labeller_remembered") == seven, "all remembered")


def test_a_second_labeller_takes_over_and_the_first_ends(labelling: Labelling) -> None:
    first = labelling.start()
    assert labelling.post(first, told("1")) == (200, ["new"])
    second = labelling.start(replica="2")
    assert labelling.post(second, told("1"), told("2")) == (200, ["duplicate", "new"])
    status, _ = labelling.post(first, told("3"))
    assert status in (500, 503)
    wait_until(lambda: not first.alive(), "the end of the first")
    assert first.popen.returncode == 1
    assert labelling.post(second, told("3")) == (200, ["new"])
    assert sorted(str(x.report_id) for x in labelling.labels()) == ["1", "2", "3"]


def test_while_kafka_is_away_nothing_is_answered_as_taken_and_nothing_is_lost(
    labelling: Labelling,
) -> None:
    process = labelling.start()
    assert labelling.post(process, told("1")) == (200, ["new"])
    labelling.kafka.kill()
    try:
        assert labelling.post(process, told("2"))[0] == 503
    finally:
        labelling.kafka.start()
    three = told("1"), told("2"), told("3")

    def taken() -> bool:
        nonlocal process
        if not process.alive():
            # A commit that the broker's end cut off may come back as fenced: it ends, and is
            # started again as a pod would be.
            assert process.popen.returncode == 1
            process = labelling.start()
        try:
            return labelling.post(process, *three)[0] == 200
        except urllib.error.URLError:
            return False

    wait_until(taken, "Kafka again", at_most_s=120)
    assert sorted(str(x.report_id) for x in labelling.labels()) == ["1", "2", "3"]
