"""From traffic to pods, memory, disk and euros, by unit costs that were measured.

Processor time is planned to ``utilisation`` of a core, memory to ``MEMORY_FULL``. A decision costs
least in full batches. A pod with time to spare works in small ones, and spends part of that time on
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated

import msgspec
from msgspec import Meta

from sluice.domain.features.states import PARTITIONS_MAX

SYNC_PER_POD = 1000
"""Authorizations a second that a sync API is planned with."""
FEW_PER_S = {"stream": 300, "sync": SYNC_PER_POD}
"""Decisions a second, by entrypoint, at which small batches were measured with a pod of each."""
FOLLOWERS = ("featurizer", "archiver", "auditor")
SERVICES = {
    "sync API": "sync",
    "stream processor": "stream",
    **{part: part for part in FOLLOWERS},
}
"""Those that work in batches, and what their unit costs begin with."""
MEMORY_FULL = 0.6
"""Of a store's node: the rest is for its buffers, fragments and a copy on write."""
HOURS_A_MONTH = 730
DAYS_A_MONTH = 30
DEVICES_PER_CARD = 1.25
"""Of the simulator's bank, whose states were measured."""
TERMINALS_PER_MERCHANT = 2
PARTITIONS_STEP = 12
SHARDS_MAX = 64
"""``auditor.shards``."""
STATE_SOURCES_MAX = 64
"""``cardstate.SOURCES_MAX``, whose module compiles: a verb's help must not wait for that."""
PARTITIONS_PLANNED_MAX = min(PARTITIONS_MAX, (STATE_SOURCES_MAX - 1) // 2)
"""A terminal's state keeps an offset for each partition of decisions and of labels, and one for a
backfill: STATE_SOURCES_MAX in all."""
SCALES = (1, 2, 5, 10)
GB = 1e9
SECONDS_A_DAY = 86_400

Positive = Annotated[float, Meta(gt=0)]


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure, and the row of the result that it is from."""

    value: Positive
    unit: str
    result: str
    row: str
    date: str


class UnitCosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``unit_costs.yaml``. states: (authorizations a day, bytes), rising, by entity."""

    machine: str
    costs: dict[str, Cost]
    states: dict[str, list[tuple[float, float]]]
    retention_days: dict[str, int]

    def of(self, *names: str) -> float:
        """Their sum."""
        return sum(self.costs[name].value for name in names)


class Instance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine that is rented."""

    instance: str
    cores: Annotated[int, Meta(ge=1)]
    memory_gib: Positive
    eur_hour: Positive


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``prices.yaml``, or a firm's own file of the same form."""

    says: str
    region: str
    date: str
    source: str
    pods: Instance
    store: Instance
    brokers: Instance
    disk_eur_gb_month: Positive
    object_eur_gb_month: Positive
    network_eur_gb: Positive


class Load(msgspec.Struct, frozen=True):
    """What is asked for. tps: authorizations a second at the peak. merchants: 0 derives them."""

    tps: float
    cards: float
    terminals: float
    merchants: float = 0
    average: float = 0.33
    """Mean rate over the peak's."""
    sync_share: float = 1.0
    replicas: int = 3
    """Of a topic."""
    archive_days: int = 730
    log_days: int = 1900
    utilisation: float = 0.5
    hottest: float = 0.01
    """Share of the hottest entity."""


class Line(msgspec.Struct, frozen=True):
    """One line of the answer: a part, how many of what, and how it comes to that."""

    part: str
    count: float
    unit: str
    why: str


class Wall(msgspec.Struct, frozen=True):
    """A limit that does not move by adding more of the same. share: of it, by scale of the load."""

    what: str
    shares: tuple[float, ...]
    then: str


class Plan(msgspec.Struct, frozen=True):
    """The answer."""

    lines: list[Line]
    euros: list[Line]
    walls: list[Wall]

    @property
    def total_eur(self) -> float:
        """A month."""
        return sum(line.count for line in self.euros)


def state_bytes(costs: UnitCosts, entity: str, per_day: float) -> float:
    """Mean bytes of a state where these entities have so many authorizations a day on average.

    Bytes rise with the logarithm of the rate, so their mean is that of an entity at the geometric
    mean of rates, which is lower: few are busy and most are not.
    """
    # A terminal's and a merchant's states have one form: a merchant is a busier terminal.
    points = (
        costs.states["terminal"] + costs.states["merchant"]
        if entity in ("terminal", "merchant")
        else costs.states[entity]
    )
    return between(points, per_day * costs.of(f"{entity}_skew"))


def between(points: Sequence[tuple[float, float]], per_day: float) -> float:
    """Bytes at a rate: between two points by the logarithm of the rate, outside them the nearest.

    >>> between([(1, 200), (100, 400)], 10)
    300.0
    """
    if per_day <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in pairwise(points):
        if per_day <= right:
            return low + (high - low) * math.log(per_day / left) / math.log(right / left)
    return points[-1][1]


def store_bytes(load: Load, costs: UnitCosts) -> dict[str, float]:
    """Memory of all states by entity, and of the answers that are remembered for an hour."""
    a_day = load.tps * load.average * SECONDS_A_DAY
    merchants = load.merchants or load.terminals / TERMINALS_PER_MERCHANT
    counts = {
        "card": load.cards,
        "device": load.cards * DEVICES_PER_CARD,
        "terminal": load.terminals,
        "merchant": merchants,
    }
    found = {
        entity: count * (state_bytes(costs, entity, a_day / count) + costs.of(f"{entity}_key_b"))
        for entity, count in counts.items()
    }
    return found | {"answer": load.tps * 3600 * costs.of("answer_b")}


def full_cores(load: Load, costs: UnitCosts) -> dict[str, float]:
    """Processor time a second, at the peak, of each service if all batches were full."""
    shares = {"sync API": load.sync_share, "stream processor": 1 - load.sync_share}
    return {
        part: load.tps * shares.get(part, 1) * costs.of(f"{name}_cpu_us") / 1e6
        for part, name in SERVICES.items()
    }


def pods_of(load: Load, costs: UnitCosts) -> dict[str, int]:
    """Pods of each service. Small batches take no room from them: they grow with the rate."""
    found = {
        part: max(1, math.ceil(need / load.utilisation))
        for part, need in full_cores(load, costs).items()
    }
    found["sync API"] = max(1, math.ceil(load.tps * load.sync_share / SYNC_PER_POD))
    if load.sync_share == 1:
        found.pop("stream processor")
    return found


def cores(load: Load, costs: UnitCosts, pods: Mapping[str, float]) -> dict[str, float]:
    """Processor time a second, at the peak, of each part, with so many pods of each service.

    Of the time that full batches leave to a service's pods, the part that goes to small ones is
    that which was measured at FEW_PER_S; so is what store and brokers spend on them.
    """
    full = full_cores(load, costs)
    spare = {part: pods.get(part, 0) - busy for part, busy in full.items()}

    def small(name: str, entry: str, parts: Sequence[str]) -> float:
        few = FEW_PER_S[entry] / 1e6
        more = few * (costs.of(f"{name}_few_{entry}_us") - costs.of(f"{name}_cpu_us"))
        left = sum(1 - few * costs.of(f"{SERVICES[part]}_cpu_us") for part in parts)
        return more * sum(spare[part] for part in parts) / left

    def mixed(name: str, *beside: str) -> float:
        ways = (("sync", "sync API", load.sync_share),
                ("stream", "stream processor", 1 - load.sync_share))  # fmt: skip
        return sum(
            share * small(name, entry, beside or (part, *FOLLOWERS)) for entry, part, share in ways
        )

    shared = {
        name: load.tps * costs.of(f"{name}_cpu_us") / 1e6 + mixed(name)
        for name in ("store", "broker")
    }
    return {
        "sync API": full["sync API"] + small("sync", "sync", ["sync API"]),
        "stream processor": full["stream processor"]
        + small("stream", "stream", ["stream processor"]),
        **{part: full[part] + mixed(part, part) for part in FOLLOWERS},
        "store": shared["store"],
        "brokers": load.replicas * shared["broker"],
    }


def topic_bytes(load: Load, costs: UnitCosts) -> dict[str, float]:
    """Bytes on the brokers' disks, one replica, by topic."""
    a_day = load.tps * load.average * SECONDS_A_DAY
    return {
        topic: a_day * days * costs.of(f"{topic}_b")
        * (1 - load.sync_share if topic == "authorizations" else 1)
        for topic, days in costs.retention_days.items()
    }  # fmt: skip


def size(load: Load, costs: UnitCosts, prices: Prices) -> Plan:
    """The whole answer."""
    pods = pods_of(load, costs)
    need = cores(load, costs, pods)
    bound = max(number for part, number in pods.items() if part != "sync API")
    partitions = math.ceil(bound / PARTITIONS_STEP) * PARTITIONS_STEP
    memory = store_bytes(load, costs)
    node = prices.store.memory_gib * 2**30 * MEMORY_FULL
    primaries = max(
        1,
        math.ceil(sum(memory.values()) / node),
        math.ceil(need["store"] / load.utilisation),
    )
    disk = load.replicas * sum(topic_bytes(load, costs).values())
    brokers = max(
        load.replicas, math.ceil(need["brokers"] / (load.utilisation * prices.brokers.cores))
    )
    stream = 1 - load.sync_share
    written = load.tps * (
        costs.of("decisions_b", "observations_b") + stream * costs.of("authorizations_b")
    )
    read = load.tps * (
        3 * costs.of("decisions_b")
        + costs.of("observations_b")
        + stream * costs.of("authorizations_b")
    )
    to_store = load.tps * costs.of("store_in_b", "store_out_b")
    a_day = load.tps * load.average * SECONDS_A_DAY
    archive = a_day * load.archive_days * costs.of("archive_b")
    log = a_day * load.log_days * costs.of("log_b")
    quarters = math.ceil(load.log_days / 91)
    keys = load.cards * quarters * costs.of("keystore_b")
    whole = math.ceil(sum(pods.values()) / (prices.pods.cores - 1))
    crossing = (written * load.replicas + read + to_store) * load.average * 2 / 3
    lines = [
        Line("partitions", partitions, "", f"for {bound} pods, in steps of {PARTITIONS_STEP}"),
        *(
            Line(part, number, "pods", f"{need[part]:.2f} cores busy at the peak")
            for part, number in sorted(pods.items())
        ),
        Line("machines for pods", whole, prices.pods.instance, "a core a pod, one core left"),
        *(
            Line(f"store: {entity}s", held / GB, "GB", "")
            for entity, held in memory.items()
        ),
        Line("store", 2 * primaries, prices.store.instance,
             f"{primaries} primaries with a replica each; one thread {need['store']:.2f} busy"),
        Line("brokers", brokers, prices.brokers.instance,
             f"{need['brokers']:.2f} cores busy, counting every replica as the first"),
        Line("brokers' disk", disk / GB, "GB", f"{load.replicas} replicas"),
        Line("brokers, written", written / 1e6, "MB/s", "before replication"),
        Line("brokers, read", read / 1e6, "MB/s", "by four services"),
        Line("store, both ways", to_store / 1e6, "MB/s", ""),
        Line("archive", archive / GB, "GB", f"{load.archive_days} days"),
        Line("compliance log", log / GB, "GB", f"{load.log_days} days"),
        Line("keystore", keys / GB, "GB", f"a key a card and quarter, {quarters} quarters"),
    ]  # fmt: skip

    def month(part: str, number: float, one: Instance) -> Line:
        return Line(part, number * one.eur_hour * HOURS_A_MONTH, "EUR", one.instance)

    euros = [
        month("machines for pods", whole, prices.pods),
        month("store", 2 * primaries, prices.store),
        month("brokers", brokers, prices.brokers),
        Line("disks", (disk + keys) / GB * prices.disk_eur_gb_month, "EUR",
             "brokers, keystore"),
        Line("objects", (archive + log) / GB * prices.object_eur_gb_month, "EUR",
             "archive and log when they are full"),
        Line("network between zones",
             crossing * SECONDS_A_DAY * DAYS_A_MONTH / GB * prices.network_eur_gb, "EUR",
             "two thirds of the traffic"),
    ]  # fmt: skip
    return Plan(lines, euros, _walls(load, need, costs, pods))


def _walls(
    load: Load, need: Mapping[str, float], costs: UnitCosts, pods: Mapping[str, int]
) -> list[Wall]:
    """What more of the same does not move, the nearest first."""
    bound = max(number for part, number in pods.items() if part not in ("sync API", "auditor"))
    # All rows of one entity are one partition's, so one featurizer's.
    row_us = costs.of("featurizer_cpu_us") / 3.3
    found = {
        "store, if it is one primary": (
            need["store"],
            "shards: a store of several primaries",
        ),
        "consumers, by partitions": (
            bound / PARTITIONS_PLANNED_MAX,
            f"two cells: a state keeps offsets of {PARTITIONS_PLANNED_MAX} partitions",
        ),
        "auditors, by shards": (pods["auditor"] / SHARDS_MAX, "two cells"),
        "hottest entity, one featurizer": (
            load.tps * load.hottest * row_us / 1e6,
            "nothing to add: its rows are one partition's",
        ),
    }
    walls = [
        Wall(what, tuple(scale * share for scale in SCALES), then)
        for what, (share, then) in found.items()
    ]
    return sorted(walls, key=lambda wall: -wall.shares[0])
