"""A primary that three real Sentinels name: its replica is followed, and so is a planned change."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.adapters.redis.online import RedisOnlineStore
from sluice.adapters.redis.states import RedisStateStore
from sluice.adapters.redis.watermark import RedisWatermark
from sluice.application.ports import READY, StateUpdate
from sluice.domain.clock import SystemClock
from sluice.domain.features.states import etag
from sluice.errors import Misconfigured, Unavailable
from tests.support.arrivals import arrival, state
from tests.support.store_cluster import HOST, ServerProcess, free_ports, until

pytestmark = pytest.mark.integration
PASSWORD = "secret-1"


class Sentinels:
    """A primary, its replica, and three Sentinels that take half a second to agree."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(5)
        self.primary, self.replica = (
            ServerProcess(
                port,
                folder / str(port),
                {
                    "bind": HOST,
                    "port": port,
                    "requirepass": PASSWORD,
                    "primaryauth": PASSWORD,
                    "save": "",
                    "repl-diskless-sync-delay": 0,
                    **({"replicaof": f"{HOST} {ports[0]}"} if port == ports[1] else {}),
                },
            )
            for port in ports[:2]
        )
        self.sentinels = []
        for port in ports[2:]:
            at = folder / str(port)
            at.mkdir()
            told = at / "sentinel.conf"
            told.write_text(
                f"port {port}\nbind {HOST}\n"
                f"sentinel monitor store {HOST} {ports[0]} 2\n"
                f"sentinel auth-pass store {PASSWORD}\n"
                "sentinel down-after-milliseconds store 500\n"
                "sentinel failover-timeout store 3000\n"
            )
            self.sentinels.append(ServerProcess(port, at, {}, str(told), "--sentinel"))
        places = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://:{PASSWORD}@{places}/store/0"

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
def sentinels() -> Iterator[Sentinels]:
    with tempfile.TemporaryDirectory(prefix="sluice-sentinel-") as folder:
        made = Sentinels(Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.stop()


async def test_the_primary_is_found_by_name_and_followed_when_it_dies(sentinels):
    states, mark = RedisStateStore(sentinels.url, timeout_s=1.0), RedisWatermark(sentinels.url)
    store = RedisOnlineStore(sentinels.url, SystemClock(), budget_s=0.5)
    mark.initialise()
    assert states.write([StateUpdate("card", "card-1", b"", state(1), 1)]) == [True]
    await store.open()
    (reply,) = await store.observe([arrival("one")])
    assert reply.card == state(1)
    assert sentinels.primary.tell("WAIT", "1", "1000") == 1

    sentinels.primary.kill()
    until(lambda: sentinels.named() == sentinels.replica.port, "the replica is named")
    began, asked = time.monotonic(), 0
    while True:
        asked += 1
        try:
            (reply,) = await store.observe([arrival(f"two-{asked}")])
        except Unavailable:
            assert time.monotonic() < began + 10
            await asyncio.sleep(0.02)
        else:
            break
    assert (reply.card, reply.lost) == (state(1), False)
    assert time.monotonic() - began < 2.0

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
    states = RedisStateStore(sentinels.url, timeout_s=1.0)
    store = RedisOnlineStore(sentinels.url, SystemClock(), budget_s=0.5)
    await store.open()
    states.read([("card", "card-1")])
    told = sentinels.replica.tell("INFO", "server").decode()
    other = int(dict(x.split(":", 1) for x in told.splitlines() if ":" in x)["process_id"])
    sentinels.sentinels[0].tell("SENTINEL", "FAILOVER", "store")
    until(lambda: sentinels.named() == sentinels.replica.port, "the replica is named")

    async def moved() -> bool:
        try:
            return (await store.info()).process_id == states.info().process_id == other
        except Unavailable:
            return False

    began = time.monotonic()
    while not await moved():
        assert time.monotonic() < began + 10
        await asyncio.sleep(0.05)
    assert time.monotonic() - began < 3.0
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
