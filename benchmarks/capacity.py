"""What a decision costs each part, and whether ``sluice size`` says so before it is measured.

Unit costs: each service drains the same topics alone on its core; broker, store and disk are looked
at around it. The check: another bank, larger and with another past, all services at once, what the
model says of it beside what is measured.

    python -m benchmarks.capacity           # unit costs, two minutes
    python -m benchmarks.capacity --check   # and whether they hold for another bank
    python -m benchmarks.capacity --states  # bytes of states, with no service
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import redis

from benchmarks.featurizer import EVENTS
from benchmarks.processes import MEASURED, cpu_s, on, wait_until
from benchmarks.report import Result, Row, machine, result, row, save, table
from benchmarks.stream_processor import SAMPLE_S, Drained, watch
from benchmarks.testbed import PARTITIONS, Scale, Testbed
from local.stack import Name, Process, Stack
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.layout import COMPILED
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.application.sizing.model import UnitCosts, state_bytes
from sluice.bootstrap.services import store_at
from sluice.cli.size import unit_costs
from sluice.domain.records.entity import ENTITY_KINDS, EntityKind

BATCHES = "sluice_consumer_batches_total"
WARM = Scale(cards=4_000, history_days=2, requests=20_000, messages=20_000, replays=1)
"""For the broker's compiler: its first seconds cost three times as much."""
UNITS = Scale(cards=60_000, history_days=12, requests=60_000, messages=60_000)
CHECK = Scale(cards=30_000, history_days=20, requests=40_000, messages=40_000)
STATES = (Scale(cards=6_000, history_days=35), Scale(cards=4_000, history_days=35))
"""As old as a state's longest window: the bank whose rates are taken, and the other."""
CAUGHT_UP_MAX_S = 120.0
ROLL_S = 5
ROWS = "sluice_archiver_rows_total"
IDLE_S = 5
"""After a start: it has its partitions and found nothing in them."""
DONE: Mapping[Name, str] = {
    "decider-stream": "sluice_decider_requests_total",
    "featurizer": EVENTS,
    "archiver": ROWS,
    "auditor": "sluice_auditor_size",
}


@dataclass(frozen=True)
class Seconds:
    """Processor time of one service and of what it asks meanwhile."""

    service: float
    store: float
    broker: float


class Server:
    """The store's own figures."""

    def __init__(self, store: EmbeddedStore) -> None:
        host, _, port = store.host_port.partition(":")
        self._client = redis.Redis(host=host, port=int(port))

    def figures(self) -> dict[str, float]:
        """``INFO``: process_id, used_memory, bytes in and out."""
        found: dict[str, float] = self._client.info()  # type: ignore[assignment]
        return found

    def state_bytes(self, entity: EntityKind, key: str) -> int:
        """Of one entity's state, as it is stored."""
        view = COMPILED[entity]
        found = self._client.execute_command("HGET", view.key(key), view.field)  # type: ignore[no-untyped-call]
        return len(found)

    def forget_answers(self) -> float:
        """Delete the ids' records. Returns the bytes that each took."""
        some = list(self._client.scan_iter(b"sluice:idempotency:*", count=10_000))
        before = self.figures()["used_memory"]
        for at in range(0, len(some), 1000):
            self._client.delete(*some[at : at + 1000])
        return (before - self.figures()["used_memory"]) / len(some)


def broker_pid(testbed: Testbed) -> int:
    """The broker's process."""
    _ = testbed.bootstrap
    return int((testbed.folder / "kafka/broker.pid").read_text())


@contextmanager
def spending(testbed: Testbed, server: Server, into: list[Seconds]) -> Iterator[None]:
    """Append what store and broker spend inside; the service's own is filled in by the caller."""
    pids = (int(server.figures()["process_id"]), broker_pid(testbed))
    before = [cpu_s(pid) for pid in pids]
    yield
    after = [cpu_s(pid) for pid in pids]
    into.append(Seconds(0.0, after[0] - before[0], after[1] - before[1]))


def observed(testbed: Testbed) -> int:
    """Observations that the messages make: terminal, merchant, and a device where there is one."""
    count = testbed.scale.messages
    return 2 * count + sum(testbed.traffic.remote[:count])


def wanted(testbed: Testbed, name: Name) -> int:
    """How far a service has to come for all messages."""
    count = testbed.scale.messages
    return count + observed(testbed) if name == "featurizer" else count


