"""Kafka by password, SASL/SCRAM-SHA-512 over TLS: what works, and what each failure says."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import msgspec
import pytest

from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.bootstrap import services
from sluice.bootstrap.brokers import reached
from sluice.cli import EXIT_CONFIG, main
from sluice.errors import Misconfigured
from sluice.settings import Kafka, Service, Settings
from tests.support.kafka import wait_until
from tests.support.secure_kafka import PASSWORD, Cluster

pytestmark = pytest.mark.integration

PREFIX = "scram."
START_MAX_S = 600
OTHER = "another-password"
NAMED = "kafka.sasl_mechanism, kafka.sasl_username, kafka.sasl_password"


@pytest.fixture(scope="module")
def topics(cluster: Cluster) -> Topics:
    """Of this module, with the page's rights."""
    return cluster.add(PREFIX)


def kafka_of(
    cluster: Cluster, who: str, password: str = PASSWORD, mechanism: str = "SCRAM-SHA-512"
) -> Kafka:
    return Kafka(
        bootstrap=cluster.by_password,
        topic_prefix=PREFIX,
        security_protocol="SASL_SSL",
        sasl_mechanism=mechanism,
        sasl_username=who,
        sasl_password=password,
        ca_file=str(cluster.authority.ca),
    )


def settings_of(cluster: Cluster, who: str) -> Settings:
    return Settings(kafka=kafka_of(cluster, who), service=Service(replica="one"))


def produce(cluster: Cluster, who: str, topic: str, *values: bytes) -> None:
    kafka = kafka_of(cluster, who)
    producer = EventProducer(reached(kafka), client_id=who, extra=kafka.extra())
    for value in values:
        producer.produce(topic, value, key=value)
    producer.flush(60)


def test_producer_group_and_transaction_work_by_password(cluster: Cluster, topics: Topics) -> None:
    sent = {b"a-%d" % number for number in range(20)}
    produce(cluster, "acquirer", topics.authorizations, *sent)
    stream = services.transactional_stream(settings_of(cluster, "decider-stream"))
    decided: set[bytes] = set()
    while decided != sent:
        batch = wait_until(lambda: stream.poll_batch(100, 0.1), "an authorization comes")
        stream.begin()
        for message in batch:
            stream.produce(topics.decisions, message.key, message.value)
            decided.add(message.value)
        stream.commit({(m.topic, m.partition): m.offset + 1 for m in batch})
    assert sum(stream.committed(stream.partitions()).values()) == len(sent)
    stream.close()
    kafka = kafka_of(cluster, "archiver")
    member = GroupConsumer(
        kafka.bootstrap,
        group=services.group("archiver", settings_of(cluster, "archiver")),
        topics=[topics.decisions],
        client_id="archiver",
        extra=kafka.extra(),
    )
    read: set[bytes] = set()
    while read != sent:
        batch = wait_until(lambda: member.poll_batch(100, 0.1), "a decision comes")
        read |= {message.value for message in batch}
        member.commit({(m.topic, m.partition): m.offset + 1 for m in batch})
    assert len(member.committed(member.partitions())) == len(member.partitions())
    member.close()


def test_the_name_before_the_password_has_the_rights_of_its_principal(
    cluster: Cluster, topics: Topics
) -> None:
    with pytest.raises(Misconfigured, match=r"the ACLs of this user on the topic"):
        produce(cluster, "acquirer", topics.decisions, b"forged")


WRONG = {
    "wrong password": (("archiver", OTHER), "invalid credentials"),
    "unknown user": (("nobody", PASSWORD), "invalid credentials"),
    "mechanism that is off": (("archiver", PASSWORD, "SCRAM-SHA-256"), "mechanisms: SCRAM-SHA-512"),
    "no password": (("archiver", ""), "sasl.password must be set"),
    "no mechanism": (("archiver", PASSWORD, ""), "mechanism"),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_refusal_is_said_before_a_client_is_made(cluster: Cluster, case: str) -> None:
    given, said = WRONG[case]
    with pytest.raises(Misconfigured) as refused:
        reached(kafka_of(cluster, *given))
    assert said in str(refused.value)
    assert NAMED in refused.value.fix


def test_a_protocol_that_there_is_not_is_said(cluster: Cluster) -> None:
    given = msgspec.structs.replace(kafka_of(cluster, "archiver"), security_protocol="SASL")
    with pytest.raises(Misconfigured) as refused:
        reached(given)
    assert "security.protocol" in str(refused.value)
    assert "kafka.security_protocol" in refused.value.fix


def environment(kafka: Kafka) -> dict[str, str]:
    names = ("security_protocol", "sasl_mechanism", "sasl_username", "sasl_password", "ca_file")
    return {
        f"SLUICE_KAFKA_{name.upper()}": getattr(kafka, name)
        for name in ("bootstrap", "topic_prefix", *names)
    }


@pytest.mark.parametrize(
    ("service", "case"), [("archiver", "wrong password"), ("featurizer", "unknown user")]
)
def test_a_service_ends_its_start_and_names_the_settings(
    cluster: Cluster, service: str, case: str
) -> None:
    given, said = WRONG[case]
    ended = subprocess.run(
        [sys.executable, "-m", f"services.{service}.main"],
        env={
            **os.environ,
            **environment(kafka_of(cluster, *given)),
            "SLUICE_SERVICE_ADMIN_PORT": "0",
        },
        capture_output=True,
        text=True,
        timeout=START_MAX_S,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    last = json.loads(ended.stderr.splitlines()[-1])
    assert (last["event"], last["code"]) == ("stopped", "misconfigured")
    assert said in last["reason"]
    assert NAMED in last["reason"]
    assert OTHER not in ended.stdout + ended.stderr


@pytest.mark.parametrize("verb", [["topics", "list"], ["dead-letters", "list"]], ids=" ".join)
def test_a_verb_says_so_too(
    cluster: Cluster,
    verb: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment(kafka_of(cluster, "archiver", OTHER)).items():
        monkeypatch.setenv(name, value)
    assert main(verb) == EXIT_CONFIG
    assert NAMED in capsys.readouterr().err


def test_a_changed_password_is_asked_for_by_the_next_connection(cluster: Cluster) -> None:
    cluster.set_password("rotated", PASSWORD)
    reached(kafka_of(cluster, "rotated"))
    cluster.set_password("rotated", OTHER)
    wait_until(lambda: refuses(kafka_of(cluster, "rotated")), "the old password is refused")
    reached(kafka_of(cluster, "rotated", OTHER))


def refuses(kafka: Kafka) -> bool:
    try:
        reached(kafka)
    except Misconfigured:
        return True
    return False
