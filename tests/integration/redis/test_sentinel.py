"""A primary that three real Sentinels name: its replica is followed, and so is a planned change."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from sluice.adapters.redis.address import parse
from sluice.adapters.redis.online import RedisOnlineStore
from sluice.adapters.redis.sentinel import ANSWER_MAX_S, LOOK_EVERY_S
from sluice.adapters.redis.states import RedisStateStore
from sluice.adapters.redis.watermark import RedisWatermark
from sluice.application.ports import READY, Lookup, StateUpdate
from sluice.domain.clock import SystemClock
from sluice.domain.features.states import etag
from sluice.errors import Misconfigured, Unavailable
from tests.support.arrivals import arrival, state
from tests.support.store_cluster import (
    HOST,
    VALKEY,
    ServerProcess,
    Tls,
    free_ports,
    made_tls,
    until,
)

pytestmark = pytest.mark.integration
PASSWORD = "secret-1"
SOON_S = 10.0
"""On a busy machine. What is promised is two seconds, of which asking Sentinels takes its part."""
assert LOOK_EVERY_S + 3 * ANSWER_MAX_S < 2.0


class Sentinels:
    """A primary, its replica, and three Sentinels that take half a second to agree. tls: among
    all of them, and for clients."""

    def __init__(self, folder: Path, tls: Tls | None = None) -> None:
        program = VALKEY if tls is None else tls.program
        ports = free_ports(10)
        self._served = dict(zip(ports[:5], ports[5:] if tls else ports[:5], strict=True))
        """By the port of no TLS, that of clients."""
        self.primary, self.replica = (
            ServerProcess(
                port,
                folder / str(port),
                {
                    "bind": HOST,
                    "port": port,
                    "requirepass": PASSWORD,
                    "masterauth": PASSWORD,
                    "save": "",
                    "repl-diskless-sync-delay": 0,
                    **self._speaks(tls, port),
                    **({"replicaof": f"{HOST} {self.served(ports[0])}"} if replica else {}),
                },
                program=program,
            )
            for port, replica in zip(ports[:2], (False, True), strict=True)
        )
        self.sentinels = []
        for port in ports[2:5]:
            at = folder / str(port)
            at.mkdir()
            told = at / "sentinel.conf"
            speaks = "".join(f"{key} {word}\n" for key, word in self._speaks(tls, port).items())
            told.write_text(
                f"port {port}\nbind {HOST}\n{speaks}"
                f"sentinel monitor store {HOST} {self.served(ports[0])} 2\n"
                f"sentinel auth-pass store {PASSWORD}\n"
                "sentinel down-after-milliseconds store 500\n"
                "sentinel failover-timeout store 3000\n"
            )
            first = (str(told), "--sentinel")
            self.sentinels.append(ServerProcess(port, at, {}, *first, program=program))
        places = ",".join(f"{HOST}:{self.served(sentinel.port)}" for sentinel in self.sentinels)
        scheme = "redis" if tls is None else "rediss"
        self.url = f"{scheme}+sentinel://:{PASSWORD}@{places}/store/0"
        self.address = parse(self.url)
        if tls is not None:
            self.address = replace(self.address, files=tls.files)

    def _speaks(self, tls: Tls | None, port: int) -> dict[str, object]:
        return {} if tls is None else tls.settings(self.served(port))

    def served(self, port: int) -> int:
        """Where clients of the server at this port are served."""
        return self._served[port]

    def start(self) -> None:
        for server in (self.primary, self.replica, *self.sentinels):
            server.start()
        until(
            lambda: b"master_link_status:up" in self.replica.tell("INFO", "replication"), "in step"
        )
        for sentinel in self.sentinels:
            until(lambda at=sentinel: self._knows_all(at), "Sentinels know each other")

    @staticmethod
    def _knows_all(sentinel: ServerProcess) -> bool:
        told = sentinel.tell("SENTINEL", "MASTER", "store")
        figures = dict(zip(told[::2], told[1::2], strict=True))
        return (figures[b"num-other-sentinels"], figures[b"num-slaves"]) == (b"2", b"1")

    def named(self) -> int:
        _, port = self.sentinels[0].tell("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "store")
        return int(port)

    def stop(self) -> None:
        for server in (*self.sentinels, self.primary, self.replica):
            server.kill()


@pytest.fixture
def sentinels(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sentinels]:
    """With TLS where a test's parameter says so."""
    with tempfile.TemporaryDirectory(prefix="sluice-sentinel-") as folder:
        made = Sentinels(
            Path(folder), made_tls(tmp_path) if getattr(request, "param", "") else None
        )
        try:
            made.start()
            yield made
        finally:
            made.stop()


