"""What a decision costs as a function of the share of traffic that the hottest entity has.

The same traffic with the same bank, but that a share of it names one terminal, one merchant or one
card. Every service with a real Kafka and a real store, one service at a time on its core.

    python -m benchmarks.hot_key
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import msgspec

from benchmarks.capacity import Seconds, Server, drained, measured, observed, stack_of, topic_bytes
from benchmarks.report import Row, row
from benchmarks.testbed import PARTITIONS, Scale, Testbed, Traffic
from sluice.adapters.kafka.topics import Topics
from sluice.domain.records.authorization import Authorization, encode
from sluice.domain.records.entity import EntityKind

SCALE = Scale(cards=60_000, history_days=12, requests=30_000, messages=30_000)
FIELDS = {"terminal": "terminal_id", "merchant": "merchant_id", "card": "card_token"}
CASES: tuple[tuple[EntityKind, int], ...] = (
    ("terminal", 1),
    ("merchant", 10),
    ("merchant", 50),
    ("card", 1),
    ("card", 10),
)
"""Entity and percent."""
_decode = msgspec.json.Decoder(Authorization).decode


def hot(traffic: Traffic, entity: EntityKind, percent: int) -> tuple[Traffic, str]:
    """The traffic with so many of a hundred of one entity: the first that it names."""
    auths: list[Authorization] = [_decode(value) for value in traffic.values]
    name = FIELDS[entity]
    chosen: str = getattr(auths[0], name)
    turned = [
        msgspec.structs.replace(auth, **{name: chosen}) if 100 - number % 100 <= percent else auth
        for number, auth in enumerate(auths)
    ]
    return replace(
        traffic,
        keys=[auth.card_token.encode() for auth in turned],
        values=[encode(auth) for auth in turned],
    ), chosen


def measure(testbed: Testbed) -> tuple[list[Row], list[str]]:
    """None hot, each case, none hot again."""
    plain = testbed.traffic
    rows: list[Row] = [*_run(testbed, "none hot", None)]
    for entity, percent in CASES:
        testbed.traffic, chosen = hot(plain, entity, percent)
        rows += _run(testbed, f"{percent} % of one {entity}", (entity, chosen))
    testbed.traffic = plain
    rows += _run(testbed, "none hot, again", None)
    count = testbed.scale.messages
    return rows, [
        testbed.release[2],
        f"{count:,} authorizations, {observed(testbed, count):,} observations, "
        f"{PARTITIONS} partitions; backlogs, so batches are full",
    ]


def _run(testbed: Testbed, case: str, one: tuple[EntityKind, str] | None) -> Iterator[Row]:
    prefix = case.replace(" ", "-").replace("%", "pc").replace(",", "") + "-"
    count = testbed.scale.messages
    spent: dict[str, Seconds] = {}
    with testbed.store() as store:
        server = Server(store)
        testbed.preload(prefix)
        with stack_of(testbed, store, prefix) as stack:
            for name in ("decider-stream", "featurizer"):
                _, spent[name] = drained(testbed, stack, server, name)
        size = server.state_bytes(*one) if one else None
    for name, seconds in spent.items():
        yield row(f"{case}: {name}, CPU a decision", "µs", 1e6 * seconds.service)
        yield row(f"{case}: store for {name}, CPU a decision", "µs", 1e6 * seconds.store)
    for topic in (Topics(prefix).decisions, Topics(prefix).observations):
        sizes = [topic_bytes(testbed, topic, [n]) for n in range(PARTITIONS)]
        yield row(f"{case}: largest partition of {topic.removeprefix(prefix)} to the mean", "",
                  max(sizes) * PARTITIONS / sum(sizes))  # fmt: skip
        yield row(f"{case}: bytes of {topic.removeprefix(prefix)} a decision", "B",
                  sum(sizes) / count)  # fmt: skip
    if size is not None:
        yield row(f"{case}: bytes of its state", "B", size)


def main() -> int:
    """Measure, write benchmarks/results/hot_key.json."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    return measured(SCALE, measure, "hot_key", "python -m benchmarks.hot_key")


if __name__ == "__main__":
    raise SystemExit(main())
