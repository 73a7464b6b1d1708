"""What a read of the online store costs as it grows, and in a cluster.

``python -m benchmarks.store`` fills one server and a cluster of three in steps up to --keys states
of --bytes each, and times a decider's reads of one arrival and of --batch, single and cluster in
turns. Prints medians of --rounds, and the servers' memory for a million states.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Sequence

from sluice.adapters.layout import COMPILED, encode_state, encode_timestamp
from sluice.adapters.redis.blocking_cluster import blocking
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.online import RedisOnlineStore
from sluice.adapters.redis.watermark import RedisWatermark
from sluice.application.ports import Arrival
from sluice.domain.clock import SystemClock
from sluice.domain.features.events import event_row
from sluice.domain.records.authorization import Authorization, Channel
from tests.support.store_cluster import StoreCluster

WRITTEN_AT_ONCE = 2000
CARDS_A_TERMINAL = 20
CHANNEL = Channel.POS
FILL_MAX_S = 300.0
"""A busy machine may stop us for minutes."""


def fill(url: str, first: int, last: int, state: bytes) -> None:
    """Write the states of cards first to last, as the featurizer's layout has them."""
    server = blocking(url, timeout_s=FILL_MAX_S)
    value, at = encode_state(state), encode_timestamp(1_780_000_000_000_000)
    view = COMPILED["card"]
    for begin in range(first, last, WRITTEN_AT_ONCE):
        keys = [view.key(f"c{i}") for i in range(begin, min(begin + WRITTEN_AT_ONCE, last))]
        server.each([pack(b"HSET", k, view.field, value, view.ts_field, at) for k in keys], keys)
    server.close()


def memory(url: str) -> int:
    """Bytes that all nodes use."""
    server = blocking(url, timeout_s=FILL_MAX_S)
    used = 0
    for node in server.everywhere:
        (told,) = node.call(pack(b"INFO", b"memory"), 1)
        lines = told.decode().splitlines()
        used += int(next(line for line in lines if line.startswith("used_memory:")).split(":")[1])
    server.close()
    return used


def arrivals(count: int, cards: int, draw: random.Random) -> list[Arrival]:
    """Of cards drawn evenly, each with an id never seen."""
    made = []
    for _ in range(count):
        card = draw.randrange(cards)
        auth = Authorization(
            authorization_id=f"b-{draw.getrandbits(64):x}",
            event_at=1_780_000_000_000_000,
            card_token=f"c{card}",
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


async def timed(store: RedisOnlineStore, batches: Sequence[list[Arrival]]) -> tuple[float, float]:
    """Wall and own CPU time of a batch, us."""
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        for reply in await store.observe(batch):
            assert reply.card, "a card was filled, and is not served"
    count = len(batches)
    spent = time.process_time() - cpu
    return (time.perf_counter() - wall) / count * 1e6, spent / count * 1e6


async def measure(urls: dict[str, str], cards: int, args: argparse.Namespace) -> None:
    """One line a store and size of batch."""
    draw = random.Random(cards)
    stores = {
        name: RedisOnlineStore(url, SystemClock(), budget_s=5.0, in_progress_ttl_s=1.0)
        for name, url in urls.items()
    }
    for store in stores.values():
        await store.open()
    for size, calls in ((1, 400), (args.batch, 8)):
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in stores}
        for _ in range(args.rounds):
            for name, store in stores.items():
                batches = [arrivals(size, cards, draw) for _ in range(calls)]
                taken[name].append(await timed(store, batches))
        for name, rounds in taken.items():
            wall, cpu = (statistics.median(r[i] for r in rounds) / size for i in (0, 1))
            print(
                f"{cards:>10,} states  {name:<8} batch {size:>4}: "
                f"{wall:7.1f} us an arrival, {cpu:6.1f} of our CPU",
                flush=True,
            )
    for store in stores.values():
        await store.close()


def main() -> None:
    """See the module."""
    told = argparse.ArgumentParser(description=__doc__)
    told.add_argument("--keys", type=int, default=1_000_000)
    told.add_argument("--bytes", type=int, default=64)
    told.add_argument("--batch", type=int, default=500)
    told.add_argument("--rounds", type=int, default=7)
    args = told.parse_args()
    steps = [10**power for power in range(5, 10) if 10**power <= args.keys] or [args.keys]
    with (
        EmbeddedStore() as single,
        StoreCluster(replicas=False, cluster_node_timeout=60_000) as cluster,
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
                    f"{step:>10,} states  {name:<8} {each:.0f} bytes of memory a state", flush=True
                )
            asyncio.run(measure(urls, step, args))


if __name__ == "__main__":
    main()
