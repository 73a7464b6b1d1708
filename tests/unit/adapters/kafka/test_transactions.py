"""What a transactional producer does when the broker's answers contradict each other."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from sluice.adapters.kafka import transactions
from sluice.adapters.kafka.transactions import TransactionalProducer
from sluice.errors import Corrupt, Unavailable
from sluice.testing.counting import Counted

LOST = KafkaError(KafkaError._TIMED_OUT, "no answer")
ENDED = KafkaError(KafkaError.INVALID_TXN_STATE, "it was committed", fatal=True)
FENCED = KafkaError(KafkaError._FENCED, "fenced by a newer instance", fatal=True)


class Client:
    """Of librdkafka, with the errors that it raises, by step; each once."""

    made = 0
    stays: threading.Event | None = None
    """Until this, whoever sends offsets waits, whatever timeout it gave."""

    def __init__(self, errors: dict[str, KafkaError]) -> None:
        self._errors = errors
        Client.made += 1

    def _step(self, name: str) -> None:
        if name in self._errors:
            raise KafkaException(self._errors.pop(name))

    def init_transactions(self, _: float) -> None:
        self._step("init")

    def begin_transaction(self) -> None:
        self._step("begin")

    def send_offsets_to_transaction(self, _offsets: Any, _group: Any, _: float) -> None:
        if self.stays is not None:
            self.stays.wait()
        self._step("offsets")

    def commit_transaction(self, _: float) -> None:
        self._step("commit")

    def abort_transaction(self, _: float) -> None:
        self._step("abort")

    def produce(self, *_: Any, **__: Any) -> None:
        """Nothing is written."""


def producer(
    monkeypatch: pytest.MonkeyPatch, counted: Counted, **errors: KafkaError
) -> TransactionalProducer:
    monkeypatch.setattr(transactions, "Producer", lambda _: Client(errors))
    return TransactionalProducer(
        "localhost:1", transactional_id="test", client_id="test", count=counted
    )


@pytest.mark.parametrize(
    "errors", [{"commit": LOST, "abort": ENDED}, {"commit": ENDED}], ids=["abort", "commit"]
)
def test_a_transaction_that_the_broker_ended_otherwise_makes_another_client(
    monkeypatch: pytest.MonkeyPatch, errors: dict[str, KafkaError]
) -> None:
    counted = Counted()
    made = producer(monkeypatch, counted, **errors)
    clients = Client.made
    made.begin()
    with pytest.raises(Unavailable):
        made.commit()
    assert made.generation == 1, "nobody knows what became of it"
    assert counted["sluice_producer_renewed_total"] == 1
    made.begin()
    made.commit()
    assert Client.made == clients + 1


@pytest.mark.parametrize("step", ["commit", "abort"])
def test_a_young_transaction_that_is_fenced_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    made = producer(monkeypatch, Counted(), **{step: FENCED})
    made.begin()
    with pytest.raises(Corrupt) as refused:
        getattr(made, step)()
    assert refused.value.code == "fenced"


def test_a_client_that_stays_in_the_offsets_is_left_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """librdkafka's issues 5456 and 5511."""
    counted = Counted()
    monkeypatch.setattr(transactions, "OFFSETS_MAX_S", 0.05)
    monkeypatch.setattr(transactions, "BACK_MAX_S", 0.05)
    made = producer(monkeypatch, counted)
    clients = Client.made
    over = threading.Event()
    monkeypatch.setattr(Client, "stays", over)
    made.begin()
    began = time.monotonic()
    with pytest.raises(Unavailable, match="no answer to the offsets"):
        made.commit([TopicPartition("t", 0, 1)], object())
    assert time.monotonic() - began < transactions.COMMIT_MAX_S
    assert not made.open
    assert (made.generation, counted["sluice_producer_renewed_total"]) == (1, 1)
    over.set()
    made.begin()
    made.commit([TopicPartition("t", 0, 1)], object())
    assert Client.made == clients + 1


def test_offsets_that_are_refused_abort_the_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = KafkaError(KafkaError.ILLEGAL_GENERATION, "the group moved on")
    made = producer(monkeypatch, Counted(), offsets=moved)
    made.begin()
    with pytest.raises(Unavailable) as refused:
        made.commit([TopicPartition("t", 0, 1)], object())
    assert (refused.value.code, made.open, made.generation) == ("rebalanced", False, 0)
