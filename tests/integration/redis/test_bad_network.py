"""The store behind a network that is slow, broken, silent or lying: each call ends by its own
budget, with its own reply or none, and all is well again when the network is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.connection import Connection
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.errors import Unavailable
from sluice.testing.counting import Counted
from tests.support import faulty_network
from tests.support.faulty_network import FaultyNetwork, Toxic

pytestmark = [pytest.mark.integration, pytest.mark.fault]

BUDGET_S = 0.05
LONG = b"x" * 2_000


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedStore]:
    with EmbeddedStore() as running:
        yield running


@pytest.fixture
def network(server: EmbeddedStore) -> Iterator[FaultyNetwork]:
    host, _, port = server.url.removeprefix("redis://").partition("/")[0].rpartition(":")
    with FaultyNetwork((host, int(port))) as network:
        yield network


def over(
    network: FaultyNetwork, story: Callable[[Connection], Awaitable[None]], budget_s: float
) -> Counted:
    """Run a story over a connection through the network. Returns what was counted."""
    counted = Counted()

    async def told() -> None:
        connection = Connection(f"redis://{network.host_port}", budget_s=budget_s, count=counted)
        await connection.open()
        try:
            await story(connection)
        finally:
            await connection.close()

    asyncio.run(told())
    return counted


async def until(true: Callable[[], Any]) -> None:
    for _ in range(6000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come true within a minute")


async def echo(connection: Connection, number: int) -> tuple[bool, float]:
    """Ask for an echo of its own. Returns whether it came, and the seconds that took."""
    began = time.monotonic()
    asked = b"%d:%b" % (number, LONG)
    try:
        (reply,) = await connection.call(pack(b"ECHO", asked), 1)
    except Unavailable:
        return False, time.monotonic() - began
    assert reply == asked, f"the reply of another call came to {number}"
    return True, time.monotonic() - began


async def echoes(connection: Connection, count: int) -> list[tuple[bool, float]]:
    """So many, 5 ms apart, whether or not the ones before have ended."""
    asked = []
    for number in range(count):
        asked.append(asyncio.ensure_future(echo(connection, number)))
        await asyncio.sleep(0.005)
    async with asyncio.timeout(180):
        return await asyncio.gather(*asked)


async def serves_again(connection: Connection) -> None:
    await until(lambda: connection.is_up)
    async with asyncio.timeout(180):
        while not (await echo(connection, 0))[0]:
            await asyncio.sleep(0.01)
    assert [came for came, _ in await echoes(connection, 20)].count(True) >= 1


@pytest.mark.parametrize("together", [True, False], ids=["many-at-once", "one-after-the-other"])
def test_each_call_ends_by_its_own_budget_whatever_those_before_it_wait_for(network, together):
    ended: list[tuple[bool, float]] = []

    async def story(connection: Connection) -> None:
        with network.being(faulty_network.latency(800)):
            if together:
                ended.extend(await echoes(connection, 100))
            else:
                ended.extend([await echo(connection, number) for number in range(14)])
        await serves_again(connection)

    counted = over(network, story, BUDGET_S)
    assert {came for came, _ in ended} == {False}, "a reply came after the budget"
    assert sorted(seconds for _, seconds in ended)[len(ended) // 2] < 10 * BUDGET_S
    assert counted["sluice_store_failures_total timeout"] >= len(ended) // 2


@pytest.mark.parametrize(
    "toxic",
    [
        faulty_network.latency(60, jitter_ms=60),
        faulty_network.bandwidth(200),
        faulty_network.slicer(100, delay_ms=1),
        faulty_network.slicer(1, delay_ms=1),
    ],
    ids=lambda toxic: f"{toxic['type']}-{toxic.get('average_size', '')}",
)
def test_a_reply_that_is_late_or_in_pieces_is_never_given_to_another_call(network, toxic: Toxic):
    async def story(connection: Connection) -> None:
        with network.being(toxic):
            ended = await echoes(connection, 100)
        assert not all(came for came, _ in ended), "the fault was none"
        await serves_again(connection)

    over(network, story, BUDGET_S)


@pytest.mark.parametrize(
    ("toxic", "counter"),
    [
        (faulty_network.limit_data(3_000), "sluice_store_connections_lost_total closed"),
        (faulty_network.reset_peer(20), "sluice_store_connections_lost_total closed"),
        (faulty_network.refused(), "sluice_store_connects_total failed"),
        (faulty_network.half_open(), "sluice_store_connections_lost_total hang"),
        (faulty_network.timeout(), "sluice_store_connections_lost_total hang"),
        (faulty_network.hold(), "sluice_store_connections_lost_total hang"),
    ],
    ids=lambda given: given["type"] if isinstance(given, dict) else "",
)
def test_a_connection_that_broke_is_noticed_counted_and_made_anew(network, toxic, counter):
    async def story(connection: Connection) -> None:
        network.be(toxic)
        await echoes(connection, 20)
        await until(lambda: counted_by(connection)[counter])
        network.be()
        await serves_again(connection)

    counted = over(network, story, BUDGET_S)
    assert counted["sluice_store_connects_total made"] >= 2
    assert sum(counted[f"sluice_store_failures_total {why}"] for why in ("timeout", "lost", "down"))


def counted_by(connection: Connection) -> Counted:
    assert isinstance(connection.count, Counted)
    return connection.count


def test_an_idle_connection_that_ended_in_silence_is_noticed_before_anyone_asks(network):
    async def story(connection: Connection) -> None:
        network.be(faulty_network.half_open())
        await until(lambda: counted_by(connection)["sluice_store_connects_total made"] == 2)
        assert (await echo(connection, 1))[0]

    counted = over(network, story, 10.0)
    assert counted["sluice_store_connections_lost_total hang"] == 1


def test_a_store_that_takes_connections_and_drops_them_is_not_stormed(network):
    async def story(connection: Connection) -> None:
        before = network.counts().accepted
        network.be(faulty_network.reset_peer(10))
        await asyncio.sleep(3)
        assert network.counts().accepted - before < 20
        network.be()
        await serves_again(connection)

    over(network, story, 0.5)


@pytest.mark.parametrize(
    ("toxic", "why"),
    [
        (faulty_network.slicer(1, delay_ms=20), "timeout"),
        (faulty_network.timeout(), "timeout"),
        (faulty_network.half_open(), "timeout"),
        (faulty_network.limit_data(100), "lost"),
        # Noticed before the call, or by it; another connection is reset too.
        (faulty_network.reset_peer(), "down lost"),
    ],
    ids=lambda given: given["type"] if isinstance(given, dict) else "",
)
def test_a_blocking_call_ends_too_however_slowly_its_reply_comes(network, toxic, why):
    counted = Counted()
    blocking = BlockingConnection(f"redis://{network.host_port}", timeout_s=1.0, count=counted)
    assert blocking.call(pack(b"ECHO", LONG), 1) == [LONG]
    with network.being(toxic):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            blocking.call(pack(b"ECHO", LONG), 1)
        assert time.monotonic() - began < 20
    assert sum(counted[f"sluice_store_failures_total {one}"] for one in why.split()) == 1
    assert blocking.call(pack(b"ECHO", b"2"), 1) == [b"2"]
    blocking.close()


def test_behind_a_call_that_was_given_up_nobody_has_to_wait_and_commands_take_effect(
    network: FaultyNetwork,
) -> None:
    async def story(connection: Connection) -> None:
        assert await connection.call(pack(b"DEL", b"n"), 1, 10.0) is not None
        with network.being(faulty_network.hold()):
            first = connection.call(pack(b"INCR", b"n"), 1, at_once=True)
            assert not first.done(), "nothing is known of the network yet"
            with pytest.raises(Unavailable):
                await first
            second = connection.call(pack(b"INCR", b"n"), 1, at_once=True)
            assert isinstance(second.exception(), Unavailable)
            patient = connection.call(pack(b"INCR", b"n"), 1, budget_s=10.0)
            assert not patient.done()
        assert await patient == [3]
        third = connection.call(pack(b"INCR", b"n"), 1, 10.0, at_once=True)
        assert await third == [4]

    assert over(network, story, BUDGET_S)["sluice_store_failures_total timeout"] == 2