def stack_of(testbed: Testbed, store: EmbeddedStore, prefix: str) -> Stack:
    """All services of one run, over topics of their own."""
    stack = testbed.stack(store, prefix, SLUICE_ARCHIVER_ROLL_S=str(ROLL_S))
    stack.make_log_keys()
    return stack


def drained(testbed: Testbed, stack: Stack, server: Server, name: Name) -> tuple[Drained, Seconds]:
    """Let one service alone do all that waits for it."""
    around: list[Seconds] = []
    with spending(testbed, server, around):
        with on(MEASURED):
            process = stack.start(name)
        found = watch(
            process,
            lambda: process.metric(DONE[name]),
            wanted(testbed, name),
            testbed.folder,
            whole=True,
        )
        stack.stop(name)
    count = testbed.scale.messages
    return found, Seconds(found.cpu_s / count, around[0].store / count, around[0].broker / count)


def archived(testbed: Testbed, stack: Stack, server: Server) -> Seconds:
    """The archiver alone. It counts rows by whole files, so its start is taken away instead: what
    a second start, with nothing to do, costs."""
    around: list[Seconds] = []
    count = testbed.scale.messages
    with spending(testbed, server, around):
        with on(MEASURED):
            process = stack.start("archiver")
        stack.wait_ready(process)
        wait_until(
            lambda: process.metric(ROWS) >= count,
            "all is archived",
            CAUGHT_UP_MAX_S,
            every_s=SAMPLE_S,
        )
        whole = cpu_s(process.popen.pid)
        stack.stop("archiver")
    with on(MEASURED):
        process = stack.start("archiver")
    time.sleep(IDLE_S)
    start = cpu_s(process.popen.pid)
    stack.stop("archiver")
    return Seconds((whole - start) / count, 0.0, around[0].broker / count)


def look(testbed: Testbed, server: Server, processes: Sequence[Process]) -> tuple[float, ...]:
    """Processor time of these, of the store and of the broker so far, and the time."""
    own = sum(cpu_s(process.popen.pid) for process in processes)
    store, broker = int(server.figures()["process_id"]), broker_pid(testbed)
    return own, cpu_s(store), cpu_s(broker), time.perf_counter()


def bytes_of(folder: Path, pattern: str) -> int:
    """Of all files below a folder that a pattern names."""
    return sum(one.stat().st_size for one in folder.rglob(pattern) if one.is_file())


def topic_bytes(testbed: Testbed, topic: str, numbers: Iterable[int] = range(PARTITIONS)) -> int:
    """Of some partitions' segments, one replica, without their indexes."""
    logs = testbed.folder / "kafka/logs"
    return sum(bytes_of(logs / f"{topic}-{n}", "*.log") for n in numbers)


def units(testbed: Testbed) -> tuple[list[Row], list[str]]:
    """Every service in turn."""
    count = testbed.scale.messages
    rows: list[Row] = []
    with testbed.store() as store:
        server = Server(store)
        testbed.preload("units-")
        with stack_of(testbed, store, "units-") as stack:
            for name in DONE:
                before = server.figures()
                spent = (
                    archived(testbed, stack, server)
                    if name == "archiver"
                    else drained(testbed, stack, server, name)[1]
                )
                after = server.figures()
                rows += [
                    row(f"{name}: CPU a decision", "µs", 1e6 * spent.service),
                    row(f"{name}: CPU of the broker a decision", "µs", 1e6 * spent.broker),
                ]
                if name in ("decider-stream", "featurizer"):
                    rows += [
                        row(f"{name}: CPU of the store a decision", "µs", 1e6 * spent.store),
                        *(
                            row(f"{name}: bytes {way} the store a decision", "B",
                                (after[what] - before[what]) / count)
                            for way, what in (
                                ("to", "total_net_input_bytes"),
                                ("from", "total_net_output_bytes"),
                            )
                        ),
                    ]  # fmt: skip
            rows += sizes(testbed, stack, "units-")
        rows.append(row("store: bytes of an id that is remembered", "B", server.forget_answers()))
    rows += _state_rows(testbed)
    kept = Counter(one.entity for one in testbed.states)
    return rows, [
        testbed.release[2],
        f"{count:,} authorizations, {observed(testbed) / count:.2f} observations each, "
        f"{PARTITIONS} partitions, one broker, one store; states before: "
        + ", ".join(f"{number:,} of {entity}s" for entity, number in kept.items()),
        "each service drains a backlog alone on one core, so its batches are full: at less than "
        "its full rate a decision costs more",
    ]


