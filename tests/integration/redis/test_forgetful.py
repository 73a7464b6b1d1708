"""A real server that evicts, or may: who notices, and what is served then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.application.ports import MISSING, READY, REBUILDING, UNKNOWN, Store, StoreInfo
from sluice.application.rebuild import check_policy
from sluice.application.watch_store import StoreWatch
from sluice.bootstrap.services import store_at
from sluice.errors import Misconfigured
from sluice.testing.store import declare_ready
from tests.integration.redis.test_connection import arrival

pytestmark = pytest.mark.integration

ROOM = b"8mb"


@pytest.fixture
def server() -> Iterator[EmbeddedStore]:
    with EmbeddedStore() as running:
        yield running


@pytest.fixture
def store(server: EmbeddedStore) -> Store:
    made = store_at(server.url)
    declare_ready(made)
    return made


@pytest.fixture
def command(server: EmbeddedStore) -> Iterator[Callable[..., Any]]:
    connection = BlockingConnection(server.url, timeout_s=5)

    def send(*words: bytes) -> Any:
        (answer,) = connection.call(pack(*words), 1)
        return answer

    yield send
    connection.close()


def evict(command: Callable[..., Any], policy: bytes) -> None:
    """Fill the server until it has evicted something, and give it room again."""
    command(b"CONFIG", b"SET", b"maxmemory-policy", policy)
    command(b"CONFIG", b"SET", b"maxmemory", ROOM)
    for number in range(200):
        command(b"SET", b"sluice:idempotency:x:%d" % number, bytes(100_000), b"EX", b"600")
    command(b"CONFIG", b"SET", b"maxmemory", b"0")
    command(b"CONFIG", b"SET", b"maxmemory-policy", b"noeviction")


def why(store: Store) -> str:
    states, mark = store.states(), store.watermark()
    try:
        return mark.read().why_forgetful(states.info())
    finally:
        states.close()
        mark.close()


@pytest.mark.parametrize("policy", [b"volatile-lru", b"volatile-lfu", b"volatile-ttl"])
def test_what_was_evicted_since_the_store_was_declared_is_known_until_it_is_rebuilt(
    store, command, policy
):
    assert why(store) == ""
    evict(command, policy)
    assert why(store).startswith("it evicted ")
    mark = store.watermark()
    mark.begin()
    assert why(store) == ""
    evict(command, policy)
    assert why(store).startswith("it evicted "), "what a rebuild has written may go as well"
    mark.close()


def test_a_store_that_evicted_its_watermark_is_not_served_either(store, command):
    evict(command, b"allkeys-random")
    command(b"DEL", b"sluice:store")
    mark = store.watermark()
    assert mark.read().why_not_served() == MISSING
    mark.close()


def test_a_store_of_an_earlier_version_that_has_evicted_is_not_trusted(store, command):
    evict(command, b"allkeys-random")
    command(b"DEL", b"sluice:store")
    command(b"HSET", b"sluice:store", b"id", b"x", b"state", b"ready", b"epoch", b"1")
    assert why(store).startswith("it evicted ")


def test_a_new_store_may_have_evicted_what_was_never_ours(server, command):
    evict(command, b"allkeys-lru")
    command(b"FLUSHALL")
    store = store_at(server.url)
    assert why(store) == ""
    declare_ready(store)
    assert why(store) == ""


@pytest.mark.parametrize("policy", [b"volatile-lru", b"allkeys-lfu", b"volatile-random"])
def test_a_policy_by_which_it_may_evict_is_reason_enough(store, command, policy):
    command(b"CONFIG", b"SET", b"maxmemory-policy", policy)
    assert f"its maxmemory-policy is {policy.decode()}" in why(store)
    assert "set noeviction" in why(store)
    with pytest.raises(Misconfigured, match="would be lost again"):
        check_policy(policy.decode())
    check_policy(UNKNOWN)
    check_policy("noeviction")


class Watching:
    """A decider's connection and its watch."""

    def __init__(self, store: Store) -> None:
        self.reported: list[str] = []
        self.policies: list[tuple[str, str]] = []
        self.shown: list[StoreInfo] = []
        self.online = store.online(batches=True, on_trust=self.reported.append)
        self.parts = store.states(), store.watermark()
        self.watch = StoreWatch(
            *self.parts,
            show=self.shown.append,
            policy=lambda policy, why: self.policies.append((policy, why)),
            distrust=self.online.distrust,
        )

    async def served(self, name: str) -> bool:
        await asyncio.to_thread(self.watch.look)
        (reply,) = await self.online.observe([arrival(name)])
        return not reply.lost

    async def close(self) -> None:
        await self.online.close()
        for part in self.parts:
            part.close()


async def test_a_decider_serves_no_state_of_a_store_that_forgot_and_says_why(store, command):
    decider = Watching(store)
    await decider.online.open()
    assert await decider.served("a-1")
    command(b"CONFIG", b"SET", b"maxmemory-policy", b"volatile-lru")
    assert not await decider.served("a-2")
    command(b"CONFIG", b"SET", b"maxmemory-policy", b"noeviction")
    assert await decider.served("a-3")
    await asyncio.to_thread(evict, command, b"volatile-lru")
    assert not await decider.served("a-4")
    mark = store.watermark()
    mark.move(mark.begin(), READY)
    mark.close()
    assert await decider.served("a-5")
    assert [reason.partition(":")[0][:27] for reason in decider.reported] == [
        "",
        "its maxmemory-policy is vol",
        "",
        decider.reported[3][:27],
        "",
    ]
    assert decider.reported[3].startswith("it evicted ")
    assert decider.shown[-1].evicted_keys > 0
    assert ("volatile-lru", "") in decider.policies
    await decider.close()


async def test_a_decider_serves_no_state_of_a_replica(server, store):
    with EmbeddedStore() as primary:
        decider = Watching(store)
        await decider.online.open()
        assert await decider.served("a-1")
        host, port = primary.host_port.split(":")
        connection = BlockingConnection(server.url, timeout_s=5)
        connection.call(pack(b"REPLICAOF", host.encode(), port.encode()), 1)
        assert not await decider.served("a-2")
        assert "it is a replica" in decider.reported[-1]
        connection.call(pack(b"REPLICAOF", b"NO", b"ONE"), 1)
        declare_ready(store)
        assert await decider.served("a-3")
        connection.close()
        await decider.close()


async def test_a_store_that_hides_its_figures_or_is_away_is_trusted_as_before(
    server, store, command
):
    decider = Watching(store)
    await decider.online.open()
    command(b"ACL", b"SETUSER", b"default", b"-info")
    assert await decider.served("a-1")
    assert decider.policies[-1][0] == UNKNOWN
    assert "store_rights" not in decider.policies[-1][1]
    assert "may not do this" in decider.policies[-1][1]
    command(b"ACL", b"SETUSER", b"default", b"+info")
    assert await decider.served("a-2")
    server.stop()
    await asyncio.to_thread(decider.watch.look)
    assert decider.policies[-1][0] == UNKNOWN
    await decider.close()


def test_a_store_that_hides_its_figures_is_declared_and_rebuilt_all_the_same(store, command):
    command(b"ACL", b"SETUSER", b"default", b"-info")
    mark = store.watermark()
    mark.begin()
    assert mark.read().state == REBUILDING
    command(b"FLUSHALL")
    assert mark.read().state == MISSING
    assert mark.initialise()
    assert (mark.read().run_id, mark.read().evicted_keys) == ("", 0)
    mark.close()
