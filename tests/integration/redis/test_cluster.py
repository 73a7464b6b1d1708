"""A real cluster of three masters and three replicas: one of them dies, slots move, one lags."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sluice.adapters.layout import COMPILED
from sluice.adapters.redis import blocking_cluster
from sluice.adapters.redis.cluster import LOOK_AGAIN_S, LOOK_BUDGET_S
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.online import RedisOnlineStore
from sluice.adapters.redis.slots import MARKS, SLOTS, slot
from sluice.adapters.redis.states import RedisStateStore
from sluice.adapters.redis.watermark import KEY, RedisWatermark
from sluice.application.ports import LOST, MISSING, READY, STORE_LOST, Arrival, Lookup, StateUpdate
from sluice.domain.clock import SystemClock
from sluice.domain.features.states import etag
from sluice.errors import Unavailable
from sluice.testing.counting import Counted
from tests.support.arrivals import arrival, state
from tests.support.store_cluster import HOST, ServerProcess, StoreCluster, made_tls, until

pytestmark = pytest.mark.integration
PLACE = ("w.decisions.v1", 0)
CARDS = 120
PATIENT_S = 10.0
"""A budget that a busy machine keeps too."""
SOON_S = 10.0
"""On a busy machine. What is promised is a second, of which a look takes its part."""
assert LOOK_AGAIN_S + LOOK_BUDGET_S < 1.0


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreCluster]:
    """With TLS where a test's parameter says so."""
    tls = made_tls(tmp_path) if getattr(request, "param", "") else None
    with StoreCluster(tls=tls) as running:
        yield running


class World:
    """A decider's and a featurizer's side of one cluster, and what was written so far."""

    def __init__(self, cluster: StoreCluster) -> None:
        self.counted = Counted()
        self.reported: list[str] = []
        self.states = RedisStateStore(cluster.address, timeout_s=PATIENT_S, count=self.counted)
        self.mark = RedisWatermark(cluster.address, timeout_s=PATIENT_S, count=self.counted)
        self.store = RedisOnlineStore(
            cluster.address,
            SystemClock(),
            budget_s=PATIENT_S,
            on_trust=self.reported.append,
            count=self.counted,
        )
        self.written: dict[str, bytes] = {}
        self.offset = 0
        self._asked = 0

    def write(self) -> None:
        """A batch of a featurizer: states, then the watermark. Comes again, as a batch does."""
        self.offset += 1
        cards = [f"c{i}" for i in range(CARDS)]
        made = state(self.offset)

        def taken() -> bool:
            try:
                held = self.states.read([("card", card) for card in cards])
                assert {*held} <= {made, *self.written.values(), b""}
                self.states.write(
                    [
                        StateUpdate("card", card, etag(before), made, self.offset)
                        for card, before in zip(cards, held, strict=True)
                        if before != made
                    ]
                )
                self.mark.advance({PLACE: self.offset - 1}, {PLACE: self.offset})
            except Unavailable as error:
                if error.code == STORE_LOST:
                    raise
                return False
            return True

        until(taken, "the batch is taken")
        self.written = dict.fromkeys(cards, made)

    async def look(self, number: int = CARDS) -> list[tuple[Arrival, Lookup]]:
        """A batch of a decider, each of another card. Raises Unavailable."""
        self._asked += number
        batch = [
            arrival(f"a{self._asked + i}", card=f"c{i}", device=None, digest=b"digest-1")
            for i in range(number)
        ]
        return list(zip(batch, await self.store.observe(batch), strict=True))

    def wrong(self, looked: list[tuple[Arrival, Lookup]]) -> list[str]:
        """Cards served as another state than was written last, but for what is not served."""
        return [
            auth.card_token
            for auth, reply in ((arrival.auth, reply) for arrival, reply in looked)
            if reply.card is not None and reply.card != self.written.get(auth.card_token, b"")
        ]


@asynccontextmanager
async def world_of(cluster: StoreCluster) -> AsyncIterator[World]:
    world = World(cluster)
    world.mark.initialise()
    await world.store.open()
    world.write()
    try:
        yield world
    finally:
        await world.store.close()
        world.states.close()
        world.mark.close()


async def soon(attempt) -> None:
    """Return when it came true."""
    async with asyncio.timeout(SOON_S):
        while not await attempt():
            await asyncio.sleep(0.02)


def of(master: ServerProcess, cluster: StoreCluster, entity: str) -> bool:
    """Whether a card lies there, as another node says."""
    return cluster.owner(slot(COMPILED["card"].key(entity)), cluster.masters[1]) is master


async def test_a_card_and_its_pending_entries_lie_in_one_slot(cluster):
    async with world_of(cluster) as world:
        await world.look()
        for i in range(CARDS):
            pending = world.store._pending_key("acme", f"c{i}")
            assert slot(pending) == slot(COMPILED["card"].key(f"c{i}"))
            owner = cluster.owner(slot(pending), cluster.masters[0])
            assert owner.tell("LLEN", pending) == 1
            assert owner.tell("CLUSTER", "KEYSLOT", pending) == slot(pending)


