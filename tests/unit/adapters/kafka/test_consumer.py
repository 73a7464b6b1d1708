"""A record as confluent_kafka gives it, made ours."""

from __future__ import annotations

from sluice.adapters.kafka.consumer import to_message


class Given:
    """Of confluent_kafka's message what is read, with headers that cannot be."""

    def value(self) -> bytes | None:
        return None

    def key(self) -> bytes:
        return b"card-1"

    def topic(self) -> str:
        return "authorizations.v1"

    def partition(self) -> int:
        return 2

    def offset(self) -> int:
        return 7

    def headers(self) -> list[tuple[str, bytes]]:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    def timestamp(self) -> tuple[int, int]:
        return 1, 1000


def test_headers_that_cannot_be_read_cost_the_trace_and_not_the_batch() -> None:
    message = to_message(Given())
    assert (message.value, message.offset, message.traceparent) == (b"", 7, None)
