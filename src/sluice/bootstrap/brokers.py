"""The brokers of the settings: whether they take us, and we them, before anything is made."""

from __future__ import annotations

from sluice.adapters import tls
from sluice.adapters.kafka import reach
from sluice.settings import Kafka

PLAINTEXT = "PLAINTEXT"
"""Nobody proves who they are."""


def brokers(given: Kafka) -> reach.Brokers:
    """Whom to ask whether they are there, and have our topics. Raises Misconfigured."""
    return reach.Brokers(given.bootstrap, given.extra(), _files(given))


def reached(given: Kafka, bootstrap: str | None = None) -> str:
    """Where the brokers are: bootstrap, or as the settings say. Asks them first whether they take
    us, where they ask who we are or prove who they are.

    Raises Misconfigured with the reason. Brokers that are down are no error: clients wait for them.
    """
    servers = bootstrap or given.bootstrap
    if given.security_protocol != PLAINTEXT:
        reach.check(servers, given.extra(), _files(given))
    return servers


def _files(given: Kafka) -> tls.Files:
    return tls.Files("kafka", given.ca_file, given.cert_file, given.key_file)