def _state_rows(testbed: Testbed) -> list[Row]:
    """What the store takes for a state beside its bytes: key, hash, time, the table's slots."""
    rows = []
    for entity in ENTITY_KINDS:
        some = [one for one in testbed.states if one.entity == entity]
        with EmbeddedStore() as store:
            server = Server(store)
            before = server.figures()["used_memory"]
            states = store_at(store.url).states()
            states.write(some)
            states.close()
            held = server.figures()["used_memory"] - before
        own = sum(len(one.state) for one in some)
        rows += [
            row(f"store: bytes of a {entity}'s state", "B", own / len(some)),
            row(
                f"store: bytes beside a {entity}'s state, key and hash",
                "B",
                (held - own) / len(some),
            ),
        ]
    return rows


def sizes(testbed: Testbed, stack: Stack, prefix: str) -> list[Row]:
    """Bytes a decision, of topics, archive and log."""
    count = testbed.scale.messages
    names = Topics(prefix)
    return [
        *(
            row(f"broker: bytes a decision in {topic.removeprefix(prefix)}, one replica",
                "B", topic_bytes(testbed, topic) / count)
            for topic in (names.authorizations, names.decisions, names.observations)
        ),
        row("archive: bytes a decision", "B",
            bytes_of(stack.folder / "archive", "*.parquet") / count),
        row("log: bytes a decision", "B", bytes_of(stack.folder / "log/0", "*") / count),
        row("keystore: bytes a card and quarter", "B",
            bytes_of(stack.folder / "keystore", "*") / len(set(testbed.traffic.keys[:count]))),
    ]  # fmt: skip


def warm(testbed: Testbed) -> None:
    """Let the broker's compiler see all of it once."""
    scale, testbed.scale = testbed.scale, WARM
    with testbed.store() as store:
        testbed.preload("warm-")
        with stack_of(testbed, store, "warm-") as stack:
            for name in ("decider-stream", "featurizer", "auditor"):
                drained(testbed, stack, Server(store), name)
    testbed.scale = scale


def measured(
    scale: Scale, measure: Callable[[Testbed], tuple[list[Row], list[str]]], name: str, command: str
) -> int:
    """Measure on a warm testbed of its own, leave benchmarks/results/NAME.json, show it."""
    with Testbed(scale) as testbed:
        testbed.states, testbed.traffic, testbed.bootstrap  # noqa: B018 - before anything is timed
        warm(testbed)
        about = machine()
        rows, notes = measure(testbed)
    return published(result(name, command, about, rows, notes))


def published(found: Result) -> int:
    """Leave benchmarks/results/NAME.json, show it."""
    save(Path("benchmarks/results"), found)
    print(table(found), flush=True)
    return 0


def check(testbed: Testbed) -> tuple[list[Row], list[str]]:
    """Another bank and all services at once: what unit costs predict, beside what is measured.

    Each row's baseline is the prediction, its ratio measured over predicted.
    """
    costs = unit_costs()
    count = testbed.scale.messages
    with testbed.store() as store:
        server = Server(store)
        testbed.topics("check-")
        with stack_of(testbed, store, "check-") as stack:
            for name in DONE:
                stack.wait_ready(stack.start(name))
            time.sleep(IDLE_S)
            before = _cpu(testbed, server, stack)
            testbed.preload("check-")
            began = time.perf_counter()
            for name, metric in DONE.items():
                process = stack.processes[name]
                wait_until(
                    lambda p=process, m=metric, n=name: p.metric(m) >= wanted(testbed, n),  # type: ignore[misc]
                    f"{name} is through",
                    CAUGHT_UP_MAX_S,
                    every_s=SAMPLE_S,
                )
            wall_s = time.perf_counter() - began
            after = _cpu(testbed, server, stack)
            batch = {name: count / stack.processes[name].metric(BATCHES) for name in DONE}
            found = {part: 1e6 * (after[part] - before[part]) / count for part in after}
            measured = sizes(testbed, stack, "check-")
    rows = [
        _against(f"{part}: CPU a decision", "µs", found[part], costs.of(*names))
        for part, names in PARTS.items()
    ]
    rows += [row(f"{name}: decisions of a batch", "", size) for name, size in batch.items()]
    for one in measured:
        predicted = next(
            (c.value for c in costs.costs.values() if c.row == one.name), None
        )  # fmt: skip
        if predicted is not None:
            rows.append(_against(one.name, one.unit, one.value, predicted))
    return rows, [
        f"another bank of {testbed.scale.cards:,} cards and "
        f"{testbed.scale.history_days} days, {count:,} authorizations at once, four services, "
        f"broker and store on two cores, {wall_s:.1f} s; baseline is what the unit costs predict",
    ]


