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


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (None, None),
        ([], None),
        ([("traceparent", b"one"), ("other", b"x")], "one"),
        ([("traceparent", b"one"), ("traceparent", b"one")], None),
        ([("traceparent", b"one"), ("traceparent", None)], None),
        ([("traceparent", None)], None),
        ([("traceparent", b"")], None),
    ],
)
def test_of_two_traces_none_is_taken(
    headers: list[tuple[str, bytes | None]] | None, found: str | None
) -> None:
    assert traceparent_of(headers) == found