@pytest.mark.parametrize("cluster", ["", "TLS"], indirect=True)
async def test_a_killed_master_is_missing_alone_and_its_replica_is_served_soon(cluster):
    async with world_of(cluster) as world:
        dead = cluster.masters[0]
        mine = {f"c{i}" for i in range(CARDS) if of(dead, cluster, f"c{i}")}
        dead.kill()
        looked = await world.look()
        # Some of it is asked before the other nodes know: only what lay there is missing.
        missing = {a.auth.card_token for a, reply in looked if reply.card is None}
        assert missing == mine
        assert world.wrong(looked) == []
        assert not any(reply.lost for _, reply in looked)
        assert world.counted["sluice_store_errors_total UNANSWERED"] > 0

        until(
            lambda: dead.place not in cluster.seen_by(cluster.masters[1]).owners, "it is replaced"
        )

        async def well() -> bool:
            try:
                found = await world.look()
            except Unavailable:
                return False
            assert world.wrong(found) == []
            return not any(reply.card is None for _, reply in found)

        await soon(well)
        assert world.counted["sluice_store_owner_changes_total"] >= 1
        world.write()
        assert world.wrong(await world.look()) == []
        assert world.mark.read().state == READY
        assert set(world.reported) == {""}


async def test_a_replica_that_lacks_the_last_writes_is_not_served_until_it_was_made_again(cluster):
    async with world_of(cluster) as world:
        dead, heir = cluster.masters[0], cluster.replicas[0]
        await world.look()
        # Cut off from its master it keeps what it has, as one that lags does.
        heir.send(signal.SIGSTOP)
        dead.tell("CLIENT", "KILL", "TYPE", "replica")
        world.write()
        world.write()
        await world.look()
        dead.kill()
        heir.send(signal.SIGCONT)
        until(lambda: heir.place in cluster.seen_by(cluster.masters[1]).owners, "it has taken over")

        async def noticed() -> bool:
            try:
                found = await world.look()
            except Unavailable:
                return False
            assert world.wrong(found) == []
            return all(reply.lost and reply.card is None for _, reply in found)

        await soon(noticed)
        assert "it went back from epoch" in world.reported[-1]

        def told_lost() -> bool:
            # The first call may meet the dead master still: the batch is tried again.
            with pytest.raises(Unavailable) as caught:
                world.mark.advance({PLACE: world.offset})
            return caught.value.code == STORE_LOST

        until(told_lost, "the featurizer is told")
        # What one node lost the whole store has, also where only the others are asked.
        mark = world.mark.read()
        assert mark.state == LOST
        assert "a node of it ends at offset" in mark.why

        # As a rebuild does.
        begun = world.mark.begin()
        assert world.states.clear() == CARDS
        world.written.clear()
        world.mark.move(begun, READY, {PLACE: world.offset})
        world.write()
        found = await world.look()
        assert world.wrong(found) == []
        assert all(reply.card for _, reply in found)


async def test_a_master_that_comes_back_empty_is_lost_not_new(cluster):
    for replica in cluster.replicas:
        replica.kill()
    async with world_of(cluster) as world:
        emptied = cluster.masters[2]
        emptied.kill()
        emptied.start()

        async def noticed() -> bool:
            try:
                found = await world.look()
            except Unavailable:
                return False
            assert world.wrong(found) == []
            return all(reply.lost for _, reply in found)

        await soon(noticed)
        assert world.reported[-1] == MISSING
        mark = world.mark.read()
        assert (mark.state, "watermarks are missing" in mark.why) == (LOST, True)