def costs_from(rows: Iterable[Row]) -> UnitCosts:
    """The unit costs, with those that are measured here as these rows have them."""
    found = {one.name: one.value for one in rows}
    costs = unit_costs()
    return msgspec.structs.replace(
        costs,
        costs={
            name: msgspec.structs.replace(cost, value=found.get(cost.row, cost.value))
            for name, cost in costs.costs.items()
        },
    )


def states(testbed: Testbed, other: Testbed) -> tuple[list[Row], list[str]]:
    """How unevenly the entities of one bank are used, and what that says of another's states,
    beside what they take. Needs no service, and no quiet machine."""
    rows = [
        row(
            f"{entity}: geometric over arithmetic mean of rates",
            "",
            skew(rates_of(testbed, entity)),
        )
        for entity in ENTITY_KINDS
    ]
    costs = costs_from(rows)
    for entity in ENTITY_KINDS:
        some = [len(one.state) for one in other.states if one.entity == entity]
        rates = rates_of(other, entity)
        rows += [
            _against(f"a {entity}'s state, mean", "B", sum(some) / len(some),
                     state_bytes(costs, entity, float(rates.mean()))),
            row(f"a {entity}'s authorizations a day, mean", "1/d", float(rates.mean())),
        ]  # fmt: skip
    return rows, [
        f"{about_bank(testbed)} for the means of rates; states of {about_bank(other)}",
        "entities without an authorization in that time are in neither",
    ]


def about_bank(testbed: Testbed) -> str:
    """Its size and age."""
    return f"a bank of {testbed.scale.cards:,} cards, {testbed.scale.history_days} days old"


def skew(rates: np.ndarray) -> float:
    """Geometric over arithmetic mean: 1 where all are equal, less the fewer are busy."""
    return float(np.exp(np.log(rates).mean()) / rates.mean())


PARTS: Mapping[str, tuple[str, ...]] = {
    "decider-stream": ("stream_cpu_us",),
    "featurizer": ("featurizer_cpu_us",),
    "archiver": ("archiver_cpu_us",),
    "auditor": ("auditor_cpu_us",),
    "store": ("store_stream_cpu_us", "store_featurizer_cpu_us"),
    "broker": (
        "broker_stream_cpu_us",
        "broker_featurizer_cpu_us",
        "broker_archiver_cpu_us",
        "broker_auditor_cpu_us",
    ),
}
"""Whose cost a decision is the sum of which unit costs."""


def _cpu(testbed: Testbed, server: Server, stack: Stack) -> dict[str, float]:
    found: dict[str, float] = {n: cpu_s(stack.processes[n].popen.pid) for n in DONE}
    found["store"] = cpu_s(int(server.figures()["process_id"]))
    return found | {"broker": cpu_s(broker_pid(testbed))}


def rates_of(testbed: Testbed, entity: str) -> np.ndarray:
    """(n,) authorizations a day of each such entity that the past names."""
    column = testbed.history_table["card_token" if entity == "card" else f"{entity}_id"]
    counts = column.drop_null().value_counts().field("counts").to_numpy()
    return counts / testbed.scale.history_days


def _against(name: str, unit: str, measured: float, predicted: float) -> Row:
    made = row(name, unit, measured)
    made.baseline, made.ratio = predicted, round(measured / predicted, 3)
    return made


def main() -> int:
    """Measure, write benchmarks/results/capacity.json, with --check or --states its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--check", action="store_true", help="the model against another bank")
    instead.add_argument("--states", action="store_true", help="bytes of states, with no service")
    asked = parser.parse_args()
    name = "capacity" + "_check" * asked.check + "_states" * asked.states
    command = (
        "python -m benchmarks.capacity" + " --check" * asked.check + " --states" * asked.states
    )
    if not asked.states:
        scale, measure = (CHECK, check) if asked.check else (UNITS, units)
        return measured(scale, measure, name, command)
    about = machine()
    with Testbed(STATES[0]) as testbed, Testbed(STATES[1]) as other:
        rows, notes = states(testbed, other)
    return published(result(name, command, about, rows, notes))


if __name__ == "__main__":
    raise SystemExit(main())
