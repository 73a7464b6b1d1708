"""Asks the brokers, before a service begins: do they take us, and are its topics there?

A wrong certificate or password is said at once: librdkafka tries for ever, and calls each of them a
failed handshake. Brokers that are down and topics that are not there yet are no such error.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from sluice.adapters import tls
from sluice.adapters.kafka.config import CREDENTIALS, Extra, client, translate
from sluice.adapters.kafka.leaders import unserved
from sluice.application.ports import NO_TOPIC
from sluice.errors import Misconfigured, Unavailable

ANSWER_MAX_S = 5.0
"""Brokers that say nothing for so long are down, for all we know."""
PORT = 9092
"""Of a broker that is named without one, as librdkafka has it."""
_MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
_REFUSED = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)


class Brokers:
    """One client for as many questions as it takes, until the brokers answer well."""

    def __init__(self, bootstrap: str, extra: Extra, files: tls.Files) -> None:
        """files: of TLS. Connects to nothing yet. Raises Misconfigured if no client can be made of
        the properties."""
        self._bootstrap = bootstrap
        self._files = files
        self._encrypted = "SSL" in str(extra.get("security.protocol", ""))
        if self._encrypted:
            tls.client_context(files)
        self._errors: list[KafkaError] = []
        properties = client(bootstrap, "sluice-reach", extra, error_cb=self._errors.append)
        try:
            self._admin = AdminClient(properties | {"log_level": 0})
        except KafkaException as exc:
            raise Misconfigured(
                f"no Kafka client can be made of these settings: {exc.args[0].str()}",
                where="kafka",
                fix=f"kafka.security_protocol, and {CREDENTIALS}",
            ) from exc

    def ask(self, topics: Sequence[str] = ()) -> None:
        """Return if they take us, and have these topics, which no broker makes because we ask.

        Raises Misconfigured if they do not take us, or we them, or if we may not see a topic;
        Unavailable if none answers, and with code NO_TOPIC if a topic is not there, or a partition
        has no leader that serves it.
        """
        self._errors.clear()
        try:
            # Of all topics: the metadata of a named one would make it where the broker may.
            there = self._admin.list_topics(timeout=ANSWER_MAX_S).topics
        except KafkaException as exc:
            raise self._unanswered() from exc
        missing = self._missing([topic for topic in topics if topic not in there])
        places = [
            (topic, number)
            for topic in topics
            if topic in there
            for number in there[topic].partitions
        ]
        if missing:
            raise Unavailable(
                f"the brokers have no topic {', '.join(missing)}",
                where=f"kafka, {self._bootstrap}",
                fix="sluice topics apply, and kafka.topic_prefix",
                code=NO_TOPIC,
            )
        try:
            leaderless = unserved(self._admin, places, ANSWER_MAX_S)
        except KafkaException as exc:
            error = translate(exc, "ask where the topics end", ", ".join(topics))
            raise error if isinstance(error, Misconfigured) else self._unanswered() from exc
        if leaderless:
            raise Unavailable(
                f"no leader serves {', '.join(leaderless)}",
                where=f"kafka, {self._bootstrap}",
                fix="are all brokers up?",
                code=NO_TOPIC,
            )

    def _missing(self, unseen: Sequence[str]) -> list[str]:
        """Those of some topics that are not there. Raises Misconfigured if one is, and we may not
        see it."""
        if not unseen:
            return []
        asked = self._admin.describe_topics(
            TopicCollection([*unseen]), request_timeout=ANSWER_MAX_S
        )
        for topic, answer in asked.items():
            try:
                answer.result()
            except KafkaException as exc:
                error = translate(exc, "find the topic", topic)
                if exc.args[0].code() not in _MISSING and isinstance(error, Misconfigured):
                    raise error from exc
        return [*unseen]  # also one that was made this moment: it is asked for again

    def _unanswered(self) -> Misconfigured | Unavailable:
        """Why there was no answer."""
        self._admin.poll(0)
        where = f"kafka, {self._bootstrap}"
        for error in self._errors:
            if error.code() in _REFUSED:
                return Misconfigured(
                    f"the brokers do not take our credentials: {error.str()}",
                    where=where,
                    fix=CREDENTIALS,
                )
        if self._encrypted:
            for host, port in self._listening():
                why = tls.diagnose(host, port, self._files, timeout_s=ANSWER_MAX_S)
                if why and "refused" not in why:
                    return Misconfigured(
                        f"no TLS with the broker: {why}",
                        where=f"kafka, {host}:{port}",
                        fix="docs/how-to/secure-a-deployment.md",
                    )
        return Unavailable(
            "no broker answers",
            where=where,
            fix="is it up, and are kafka.bootstrap and kafka.security_protocol its own?",
        )

    def _listening(self) -> list[tuple[str, int]]:
        """The brokers of the settings that take a connection now."""
        found = []
        for one in self._bootstrap.split(","):
            name, _, number = one.strip().rpartition(":")
            host, port = (name.strip("[]"), int(number)) if number.isdigit() else (one, PORT)
            with suppress(OSError), socket.create_connection((host, port), timeout=ANSWER_MAX_S):
                found.append((host, port))
        return found


def check(bootstrap: str, extra: Extra, files: tls.Files) -> None:
    """Raises Misconfigured if the brokers do not take us, or we them, or if no client can be made
    of the properties. Brokers that are down are no error."""
    with suppress(Unavailable):
        Brokers(bootstrap, extra, files).ask()
