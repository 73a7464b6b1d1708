"""Aids for tests that talk to a broker: read a topic to its end, wait until something holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka.admin import AdminClient, NewTopic

from sluice.adapters.kafka.reader import TopicReader
from sluice.application.ports import Message

WAIT_MAX_S = 240.0
"""A test that waits longer has failed. A process imports for a minute at a load of 14."""


def wait_until(holds: Callable[[], Any], what: str, *, at_most_s: float = WAIT_MAX_S) -> Any:
    """Ask until the answer is true, and return it. Raises AssertionError naming what."""
    deadline = time.monotonic() + at_most_s
    while True:
        answer = holds()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"still not so after {at_most_s:.0f} s: {what}"
        time.sleep(0.02)


def remake(bootstrap: str, topic: str, partitions: int) -> None:
    """Delete a topic with its records and make it at once, as a script does that cleans up."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_topics([topic], operation_timeout=10).values():
        future.result(60)

    def made() -> bool:
        new = NewTopic(topic, partitions, 1)
        return all(not future.exception(20) for future in admin.create_topics([new]).values())

    wait_until(made, "the topic exists again")


def wait_ended(bootstrap: str, topic: str) -> None:
    """Return once no transaction of the topic is open. A commit's markers are written a moment
    after it, and until then committed readers stop before what it wrote."""
    readers = [TopicReader(bootstrap, committed=committed) for committed in (True, False)]
    try:
        wait_until(
            lambda: readers[0].spans(topic) == readers[1].spans(topic),
            f"each transaction of {topic} has ended",
        )
    finally:
        for reader in readers:
            reader.close()


def read_all(bootstrap: str, topic: str, *, committed: bool = True) -> list[Message]:
    """Every record of a topic up to its end as it is now, by partition and offset.

    committed: only what read_committed readers see.
    """
    reader = TopicReader(bootstrap, committed=committed)
    try:
        found = list(reader.records(topic))
    finally:
        reader.close()
    return sorted(found, key=lambda message: (message.partition, message.offset))
