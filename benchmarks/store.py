"""What the online store costs as it grows, and in a cluster of three.

``python -m benchmarks.store`` fills one server and a cluster in steps up to --keys states of
--bytes each, and times both in turns: a decider's reads of one arrival and of --batch, a
featurizer's reads and swaps, its watermark, and the commands of one arrival by redis-py's cluster
client. Prints medians of --rounds: wall time, our own processor time, the servers'; and the
servers' memory for a state. "among" so many states: the same store, but only those are asked for,
spread over all of it: what does not fall with that is no matter of cold memory.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis.cluster

from sluice.adapters.layout import COMPILED, encode_state, encode_timestamp
from sluice.adapters.redis.blocking_cluster import Blocking, blocking
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.online import RedisOnlineStore
from sluice.adapters.redis.states import RedisStateStore
from sluice.adapters.redis.watermark import RedisWatermark
from sluice.application.ports import Arrival, StateUpdate
from sluice.domain.clock import SystemClock
from sluice.domain.features.events import event_row
from sluice.domain.features.states import etag
from sluice.domain.records.authorization import Authorization, Channel
from tests.support.store_cluster import StoreCluster

WRITTEN_AT_ONCE = 2000
AMONG = 100_000
"""So few states are asked for as well, where there are more."""
CARDS_A_TERMINAL = 20
CHANNEL = Channel.POS
FILL_MAX_S = 300.0
"""A busy machine may stop us for minutes."""
NODE_TIMEOUT_MS = 60_000
"""So that no stop of ours looks like a node that died."""
PARTITIONS = 6
AT_US = 1_780_000_000_000_000

# redis-py types neither.
_Node: Any = redis.cluster.ClusterNode
_Cluster: Any = redis.cluster.RedisCluster

Timed = Callable[[int], Awaitable[None]]
"""Does it so many times."""


def card_token(number: int) -> str:
    """16 characters."""
    return f"c{number:015d}"


def fill(url: str, first: int, last: int, state: bytes) -> None:
    """Write the states of cards first to last, as the featurizer's layout has them."""
    server = blocking(url, timeout_s=FILL_MAX_S)
    value, at = encode_state(state), encode_timestamp(AT_US)
    view = COMPILED["card"]
    for begin in range(first, last, WRITTEN_AT_ONCE):
        some = range(begin, min(begin + WRITTEN_AT_ONCE, last))
        keys = [view.key(card_token(i)) for i in some]
        server.each([pack(b"HSET", k, view.field, value, view.ts_field, at) for k in keys], keys)
    server.close()


def told(server: Blocking, section: bytes, *names: str) -> float:
    """Sum of some figures of ``INFO`` over all nodes."""
    found = 0.0
    for node in server.everywhere:
        (text,) = node.call(pack(b"INFO", section), 1)
        lines = dict(line.partition(":")[::2] for line in text.decode().splitlines())
        found += sum(float(lines[name]) for name in names)
    return found


def memory(url: str) -> float:
    """Bytes that all nodes use."""
    server = blocking(url, timeout_s=FILL_MAX_S)
    used = told(server, b"memory", "used_memory")
    server.close()
    return used


