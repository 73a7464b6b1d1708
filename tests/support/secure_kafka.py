"""A Kafka where everybody proves who they are, with the rights of the table, and none besides.

By certificate on one listener, by password (SASL/SCRAM-SHA-512 over TLS) on another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from local.kafka.broker import JarNode, free_port
from sluice.adapters.kafka import topics as topic_table
from sluice.adapters.kafka.rights import PRINCIPALS, RIGHTS
from sluice.adapters.kafka.topics import Topics
from sluice.settings import Kafka
from tests.support.certificates import Authority, Pem

HOST = "127.0.0.1"
PASSWORD = "a-password-of-tests"
ITERATIONS = 4096
"""The least that Kafka takes."""
WAIT_S = 120.0
EVERY = AclBindingFilter(
    ResourceType.ANY,
    None,
    ResourcePatternType.ANY,
    None,
    None,
    AclOperation.ANY,
    AclPermissionType.ANY,
)
SECURE = """
listeners=SSL://127.0.0.1:{{port}},SASL_SSL://127.0.0.1:{password_port},CONTROLLER://127.0.0.1:{{controller_port}}
advertised.listeners=SSL://127.0.0.1:{{port}},SASL_SSL://127.0.0.1:{password_port}
listener.security.protocol.map=SSL:SSL,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=SSL
ssl.keystore.type=PEM
ssl.keystore.location={broker}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
ssl.client.auth=required
ssl.principal.mapping.rules=RULE:^CN=(.*?)$/$1/
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:broker;User:ANONYMOUS
"""
"""ANONYMOUS is the controller's listener, which no client reaches in production."""


KINDS = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
}


@dataclass(frozen=True)
class Cluster:
    """A broker that knows everybody by certificate, or by password at ``by_password``."""

    bootstrap: str
    by_password: str
    authority: Authority
    pems: dict[str, Pem]

    def kafka(self, who: str) -> Kafka:
        """The settings of a principal with a certificate."""
        return Kafka(
            bootstrap=self.bootstrap,
            security_protocol="SSL",
            ca_file=str(self.authority.ca),
            cert_file=str(self.pems[who].cert),
            key_file=str(self.pems[who].key),
        )

    def extra(self, who: str) -> dict[str, str]:
        """The same as librdkafka's properties."""
        return self.kafka(who).extra()

    def settings(self, who: str) -> dict[str, str]:
        """The same as a service's environment."""
        return _environment(self.kafka(who))

    def settings_by_password(self, who: str) -> dict[str, str]:
        """The same of a principal with a password."""
        return _environment(self.kafka_by_password(who))

    def kafka_by_password(self, who: str) -> Kafka:
        """The settings of a principal with a password."""
        return Kafka(
            bootstrap=self.by_password,
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            sasl_username=who,
            sasl_password=PASSWORD,
            ca_file=str(self.authority.ca),
        )

    def admin(self, who: str = "admin") -> AdminClient:
        """An administrator's client, of whoever it is."""
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, **self.extra(who)})

    def add(self, prefix: str = "") -> Topics:
        """Make the topics under a prefix, with the table's rights on them."""
        names = Topics(prefix)
        topic_table.apply(
            self.bootstrap, names, partitions=2, replication=1, extra=self.extra("admin")
        )
        bindings = [
            AclBinding(
                KINDS[right.kind],
                prefix + right.name.removesuffix("*"),
                ResourcePatternType.PREFIXED
                if right.name.endswith("*")
                else ResourcePatternType.LITERAL,
                f"User:{right.principal}",
                "*",
                AclOperation[operation.upper()],
                AclPermissionType.ALLOW,
            )
            for right in RIGHTS
            for operation in right.operations
        ]
        admin = self.admin()  # which answers only while it lives
        for done in admin.create_acls(bindings).values():
            done.result()
        _wait(lambda: set(bindings) <= set(admin.describe_acls(EVERY).result()))
        return names

    def set_password(self, who: str, password: str) -> None:
        """As ``kafka-configs --alter --add-config SCRAM-SHA-512=...`` does.

        A password that replaces another may take a moment more until it holds.
        """
        how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS)
        asked = [UserScramCredentialUpsertion(who, how, password.encode())]
        admin = self.admin()
        for done in admin.alter_user_scram_credentials(asked).values():
            done.result()
        _wait(lambda: who in admin.describe_user_scram_credentials().result())


_DEFAULT = Kafka()


def _environment(given: Kafka) -> dict[str, str]:
    return {
        f"SLUICE_KAFKA_{name.upper()}": str(value)
        for name, value in msgspec.structs.asdict(given).items()
        if value != getattr(_DEFAULT, name)
    }


def _wait(until: Callable[[], bool]) -> None:
    """Until the broker knows what it was told.

    The controller answers as soon as it has written it down, and the broker reads it after that.
    """
    deadline = time.monotonic() + WAIT_S
    while not until():
        assert time.monotonic() < deadline, f"the broker does not know it after {WAIT_S} s"
        time.sleep(0.05)


@contextmanager
def secure_kafka(folder: Path) -> Iterator[Cluster]:
    """Start one with the topics; each principal of the table has certificate and password."""
    authority = Authority(folder / "ca")
    pems = {name: authority.issue(name) for name in ("admin", *PRINCIPALS)}
    broker = authority.issue("broker", hosts=(HOST,))
    port, password_port = free_port(), free_port()
    made = Cluster(f"{HOST}:{port}", f"{HOST}:{password_port}", authority, pems)
    node = JarNode(
        folder / "data",
        port,
        detached=False,
        more=SECURE.format(broker=broker.both, ca=authority.ca, password_port=password_port),
        client=made.extra("admin"),
    )
    node.start()
    try:
        made.add()
        for name in PRINCIPALS:
            made.set_password(name, PASSWORD)
        yield made
    finally:
        node.kill()
