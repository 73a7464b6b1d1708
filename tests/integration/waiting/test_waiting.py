"""A part that is not up yet is waited for, and everybody can see what for; then the service works.

Each service with each part that it needs: real processes over a real Kafka and a real Valkey.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from local.kafka.broker import JarNode, Node, free_port, jars_possible
from local.stack import Name, Process
from services import warm
from sluice.adapters.kafka import topics as topic_table
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.bootstrap.copies import changing
from sluice.bootstrap.services import store_at
from sluice.domain.records.authorization import encode
from sluice.settings import load
from sluice.testing.factories import make_authorization
from sluice.testing.records import make_decision
from sluice.testing.release import make_release
from sluice.testing.store import declare_ready
from tests.support.deployment import Deployment, make_deployment
from tests.support.kafka import WAIT_MAX_S, wait_until
from tests.support.s3_server import BUCKET, S3Server

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SERVICES: tuple[Name, ...] = ("decider-sync", "decider-stream", "featurizer", "archiver")
DECIDERS: tuple[Name, ...] = ("decider-sync", "decider-stream")
CREATED_AT = 1_780_000_000_000_000
FOLLOW_FAILED = 'sluice_task_failures_total{code="storage",task="follow"}'
TOPICS: dict[Name, tuple[str, ...]] = {
    "decider-sync": ("decisions",),
    "decider-stream": ("authorizations", "decisions", "dead_letters"),
    "featurizer": ("decisions", "observations", "labels"),
    "archiver": ("decisions", "labels", "shadow_scores"),
}


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm.main()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(port=free_port(), directory=tmp_path / "store") as store:
        declare_ready(store_at(store.url))
        yield store


@pytest.fixture
def deployment(kafka: Node, store: EmbeddedStore, tmp_path: Path) -> Iterator[Deployment]:
    often = {"SLUICE_ARCHIVER_ROLL_S": "1", "SLUICE_SERVICE_LOG_LEVEL": "INFO"}
    with make_deployment(kafka.bootstrap, store.url, tmp_path / "world", environment=often) as made:
        yield made


def ask(process: Process, what: str) -> tuple[int, str]:
    """Status and body of live or ready; 0 while nobody listens."""
    assert process.alive(), process.log.read_text()
    url = f"http://127.0.0.1:{process.admin_port}/v2/health/{what}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def events(process: Process, event: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in process.log.read_text().splitlines() if line[:1] == "{"]
    return [line for line in lines if line["event"] == event]


def waits_for(process: Process, part: str, *named: str) -> None:
    """Return once it says, in all three places, that it waits for this part."""

    def says() -> bool:
        status, body = ask(process, "ready")
        return status == 503 and all(text in body for text in (f"waits for the {part}", *named))

    wait_until(says, f"{process.name} waits for the {part}")
    assert ask(process, "live")[0] == 200
    assert f'sluice_start_waiting{{part="{part}"}} 1.0' in process.metrics()
    last = events(process, "waiting")[-1]
    assert last["part"] == part
    assert all(text in str(last["reason"]) for text in named)


def is_ready(process: Process) -> None:
    wait_until(lambda: ask(process, "ready")[0] == 200, f"{process.name} is ready")
    assert 'sluice_start_waiting{part="broker"} 1.0' not in process.metrics()


def decide(process: Process, name: str) -> dict[str, object]:
    """The sync API's answer to one authorization."""
    auth = make_authorization(name, event_at=time.time_ns() // 1000)
    headers = {"content-type": "application/json", "x-deadline-ms": "1000"}
    url = f"http://127.0.0.1:{process.port}/v1/authorizations"
    request = urllib.request.Request(url, encode(auth), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def works(deployment: Deployment, name: str, number: int = 0) -> None:
    """Return once a service that is ready has done what it is for."""
    process = deployment.stack.processes[name]
    if name == "decider-sync":
        answer = decide(process, f"works-{number}")
        assert (answer["degradation_level"], answer["degraded"]) == ("D0", [])
        return
    producer = EventProducer(deployment.bootstrap, client_id="test")
    auth = make_authorization(f"works-{name}-{number}", event_at=time.time_ns() // 1000)
    if name == "decider-stream":
        producer.produce(deployment.topics.authorizations, encode(auth), key=auth.card_token)
        producer.flush(60)

        def decided() -> bool:
            found = deployment.ledger().decisions
            return any(d.authorization.authorization_id == auth.authorization_id for d in found)

        wait_until(decided, "it is decided")
        return
    before = process.metric("sluice_consumer_messages_total")
    producer.produce(
        deployment.topics.decisions, encode(make_decision(auth.authorization_id)), key="card"
    )
    producer.flush(60)
    wait_until(lambda: process.metric("sluice_consumer_messages_total") > before, "it is read")


def remove(deployment: Deployment, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": deployment.bootstrap})
    for done in admin.delete_topics([topic]).values():
        done.result(60)
    wait_until(lambda: topic not in admin.list_topics(timeout=10).topics, "the topic is gone")


def test_a_broker_that_is_away_is_waited_for_by_all(kafka: Node, deployment: Deployment) -> None:
    kafka.kill()
    try:
        processes = [deployment.stack.start(name) for name in SERVICES]
        for process in processes:
            waits_for(process, "broker", "no broker answers")
            assert len(events(process, "waiting")) == 1, "said once"
    finally:
        kafka.start()
    for process in processes:
        is_ready(process)
        works(deployment, process.name)
    assert set(deployment.stack.stop_all().values()) == {0}


def test_each_topic_that_a_service_needs_is_waited_for(deployment: Deployment) -> None:
    topics = deployment.topics
    for topic in topics.all():
        remove(deployment, topic)
    admin = AdminClient({"bootstrap.servers": deployment.bootstrap})
    missing: dict[Name, set[str]] = {
        name: {getattr(topics, topic) for topic in needed} for name, needed in TOPICS.items()
    }
    for service in SERVICES:
        deployment.stack.start(service)
    for topic in topics.all():
        for service, names in missing.items():
            if names:
                waits_for(deployment.stack.processes[service], "topics", *names)
        for done in admin.create_topics([NewTopic(topic, 3, 1)]).values():
            done.result(60)
        for service, names in missing.items():
            if names == {topic}:
                is_ready(deployment.stack.processes[service])
            names.discard(topic)
    for service in SERVICES:
        works(deployment, service)
    assert set(deployment.stack.stop_all().values()) == {0}


def test_deciders_wait_for_the_store(deployment: Deployment, store: EmbeddedStore) -> None:
    store.stop()
    processes = [deployment.stack.start(name) for name in DECIDERS]
    for process in processes:
        waits_for(process, "store", "did not serve us")
    store.start()
    declare_ready(store_at(store.url))
    for process in processes:
        is_ready(process)
        works(deployment, process.name)
        assert events(process, "begins_without") == []


def test_a_featurizer_waits_for_the_store(deployment: Deployment, store: EmbeddedStore) -> None:
    store.stop()
    process = deployment.stack.start("featurizer")

    def says() -> bool:
        return ask(process, "ready")[0] == 503 and "did not serve us" in ask(process, "ready")[1]

    wait_until(says, "it says that the store is away")
    assert ask(process, "live")[0] == 200
    assert "sluice_store_ready 0.0" in process.metrics()
    assert len(events(process, "store_not_used")) == 1, "said once"
    store.start()
    declare_ready(store_at(store.url))
    is_ready(process)
    works(deployment, "featurizer")


@pytest.mark.parametrize("case", ["no folder", "an empty folder"])
def test_deciders_wait_for_a_release_where_none_lies(deployment: Deployment, case: str) -> None:
    aside = deployment.release.with_name("aside")
    deployment.release.rename(aside)
    if case == "an empty folder":
        deployment.release.mkdir()
    processes = [deployment.stack.start(name) for name in DECIDERS]
    for process in processes:
        waits_for(process, "release", str(deployment.release))
    if case == "an empty folder":
        deployment.release.rmdir()
    aside.rename(deployment.release)
    for process in processes:
        is_ready(process)
        works(deployment, process.name)


def test_a_sync_api_without_a_release_ends_so_that_a_rollout_is_seen_to_fail(
    deployment: Deployment,
) -> None:
    deployment.release.rename(deployment.release.with_name("aside"))
    process = deployment.stack.start("decider-sync", SLUICE_DECIDER_RELEASE_WAIT_S="1")
    assert process.popen.wait(WAIT_MAX_S) == 1
    (stopped,) = events(process, "stopped")
    assert stopped["code"] == "misconfigured"
    assert "no release came within 1 s" in str(stopped["reason"])
    assert "decider.release_dir" in str(stopped["reason"])


def test_a_stream_processor_without_a_release_decides_by_rules(deployment: Deployment) -> None:
    deployment.release.rename(deployment.release.with_name("aside"))
    process = deployment.stack.start("decider-stream", SLUICE_DECIDER_RELEASE_WAIT_S="1")
    wait_until(
        lambda: [event["part"] for event in events(process, "begins_without")] == ["release"],
        "it begins without",
    )
    works(deployment, "decider-stream")
    status, why = ask(process, "ready")
    assert (status, "no release" in why) == (503, True)
    assert deployment.ledger().decisions[-1].degraded == ["model"]


def test_what_only_a_person_mends_ends_a_start_at_once_whatever_else_is_away(
    deployment: Deployment,
) -> None:
    """A broken policy, though neither release nor broker is there."""
    deployment.release.rename(deployment.release.with_name("aside"))
    (deployment.policy / "policy.yaml").write_text("rules: none")
    nowhere = {"SLUICE_KAFKA_BOOTSTRAP": f"127.0.0.1:{free_port()}"}
    for service in DECIDERS:
        process = deployment.stack.start(service, **nowhere)
        assert process.popen.wait(WAIT_MAX_S) == 1
        (stopped,) = events(process, "stopped")
        assert stopped["code"] == "misconfigured"
        assert events(process, "waiting") == []
        del deployment.stack.processes[service]


def test_an_unsigned_release_is_refused_at_once_and_named(deployment: Deployment) -> None:
    (deployment.release / "manifest.sig").write_bytes(b"")
    process = deployment.stack.start("decider-sync")
    wait_until(lambda: events(process, "refused") != [], "it is refused")
    assert events(process, "waiting") == []
    wait_until(
        lambda: "no release is loaded" in ask(process, "ready")[1], "it is not ready, and says why"
    )
    assert ask(process, "live")[0] == 200


def test_sigterm_while_it_waits_ends_it_at_once(deployment: Deployment) -> None:
    nowhere = {"SLUICE_KAFKA_BOOTSTRAP": f"127.0.0.1:{free_port()}"}
    processes = [deployment.stack.start(name, **nowhere) for name in SERVICES]
    for process in processes:
        waits_for(process, "broker")
        process.popen.send_signal(signal.SIGTERM)
    for process in processes:
        assert process.popen.wait(WAIT_MAX_S) == 0
        assert [event["code"] for event in events(process, "stopped")] == ["sigterm"]


def test_the_consistency_check_waits_for_nobody(deployment: Deployment) -> None:
    away = {
        "SLUICE_KAFKA_BOOTSTRAP": f"127.0.0.1:{free_port()}",
        "SLUICE_STORE_URL": f"redis://127.0.0.1:{free_port()}",
        "SLUICE_CONSISTENCY_EVERY_S": "1",
    }
    process = deployment.stack.start("consistency", **away)
    is_ready(process)
    assert deployment.stack.stop("consistency") == 0


@pytest.fixture
def making(tmp_path: Path) -> Iterator[JarNode]:
    """A broker that makes a topic when a client asks for it, as Kafka does by default."""
    if not jars_possible():
        pytest.skip("needs Kafka's jars and a Java")
    node = JarNode(
        tmp_path / "making",
        free_port(),
        detached=False,
        more="auto.create.topics.enable=true\n",
    )
    node.start()
    yield node
    node.stop()


def test_no_topic_appears_because_a_service_asks_for_it(
    making: JarNode, store: EmbeddedStore, tmp_path: Path
) -> None:
    with make_deployment(making.bootstrap, store.url, tmp_path / "world") as deployment:
        for topic in deployment.topics.all():
            remove(deployment, topic)
        processes = [deployment.stack.start(name) for name in SERVICES]
        for process in processes:
            waits_for(process, "topics")
        admin = AdminClient({"bootstrap.servers": making.bootstrap})
        assert not admin.list_topics(timeout=10).topics.keys() & set(deployment.topics.all())
        for done in admin.create_topics([NewTopic(deployment.topics.decisions, 1, 1)]).values():
            done.result(60)
        is_ready(processes[0])
        topic_table.apply(making.bootstrap, deployment.topics, partitions=3, replication=1)
        for process in processes:
            is_ready(process)


def test_a_broker_that_goes_away_later_makes_no_service_dead_but_none_ready(
    kafka: Node, deployment: Deployment
) -> None:
    processes = [deployment.stack.start(name) for name in SERVICES]
    for process in processes:
        is_ready(process)
    kafka.kill()
    try:
        for process in processes:
            wait_until(
                lambda p=process: ask(p, "ready")[0] == 503,  # type: ignore[misc]
                f"{process.name} is not ready",
            )
            assert ask(process, "live")[0] == 200
    finally:
        kafka.start()
    for process in processes:
        is_ready(process)


def test_an_archiver_waits_for_its_object_storage(deployment: Deployment, s3: S3Server) -> None:
    s3.stop()
    try:
        process = deployment.stack.start("archiver", SLUICE_ARCHIVER_ROOT=f"s3://{BUCKET}/waits")
        waits_for(process, "storage", "object storage")
    finally:
        s3.start()
    is_ready(process)


def serves(process: Process, release: str) -> None:
    """Return once it decides by this release."""
    wait_until(
        lambda: f'sluice_decider_release_info{{release="{release}"}} 1.0' in process.metrics(),
        f"{process.name} decides by {release}",
    )


def test_deciders_follow_releases_in_a_bucket_and_outlive_its_absence(
    deployment: Deployment, s3: S3Server, tmp_path: Path
) -> None:
    url = f"s3://{BUCKET}/{deployment.prefix}releases"

    def put(number: int) -> None:
        made = make_release(tmp_path / str(number), seed=number, created_at=CREATED_AT + number)
        with changing(load()[0], url, lambda _: None) as folder:
            shutil.copytree(made, folder, dirs_exist_ok=True)

    def start(name: Name, wait_s: int) -> Process:
        return deployment.stack.start(
            name, SLUICE_DECIDER_RELEASE_DIR=url, SLUICE_DECIDER_RELEASE_WAIT_S=str(wait_s)
        )

    s3.stop()
    try:
        impatient = start("decider-sync", 1)
        assert impatient.popen.wait(WAIT_MAX_S) == 1
        [stopped] = events(impatient, "stopped")
        assert "no release came within 1 s: the object storage" in str(stopped["reason"])
        processes = [start(name, 600) for name in DECIDERS]
        for process in processes:
            waits_for(process, "release", "object storage", url)
    finally:
        s3.start()
    for number in (1, 2):
        put(number)
        for process in processes:
            is_ready(process)
            serves(process, f"test-{number}")
            works(deployment, process.name, number)
    s3.stop()
    try:
        for process in processes:
            wait_until(
                lambda p=process: FOLLOW_FAILED in p.metrics(),  # type: ignore[misc]
                f"{process.name} counts that it could not look",
            )
            [failed, *_] = events(process, "task_failed")
            assert (failed["task"], failed["code"]) == ("follow", "storage")
            assert "object storage" in str(failed["reason"])
            assert ask(process, "ready")[0] == 200
            serves(process, "test-2")
            works(deployment, process.name, 3)
    finally:
        s3.start()
    put(4)
    for process in processes:
        serves(process, "test-4")
        works(deployment, process.name, 4)
    assert set(deployment.stack.stop_all().values()) == {0}
