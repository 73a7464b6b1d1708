"""A store that evicts, and one that will not have us: said at once, and nothing wrong is served."""

from __future__ import annotations

import itertools
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.kafka.broker import Node, free_port
from local.stack import Process
from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.application.ports import LOST
from tests.fault.test_store_lost import command, levels, mark, metric, rebuild, stream
from tests.support.deployment import Deployment, make_deployment
from tests.support.kafka import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(port=free_port(), directory=tmp_path / "store") as store:
        yield store


def policy(store: EmbeddedStore, name: bytes, room: bytes = b"0") -> None:
    command(store, b"CONFIG", b"SET", b"maxmemory-policy", name)
    command(store, b"CONFIG", b"SET", b"maxmemory", room)


def used(store: EmbeddedStore) -> int:
    info = command(store, b"INFO", b"memory")
    assert isinstance(info, bytes)
    (line,) = [line for line in info.splitlines() if line.startswith(b"used_memory:")]
    return int(line.partition(b":")[2])


def test_a_store_that_evicts_is_lost_at_once_and_whole_again_after_a_rebuild(
    kafka: Node, store: EmbeddedStore, tmp_path: Path
) -> None:
    with make_deployment(kafka.bootstrap, store.url, tmp_path / "world") as deployment:
        deployment.start("decider-stream", "featurizer")
        stream(deployment, "before", 200)
        assert set(levels(deployment, "before")) == {"D0"}
        deployment.settle()

        policy(store, b"volatile-lru", b"%d" % (used(store) - 1))
        wait_until(lambda: mark(store).state == LOST, "the featurizer has marked it lost")
        wait_until(
            lambda: metric(deployment, "decider-stream", "sluice_store_ready") == 0,
            "the decider has noticed",
        )
        policy(store, b"noeviction")
        stream(deployment, "forgotten", 50)
        assert set(levels(deployment, "forgotten")) == {"D2"}
        assert "maxmemory-policy is volatile-lru" in deployment.logs()

        policy(store, b"allkeys-lru")
        done = rebuild(deployment)
        assert done.returncode != 0
        assert "maxmemory-policy is allkeys-lru" in done.stderr
        policy(store, b"noeviction")
        assert rebuild(deployment).returncode == 0
        # It looks each two seconds, and may have looked last while the policy was the wrong one.
        tries = itertools.count(100)

        def whole() -> bool:
            name = f"after-{next(tries)}"
            stream(deployment, name, 10)
            return set(levels(deployment, name)) == {"D0"}

        wait_until(whole, "decisions are whole again")
        assert deployment.settle().wrong_states(store.url) == []


def test_without_a_featurizer_the_deciders_notice_by_themselves(
    kafka: Node, store: EmbeddedStore, tmp_path: Path
) -> None:
    with make_deployment(kafka.bootstrap, store.url, tmp_path / "world") as deployment:
        deployment.start("decider-stream", "featurizer")
        stream(deployment, "before", 50)
        deployment.settle()
        deployment.stack.stop("featurizer")
        policy(store, b"allkeys-lru")
        wait_until(
            lambda: metric(deployment, "decider-stream", "sluice_store_ready") == 0,
            "the decider has noticed",
        )
        stream(deployment, "alone", 50)
        assert set(levels(deployment, "alone")) == {"D2"}


def ready(process: Process) -> tuple[int, str]:
    """Status and body of the readiness probe; 0 while nobody listens."""
    try:
        url = f"http://127.0.0.1:{process.port}/v2/health/ready"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()
    except (urllib.error.URLError, OSError):
        return 0, ""


def test_with_a_wrong_password_nothing_is_ready_or_decided_until_it_is_right(
    kafka: Node, store: EmbeddedStore, tmp_path: Path
) -> None:
    command(store, b"CONFIG", b"SET", b"requirepass", b"right")
    url = store.url.replace("redis://", "redis://:wrong@")
    with make_deployment(kafka.bootstrap, url, tmp_path / "world") as deployment:
        sync = deployment.stack.start("decider-sync")
        wait_until(lambda: ready(sync)[0] == 503, "the sync API says that it is not ready")
        deployment.stack.start("decider-stream")
        wait_until(lambda: says(deployment, "decider-stream"), "the stream processor says why")
        assert says(deployment, "decider-sync")
        for name in ("decider-sync", "decider-stream"):
            assert metric(deployment, name, "sluice_store_ready") == 0
            assert metric(deployment, name, "sluice_store_errors_total") > 0
        assert '"code":"store_password"' in deployment.logs()
        assert "wrong@" not in deployment.logs()
        assert deployment.ledger().decisions == []

        authenticated(store, b"requirepass", b"wrong")
        wait_until(lambda: ready(sync)[0] == 200, "the sync API is ready")
        deployment.start("featurizer")
        stream(deployment, "right", 20)
        assert metric(deployment, "decider-stream", "sluice_store_ready") == 1


def says(deployment: Deployment, name: str) -> bool:
    log = deployment.stack.processes[name].log.read_text()
    return "it refuses our user or password" in log and "SLUICE_STORE_URL" in log


def authenticated(store: EmbeddedStore, key: bytes, value: bytes) -> None:
    """CONFIG SET at a server that already asks for the first password."""
    connection = BlockingConnection(store.url.replace("redis://", "redis://:right@"), timeout_s=5)
    (answer,) = connection.call(pack(b"CONFIG", b"SET", key, value), 1)
    assert answer == b"OK"
    connection.close()
