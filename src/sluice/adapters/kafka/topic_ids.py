"""Whether a topic is still the one that was read: its id tells, offsets do not.

A topic that is deleted and made again has the same name and other records under the same offsets.
A consumer that goes on at its old offset waits at the end of the new one, or passes over what lies
before it, and nothing says so: its lag is 0. The broker gives each topic an id when it is made
(KIP-516).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from sluice.adapters.kafka.config import REQUEST_MAX_S, Extra, client, translate
from sluice.errors import Unavailable

WATCH_EVERY_S = 2.0
"""One small request of a connection of its own."""
MOCK = "mockCluster"
"""How the embedded broker's cluster is named: it gives no ids, and nobody makes its topics anew."""

Ids = Mapping[str, str]
"""By topic; "" for one that does not exist."""


class TopicIds:
    """Asks the broker for the ids of topics, now and then without waiting. For one thread."""

    def __init__(
        self, bootstrap: str, topics: Iterable[str], *, client_id: str, extra: Extra | None = None
    ) -> None:
        self._topics = list(topics)
        self._admin = AdminClient(client(bootstrap, f"{client_id}-topics", extra))
        self._asked: dict[str, Future[Any]] = {}
        self._due = float("inf")
        self._mock: bool | None = None

    def ask(self) -> Ids:
        """Ask and wait; from then on ``look`` asks too. Nothing from a broker that gives no ids.
        Raises Unavailable, or Misconfigured without the right to."""
        if self._mock is None:
            try:
                self._mock = self._admin.list_topics(timeout=REQUEST_MAX_S).cluster_id.startswith(
                    MOCK
                )
            except KafkaException as exc:
                raise translate(exc, "ask for topics", ", ".join(self._topics)) from exc
        if self._mock:
            return {}
        self._due = time.monotonic() + WATCH_EVERY_S
        return _ids(self._request())

    def look(self) -> Ids | None:
        """An answer that came since the last look; None if none did. Does not wait, and asks a
        broker that did not answer again. Raises Misconfigured without the right to."""
        if self._asked:
            if not all(future.done() for future in self._asked.values()):
                return None
            asked, self._asked = self._asked, {}
            try:
                return _ids(asked)
            except Unavailable:
                return None
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + WATCH_EVERY_S
            self._asked = self._request()
        return None

    def _request(self) -> dict[str, Future[Any]]:
        wanted = TopicCollection(self._topics)
        asked: dict[str, Future[Any]] = self._admin.describe_topics(
            wanted, request_timeout=REQUEST_MAX_S
        )
        return asked


def _ids(asked: Mapping[str, Future[Any]]) -> Ids:
    ids = {}
    for topic, future in asked.items():
        try:
            ids[topic] = str(future.result(REQUEST_MAX_S * 2).topic_id)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise translate(exc, "ask for the topic's id", topic) from exc
            ids[topic] = ""
    return ids
