"""What a Kafka client's trouble tells its user to do."""

from __future__ import annotations

import re

import pytest
from confluent_kafka import KafkaError

from sluice.adapters.kafka.config import traceparent_of, translate
from sluice.errors import Misconfigured
from sluice.settings import Kafka


def test_refused_credentials_name_settings_that_exist() -> None:
    for code in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
        error = translate(KafkaError(code), "connect", "localhost:9092")
        assert isinstance(error, Misconfigured)
        named = re.findall(r"kafka\.(\w+)", error.fix)
        assert named
        assert set(named) <= set(Kafka.__struct_fields__)


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (None, None),
        ([], None),
        ([("traceparent", b"one"), ("other", b"x")], "one"),
        ([("traceparent", None)], None),
        ([("traceparent", b"")], None),
    ],
)
def test_a_trace_is_taken_from_its_header(
    headers: list[tuple[str, bytes | None]] | None, found: str | None
) -> None:
    assert traceparent_of(headers) == found


@pytest.mark.parametrize("second", [b"one", TRACE.encode(), None])
def test_of_two_traces_none_is_taken_and_a_new_one_begins(second: bytes | None) -> None:
    begun = {traceparent_of([("traceparent", TRACE.encode()), ("traceparent", second)])}
    begun.add(traceparent_of([("traceparent", TRACE.encode()), ("traceparent", second)]))
    assert len(begun) == 2
    assert not {TRACE, "one", None} & begun
