"""Whose leader does not serve it yet, by what brokers answer."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from sluice.adapters.kafka.leaders import unserved

PLACES = [("t", 0), ("t", 1)]


class Admin:
    """Answers for partition 1 with an error."""

    def __init__(self, code: int) -> None:
        self._code = code

    def list_offsets(self, asked: dict[TopicPartition, Any], **_: Any) -> dict[Any, Future[None]]:
        answers: dict[Any, Future[None]] = {place: Future() for place in asked}
        for place, answer in answers.items():
            if place.partition:
                answer.set_exception(KafkaException(KafkaError(self._code)))
            else:
                answer.set_result(None)
        return answers


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,  # of several brokers each hears of a topic in its time
        KafkaError.REQUEST_TIMED_OUT,
    ],
)
def test_what_a_broker_does_not_serve_yet_is_named(code: int) -> None:
    assert unserved(Admin(code), PLACES, 1.0) == ["t/1"]  # type: ignore[arg-type]


def test_another_refusal_is_raised() -> None:
    with pytest.raises(KafkaException):
        unserved(Admin(KafkaError.TOPIC_AUTHORIZATION_FAILED), PLACES, 1.0)  # type: ignore[arg-type]
