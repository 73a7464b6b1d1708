"""One question to the brokers at a service's start: a wrong certificate or password is said then.

librdkafka tries for ever, and calls each of them a failed handshake.
"""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from sluice.adapters import tls
from sluice.adapters.kafka.config import CREDENTIALS, Extra, client
from sluice.errors import Misconfigured

ANSWER_MAX_S = 5.0
"""Brokers that say nothing for so long are down, for all we know."""


def check(bootstrap: str, extra: Extra, files: tls.Files) -> None:
    """Raises Misconfigured if the brokers do not take us, or we them, or if no client can be made
    of the properties. files: of TLS."""
    encrypted = "SSL" in str(extra.get("security.protocol", ""))
    if encrypted:
        tls.client_context(files)
    errors: list[KafkaError] = []
    properties = client(bootstrap, "sluice-reach", extra, error_cb=errors.append)
    try:
        admin = AdminClient(properties | {"log_level": 0})
    except KafkaException as exc:
        raise Misconfigured(
            f"no Kafka client can be made of these settings: {exc.args[0].str()}",
            where="kafka",
            fix=f"kafka.security_protocol, and {CREDENTIALS}",
        ) from exc
    try:
        admin.list_topics(timeout=ANSWER_MAX_S)
    except KafkaException:
        admin.poll(0)
    else:
        return
    for error in errors:
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
            raise Misconfigured(
                f"the brokers do not take our credentials: {error.str()}",
                where=f"kafka, {bootstrap}",
                fix=CREDENTIALS,
            )
    if encrypted:
        _diagnose(bootstrap, files)


def _diagnose(bootstrap: str, files: tls.Files) -> None:
    """Ask the first broker that listens what is wrong with the handshake."""
    for one in bootstrap.split(","):
        host, _, port = one.strip().rpartition(":")
        why = tls.diagnose(host.strip("[]"), int(port), files, timeout_s=ANSWER_MAX_S)
        if why and "refused" not in why:
            raise Misconfigured(
                f"no TLS with the broker: {why}",
                where=f"kafka, {one.strip()}",
                fix="docs/how-to/secure-a-deployment.md",
            )