async def served(store: RedisOnlineStore, name: str) -> Lookup:
    """An arrival's, as soon as the store is there."""
    async with asyncio.timeout(SOON_S):
        for number in count():
            with suppress(Unavailable):
                (reply,) = await store.observe([arrival(f"{name}-{number}")])
                return reply
            await asyncio.sleep(0.02)
    raise AssertionError


@pytest.mark.parametrize("sentinels", ["", "TLS"], indirect=True)
async def test_the_primary_is_found_by_name_and_followed_when_it_dies(sentinels):
    at = sentinels.address
    states, mark = RedisStateStore(at, timeout_s=10.0), RedisWatermark(at)
    store = RedisOnlineStore(at, SystemClock(), budget_s=10.0)
    mark.initialise()
    assert states.write([StateUpdate("card", "card-1", b"", state(1), 1)]) == [True]
    with suppress(Unavailable):  # a busy machine; it is tried again
        await store.open()
    assert (await served(store, "one")).card == state(1)
    assert sentinels.primary.tell("WAIT", "1", "1000") == 1

    sentinels.primary.kill()
    heir = sentinels.served(sentinels.replica.port)
    until(lambda: sentinels.named() == heir, "the replica is named")
    reply = await served(store, "two")
    assert (reply.card, reply.lost) == (state(1), False)

    def writes() -> bool:
        try:
            held = states.read([("card", "card-1")])[0]
            return states.write([StateUpdate("card", "card-1", etag(held), state(2), 2)]) == [True]
        except Unavailable:
            return False

    until(writes, "states are written to the new primary")
    assert mark.read().state == READY
    assert not states.info().replica
    (reply,) = await store.observe([arrival("three")])
    assert reply.card == state(2)
    await store.close()
    states.close()
    mark.close()


async def test_a_primary_that_is_none_any_more_is_left_though_it_answers(sentinels):
    states = RedisStateStore(sentinels.url, timeout_s=10.0)
    store = RedisOnlineStore(sentinels.url, SystemClock(), budget_s=10.0)
    await store.open()
    states.read([("card", "card-1")])
    told = sentinels.replica.tell("INFO", "server").decode()
    other = int(dict(x.split(":", 1) for x in told.splitlines() if ":" in x)["process_id"])
    sentinels.sentinels[0].tell("SENTINEL", "FAILOVER", "store")
    heir = sentinels.served(sentinels.replica.port)
    until(lambda: sentinels.named() == heir, "the replica is named")

    async def moved() -> bool:
        try:
            return (await store.info()).process_id == states.info().process_id == other
        except Unavailable:
            return False

    async with asyncio.timeout(SOON_S):
        while not await moved():
            await asyncio.sleep(0.05)
    await store.close()
    states.close()


def test_sentinels_that_are_away_or_know_no_such_name_are_named(sentinels):
    mark = RedisWatermark(sentinels.url.replace("/store/", "/other/"))
    with pytest.raises(Unavailable, match="no Sentinel names a primary"):
        mark.read()
    wrong = RedisWatermark(sentinels.url.replace(PASSWORD, "wrong"))
    with pytest.raises(Misconfigured):
        wrong.read()
    wrong.close()