def arrivals(count: int, cards: int, among: int, draw: random.Random) -> list[Arrival]:
    """Of so many of the cards, evenly spread and evenly drawn, each with an id never seen."""
    made = []
    for _ in range(count):
        card = draw.randrange(among) * (cards // among)
        auth = Authorization(
            authorization_id=f"b-{draw.getrandbits(64):x}",
            event_at=AT_US,
            card_token=card_token(card),
            merchant_id=f"m{card % 997}",
            terminal_id=f"t{card // CARDS_A_TERMINAL}",
            mcc="5411",
            channel=CHANNEL,
            amount_minor=1999,
            currency="EUR",
            merchant_country="FR",
            card_country="FR",
            region="eu",
            tenant="acme",
        )
        made.append(Arrival(auth, 1999, event_row(auth, 1999), b"digest-1", 1, None))
    return made


class Store:
    """One of the two, by both of its sides. Each method does something ``times`` times."""

    def __init__(self, url: str, cards: int, batch: int, size: int, draw: random.Random) -> None:
        self.online = RedisOnlineStore(url, SystemClock(), budget_s=5.0, in_progress_ttl_s=1.0)
        self._states = RedisStateStore(url, timeout_s=FILL_MAX_S)
        self._server = blocking(url, timeout_s=FILL_MAX_S)
        self._mark = RedisWatermark(url, timeout_s=FILL_MAX_S)
        self._applied = max(self._mark.read().applied.values(), default=0)
        self._cards, self._batch, self._size, self._draw = cards, batch, size, draw
        self._drawn: list[list[Arrival]] = []
        self._etags: dict[str, bytes] = {}
        self._redis_py: Any = None
        if "+cluster" in url:
            host, _, port = url.partition("://")[2].partition(",")[0].rpartition(":")
            self._redis_py = _Cluster(startup_nodes=[_Node(host, int(port))], protocol=2)

    async def close(self) -> None:
        """Disconnect."""
        await self.online.close()
        self._states.close()
        self._server.close()
        self._mark.close()
        if self._redis_py is not None:
            self._redis_py.close()

    def draw(self, size: int, times: int, among: int) -> None:
        """Make the arrivals that the next run asks for, of so many cards."""
        self._drawn = [arrivals(size, self._cards, among, self._draw) for _ in range(times)]

    def cpu_s(self) -> float:
        """The servers' processor time so far."""
        return told(self._server, b"cpu", "used_cpu_user", "used_cpu_sys")

    async def observe(self, times: int) -> None:
        """A decider's read of the arrivals drawn."""
        for batch in self._drawn[:times]:
            for reply in await self.online.observe(batch):
                assert reply.card, "a card was filled, and is not served"

    async def by_redis_py(self, times: int) -> None:
        """The commands of one arrival, but for the watermarks, by redis-py's cluster client."""
        for (arrival,) in self._drawn[:times]:
            auth = arrival.auth
            pending = f"bench:pending:{auth.card_token}"
            asked = self._redis_py.pipeline()
            asked.set(f"bench:id:{auth.authorization_id}", b"record", nx=True, get=True, px=1000)
            for kind, key in (
                ("card", auth.card_token),
                ("terminal", auth.terminal_id),
                ("merchant", auth.merchant_id),
            ):
                view = COMPILED[kind]  # type: ignore[index]
                asked.hget(view.key(key), view.field)
            asked.rpush(pending, b"entry" * 20)
            asked.lrange(pending, -64, -1)
            asked.expire(pending, 1)
            assert asked.execute()[1], "a card was filled, and is not served"

    async def read(self, times: int) -> None:
        """A featurizer's read of the states of a batch."""
        for batch in self._drawn[:times]:
            found = self._states.read([("card", a.auth.card_token) for a in batch])
            self._etags = {a.auth.card_token: etag(s) for a, s in zip(batch, found, strict=True)}

    async def swap(self, times: int) -> None:
        """A featurizer's swap of the states read last, for their like."""
        state = bytes(self._size)
        for _ in range(times):
            done = self._states.write(
                [StateUpdate("card", key, was, state, AT_US) for key, was in self._etags.items()]
            )
            assert all(done)

    async def advance(self, times: int) -> None:
        """The watermark moved in each of the partitions."""
        for _ in range(times):
            known = {("decisions.v1", p): self._applied for p in range(PARTITIONS)}
            self._applied += 1
            self._mark.advance(known, dict.fromkeys(known, self._applied))


async def timed(store: Store, work: Timed, times: int) -> tuple[float, float, float]:
    """Wall time, own processor time and the servers' of one, us."""
    theirs, wall, cpu = store.cpu_s(), time.perf_counter(), time.process_time()
    await work(times)
    spent, taken = time.process_time() - cpu, time.perf_counter() - wall
    return taken / times * 1e6, spent / times * 1e6, (store.cpu_s() - theirs) / times * 1e6


async def measure(urls: dict[str, str], cards: int, args: argparse.Namespace) -> None:
    """One line a store and thing."""
    draw = random.Random(cards)
    stores = {name: Store(url, cards, args.batch, args.bytes, draw) for name, url in urls.items()}
    for store in stores.values():
        await store.online.open()
    batch = args.batch
    asked = [(cards, "")] + [(AMONG, f", among {AMONG:,}")] * (cards > AMONG)
    rows: list[tuple[str, int, int, int, Callable[[Store], Timed], Sequence[str]]] = [
        ("one arrival", 1, 400, cards, lambda s: s.observe, [*stores]),
        *(
            (f"one arrival of {batch}{says}", batch, 8, among, lambda s: s.observe, [*stores])
            for among, says in asked
        ),
        ("one arrival by redis-py", 1, 100, cards, lambda s: s.by_redis_py, ["cluster"]),
        *(
            (f"a state of {batch} read{says}", batch, 8, among, lambda s: s.read, [*stores])
            for among, says in asked
        ),
        (f"a state of {batch} swapped", batch, 8, cards, lambda s: s.swap, [*stores]),
        (f"watermark, {PARTITIONS} partitions", 1, 100, cards, lambda s: s.advance, [*stores]),
    ]
    for what, size, times, among, of, names in rows:
        taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
        for _ in range(args.rounds):
            for name, found in taken.items():
                stores[name].draw(size, times, among)
                found.append(await timed(stores[name], of(stores[name]), times))
        for name, rounds in taken.items():
            wall, ours, theirs = (statistics.median(r[i] for r in rounds) / size for i in range(3))
            print(
                f"{cards:>10,} states  {name:<8} {what:<36} {wall:7.1f} us, {ours:6.1f} of our "
                f"CPU, {theirs:6.1f} of the store's",
                flush=True,
            )
    for store in stores.values():
        await store.close()


def main() -> None:
    """See the module."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--keys", type=int, default=1_000_000)
    asked.add_argument("--bytes", type=int, default=409)
    asked.add_argument("--batch", type=int, default=500)
    asked.add_argument("--rounds", type=int, default=7)
    args = asked.parse_args()
    steps = [10**power for power in range(5, 10) if 10**power <= args.keys] or [args.keys]
    with (
        EmbeddedStore() as single,
        StoreCluster(replicas=False, cluster_node_timeout=NODE_TIMEOUT_MS) as cluster,
    ):
        urls = {"single": single.url, "cluster": cluster.url}
        empty = {}
        for name, url in urls.items():
            mark = RedisWatermark(url)
            mark.initialise()
            mark.close()
            empty[name] = memory(url)
        done = 0
        for step in steps:
            for url in urls.values():
                fill(url, done, step, bytes(args.bytes))
            done = step
            for name, url in urls.items():
                each = (memory(url) - empty[name]) / step
                print(
                    f"{step:>10,} states  {name:<8} {each:.0f} bytes of memory a state of "
                    f"{args.bytes}",
                    flush=True,
                )
            asyncio.run(measure(urls, step, args))


if __name__ == "__main__":
    main()