async def test_slots_that_move_under_traffic_are_followed_and_nothing_is_wrong_or_missing(cluster):
    async with world_of(cluster) as world:
        added = cluster.add()
        source = cluster.masters[0]
        # Two whole stretches of which each has a watermark, as a rebalance takes them: in order.
        busy = sorted({slot(COMPILED["card"].key(f"c{i}")) for i in range(CARDS)})
        moved = sorted({0, SLOTS // MARKS, *(s for s in busy if s < 2 * SLOTS // MARKS)})
        looked = 0
        await world.look()
        for number in moved:
            # Where nothing is, an owner whose slot is on its way sends us on.
            for key in source.tell("CLUSTER", "GETKEYSINSLOT", str(number), "100"):
                if key.startswith(b"sluice:pending"):
                    source.tell("DEL", key)
            ids = {s: s.tell("CLUSTER", "MYID") for s in (source, added)}
            added.tell("CLUSTER", "SETSLOT", str(number), "IMPORTING", ids[source])
            source.tell("CLUSTER", "SETSLOT", str(number), "MIGRATING", ids[added])
            await asyncio.to_thread(world.write)
            found = await world.look()
            cluster.move_slot(number, source, added)
            found += await world.look()
            looked += len(found)
            assert world.wrong(found) == []
            await asyncio.to_thread(world.write)
            assert [reply for _, reply in found if reply.card is None or reply.unidentified] == []
        assert looked == len(moved) * 2 * CARDS
        assert world.counted["sluice_store_redirects_total ask"] > 0
        assert world.counted["sluice_store_redirects_total moved"] > 0
        assert set(world.reported) == {""}
        assert world.mark.read().state == READY


async def test_owners_that_change_while_a_batch_is_asked_change_nothing_of_it(cluster):
    async with world_of(cluster) as world:
        asking = asyncio.create_task(world.look())
        await asyncio.sleep(0)  # it is sent
        nodes = world.store.connection
        known = nodes._known
        first, second = (master.place for master in cluster.masters[:2])
        owners = tuple(second if place == first else place for place in known.owners)
        nodes._take(replace(known, owners=owners))
        found = await asking
        assert all(reply.card is not None and not reply.lost for _, reply in found)
        assert world.wrong(found) == []
        assert set(world.reported) == {""}


async def test_an_id_is_decided_once_whichever_nodes_it_meets(cluster):
    async with world_of(cluster) as world:
        (first,) = await world.store.observe([arrival("again")])
        assert not first.in_progress_elsewhere
        dead = cluster.owner(slot(b"sluice:idempotency:acme:again"), cluster.masters[0])
        heir = cluster.replicas[cluster.masters.index(dead)]
        until(lambda: b"slave0" in dead.tell("INFO", "replication"), "it replicates")
        world.store.remember([(arrival("again"), b"answer-1")])
        await world.look()
        dead.tell("WAIT", "1", "1000")
        dead.kill()
        asked = next(m for m in cluster.masters if m is not dead)
        until(lambda: heir.place in cluster.seen_by(asked).owners, "the replica has taken over")

        async def well() -> bool:
            try:
                (reply,) = await world.store.observe([arrival("again")])
            except Unavailable:
                return False
            return reply.earlier == b"answer-1"

        await soon(well)


def test_a_policy_that_may_evict_is_noticed_on_whichever_node_it_is(cluster):
    mark, states = RedisWatermark(cluster.url), RedisStateStore(cluster.url)
    mark.initialise()
    assert mark.read().why_forgetful(states.info()) == ""
    cluster.masters[2].tell("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert "maxmemory-policy is allkeys-lru" in mark.read().why_forgetful(states.info())
    for master in cluster.masters:
        master.tell("CONFIG", "SET", "maxmemory-policy", "noeviction")
    # One that is fuller than the others is the one that is shown.
    cluster.masters[1].tell("CONFIG", "SET", "maxmemory", "8mb")
    info = states.info()
    assert info.max_memory_bytes == 8 << 20
    assert info.process_id == int(
        dict(
            line.split(":", 1)
            for line in cluster.masters[1].tell("INFO", "server").decode().splitlines()
            if ":" in line
        )["process_id"]
    )
    mark.close()
    states.close()


async def test_a_cluster_that_is_away_or_wants_a_password_says_so(cluster):
    for server in cluster.servers:
        server.tell("CONFIG", "SET", "requirepass", "secret-1")
    store = RedisOnlineStore(cluster.url, SystemClock())
    with pytest.raises(Unavailable) as caught:
        await store.open()
    refusal = store.refusal()
    assert refusal is not None
    assert caught.value.code == refusal.code == "store_password"
    await store.close()
    known = RedisOnlineStore(cluster.url.replace("://", "://:secret-1@"), SystemClock())
    await known.open()
    assert known.connection.is_up
    assert known.refusal() is None
    for server in cluster.servers:
        server.kill()
    with pytest.raises(Unavailable):
        await known.observe([arrival()])
    await known.close()


def test_the_watermark_of_a_server_is_one_key_and_a_clusters_are_in_slots_apart(cluster):
    mark = RedisWatermark(cluster.url)
    assert mark.initialise()
    assert sorted(slot(key) for key in mark._keys) == list(range(0, SLOTS, SLOTS // MARKS))
    (answer,) = cluster.masters[0].connection.call(pack(b"EXISTS", KEY), 1)
    assert answer == 0 or "MOVED" in str(answer)
    mark.close()


def test_an_address_of_the_url_that_says_nothing_is_waited_for_once(cluster, monkeypatch):
    monkeypatch.setattr(blocking_cluster, "LOOK_EVERY_S", 0.0)
    with socket.create_server((HOST, 0)) as silent:
        seeds = (silent.getsockname(), cluster.masters[0].place)
        states = RedisStateStore(replace(cluster.address, seeds=seeds))
        for _ in range(10):  # each looks who owns what
            assert states.read([("card", "c1")]) == [b""]
        states.close()
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
