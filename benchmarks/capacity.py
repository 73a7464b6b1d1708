"""What a decision costs each part, and whether ``sluice size`` says so before it is measured.

All services work at once, one of each, with a broker and a store, as in a deployment. Unit costs
are taken at three loads: a backlog, in full batches; a few a second, in small ones; and through the
sync API. The check is another bank, with another past and at other rates: what these unit costs say
of it, beside what is measured. Both in turns, ROUNDS times, so that what else the machine does is
in both; published are the means.

    python -m benchmarks.capacity           # unit costs and check, ten minutes
    python -m benchmarks.capacity --states  # bytes of states, with no service
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import redis

from benchmarks.featurizer import EVENTS
from benchmarks.freshness import Load
from benchmarks.processes import MEASURED, cpu_s, on, wait_until
from benchmarks.report import Result, Row, machine, result, row, save, table
from benchmarks.stream_processor import SAMPLE_S, Drained, watch
from benchmarks.testbed import PARTITIONS, Scale, Testbed
from local import metrics_page
from local.stack import Name, Process, Stack
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.layout import COMPILED
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.application.sizing.model import (
    FEW_PER_S,
    SERVICES,
    UnitCosts,
    cores,
    full_cores,
    state_bytes,
)
from sluice.application.sizing.model import Load as Asked
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
ROUNDS = 2
WARM_UP = 5_000
"""Of a backlog, before anything is counted: the first batches of a process cost more."""
WARM_S, STEADY_S = 5, 20
CHECKED_PER_S = dict.fromkeys(FEW_PER_S, 600)
"""Of the check, where unit costs are of FEW_PER_S."""
KEPT_UP = 0.02
"""Of the rate, how far what is decided may be from it."""
CAUGHT_UP_MAX_S = 120.0
ROLL_S = 10
"""So that STEADY_S is files of twice that time."""
IDLE_S = 5
"""After a start: it has its partitions and found nothing in them."""
DECIDED, DEGRADED = "sluice_decider_requests_total", "sluice_decider_degraded_total"
DEGRADED_MAX = 0.01
DONE: Mapping[str, str] = {
    "decider-stream": DECIDED,
    "decider-sync": DECIDED,
    "featurizer": EVENTS,
    "archiver": "sluice_archiver_rows_total",
    "auditor": "sluice_auditor_size",
}
FOLLOWERS: Sequence[Name] = ("featurizer", "auditor", "archiver")
"""Of an entrypoint. The archiver last: its rows count when a file is closed."""


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


def observed(testbed: Testbed, count: int) -> int:
    """Observations that the first of the traffic make: terminal, merchant, and a device where there
    is one."""
    return 2 * count + sum(testbed.traffic.remote[:count])


def wanted(testbed: Testbed, name: str, count: int) -> int:
    """How far a service has to come for the first of the traffic."""
    return count + observed(testbed, count) if name == "featurizer" else count


def stack_of(testbed: Testbed, store: EmbeddedStore, prefix: str) -> Stack:
    """All services of one run, over topics of their own."""
    stack = testbed.stack(store, prefix, SLUICE_ARCHIVER_ROLL_S=str(ROLL_S))
    stack.make_log_keys()
    return stack


def drained(testbed: Testbed, stack: Stack, server: Server, name: Name) -> tuple[Drained, Seconds]:
    """Let one service alone do all that waits for it."""
    around: list[Seconds] = []
    count = testbed.scale.messages
    with spending(testbed, server, around):
        with on(MEASURED):
            process = stack.start(name)
        found = watch(
            process,
            lambda: process.metric(DONE[name]),
            wanted(testbed, name, count),
            testbed.folder,
            whole=True,
        )
        stack.stop(name)
    return found, Seconds(found.cpu_s / count, around[0].store / count, around[0].broker / count)


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


@contextmanager
def deployed(testbed: Testbed, prefix: str, entrypoint: Name) -> Iterator[tuple[Stack, Server]]:
    """One of each service, over topics of this prefix, ready and with nothing to do."""
    testbed.topics(prefix)
    with testbed.store() as store, stack_of(testbed, store, prefix) as stack:
        for name in (entrypoint, *FOLLOWERS):
            stack.wait_ready(stack.start(name))
        time.sleep(IDLE_S)
        yield stack, Server(store)


@dataclass(frozen=True)
class Spent:
    """us: processor time a decision, by part. batch: decisions of one, by service. rate: decisions
    a second. rows: further figures."""

    us: dict[str, float]
    batch: dict[str, float]
    rate: float
    rows: list[Row]


class Meter:
    """What all parts spend from here on."""

    def __init__(self, testbed: Testbed, stack: Stack, server: Server) -> None:
        self._others = {
            "store": int(server.figures()["process_id"]), "broker": broker_pid(testbed)
        }  # fmt: skip
        self._processes = stack.processes
        self._before, self._cpu, self._at = self._metrics(), self._cpu_s(), time.perf_counter()

    def _cpu_s(self) -> dict[str, float]:
        pids = {name: process.popen.pid for name, process in self._processes.items()}
        return {part: cpu_s(pid) for part, pid in (pids | self._others).items()}

    def _metrics(self) -> dict[tuple[str, str], float]:
        pages = {name: process.metrics() for name, process in self._processes.items()}
        return {
            (name, metric): metrics_page.total(page, metric)
            for name, page in pages.items()
            for metric in (BATCHES, DECIDED, DEGRADED)
        }

    def read(self) -> Spent:
        """Until now, for each decision of the entrypoint, the first of the services. Raises
        RuntimeError where many lacked a part, for those cost less."""
        seconds, cpu, metrics = time.perf_counter() - self._at, self._cpu_s(), self._metrics()
        found = {key: metrics[key] - before for key, before in self._before.items()}
        entrypoint = next(iter(self._processes))
        count = found[entrypoint, DECIDED]
        if found[entrypoint, DEGRADED] > DEGRADED_MAX * count:
            raise RuntimeError(f"{found[entrypoint, DEGRADED]:.0f} parts missing of {count:.0f}")
        spent = Spent(
            {part: 1e6 * (cpu[part] - before) / count for part, before in self._cpu.items()},
            {
                name: count / found[name, BATCHES]
                for name in self._processes
                if found[name, BATCHES]
            },
            count / seconds,
            [],
        )
        print(spent, flush=True)
        return spent


def backlog(testbed: Testbed, prefix: str) -> Spent:
    """The traffic lies there at once, after some of it to warm up, and goes through the stream
    processor."""
    count = testbed.scale.messages
    with deployed(testbed, prefix, "decider-stream") as (stack, server):
        testbed.preload(prefix, of=range(WARM_UP))
        through(testbed, stack, WARM_UP)
        meter, net = Meter(testbed, stack, server), server.figures()
        testbed.preload(prefix, of=range(WARM_UP, count))
        through(testbed, stack, count)
        spent, after = meter.read(), server.figures()
        rows = [
            row(f"store: bytes {way} it a decision", "B",
                (after[what] - net[what]) / (count - WARM_UP))
            for way, what in (
                ("to", "total_net_input_bytes"),
                ("from", "total_net_output_bytes"),
            )
        ]  # fmt: skip
        rows += sizes(testbed, stack, prefix)
        rows.append(row("store: bytes of an id that is remembered", "B", server.forget_answers()))
    return replace(spent, rows=rows)


def steady(testbed: Testbed, prefix: str, entrypoint: Name, rate: float) -> Spent:
    """So many a second, open loop, through an entrypoint, for STEADY_S. Raises RuntimeError if it
    did not keep up."""
    topic = Topics(prefix).authorizations if entrypoint == "decider-stream" else ""
    with deployed(testbed, prefix, entrypoint) as (stack, server):
        load = Load(testbed, stack, topic, rate, WARM_S + STEADY_S + 1)
        load.start()
        load.seen.set()
        time.sleep(WARM_S)
        meter = Meter(testbed, stack, server)
        time.sleep(STEADY_S)
        spent = meter.read()
        load.join()
        through(testbed, stack, load.count)
    if abs(spent.rate / rate - 1) > KEPT_UP:
        raise RuntimeError(f"{entrypoint}: {spent.rate:.0f}/s decided of {rate:g}/s")
    return spent


def through(testbed: Testbed, stack: Stack, count: int) -> None:
    """Return when all services have done the first of the traffic."""
    for name, process in stack.processes.items():
        due = wanted(testbed, name, count)
        wait_until(
            lambda p=process, m=DONE[name], d=due: p.metric(m) >= d,  # type: ignore[misc]
            f"{name} is through",
            CAUGHT_UP_MAX_S,
            every_s=SAMPLE_S,
        )


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


def warmed(testbed: Testbed) -> None:
    """Make all that is needed before anything is timed, and let the broker's compiler see it."""
    testbed.states, testbed.traffic, testbed.bootstrap  # noqa: B018
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
        warmed(testbed)
        about = machine()
        rows, notes = measure(testbed)
    return published(result(name, command, about, rows, notes))


def published(found: Result) -> int:
    """Leave benchmarks/results/NAME.json, show it."""
    save(Path("benchmarks/results"), found)
    print(table(found), flush=True)
    return 0


PARTS: Mapping[str, str] = {
    "decider-stream": "stream processor",
    "decider-sync": "sync API",
    "featurizer": "featurizer",
    "archiver": "archiver",
    "auditor": "auditor",
    "store": "store",
    "broker": "brokers",
}
"""What the model calls them."""


def loads(
    testbed: Testbed, prefix: str, few: Mapping[str, float]
) -> Iterator[tuple[str, Spent, float]]:
    """Three loads, each with its name, what it spent, and the share of the sync API. few: decisions
    a second, by entrypoint."""
    yield "full batches", backlog(testbed, f"{prefix}full-"), 0.0
    spent = steady(testbed, f"{prefix}few-", "decider-stream", few["stream"])
    yield f"{few['stream']}/s", spent, 0.0
    spent = steady(testbed, f"{prefix}sync-", "decider-sync", few["sync"])
    yield f"{few['sync']}/s through the sync API", spent, 1.0


def units(testbed: Testbed, prefix: str) -> list[Row]:
    """What a decision costs each part."""
    rows: list[Row] = []
    for how, spent, _ in loads(testbed, prefix, FEW_PER_S):
        rows += [row(f"{part}: CPU a decision, {how}", "µs", us) for part, us in spent.us.items()]
        rows += _pace(how, spent) + spent.rows
    return rows


def check(testbed: Testbed, costs: UnitCosts, prefix: str) -> list[Row]:
    """What these unit costs predict, beside what is measured.

    Each row's baseline is the prediction, its ratio measured over predicted.
    """
    rows: list[Row] = []
    for how, spent, sync_share in loads(testbed, prefix, CHECKED_PER_S):
        asked = Asked(tps=spent.rate, cards=1, terminals=1, sync_share=sync_share, replicas=1)
        full = how == "full batches"
        pods = full_cores(asked, costs) if full else dict.fromkeys(SERVICES, 1.0)
        need = cores(asked, costs, pods)
        rows += [
            _against(f"{part}: CPU a decision, {how}", "µs", us,
                     1e6 * need[PARTS[part]] / spent.rate)
            for part, us in spent.us.items()
        ]  # fmt: skip
        rows += _pace(how, spent)
        for one in spent.rows:
            predicted = next(c.value for c in costs.costs.values() if c.row == one.name)
            rows.append(_against(one.name, one.unit, one.value, predicted))
    return rows


def _pace(how: str, spent: Spent) -> list[Row]:
    return [
        *(row(f"{name}: decisions of a batch, {how}", "", of) for name, of in spent.batch.items()),
        row(f"decisions a second, {how}", "1/s", spent.rate),
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


def _cpu(testbed: Testbed, server: Server, stack: Stack) -> dict[str, float]:
    found: dict[str, float] = {n: cpu_s(p.popen.pid) for n, p in stack.processes.items()}
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


def mean(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of several rounds: the mean of each."""
    rows = []
    for rounds in zip(*runs, strict=True):
        value = float(np.mean([one.value for one in rounds]))
        said = [one.baseline for one in rounds if one.baseline is not None]
        name, unit = rounds[0].name, rounds[0].unit
        rows.append(
            _against(name, unit, value, float(np.mean(said))) if said else row(name, unit, value)
        )
    return rows


def _spread(runs: Sequence[Sequence[Row]]) -> list[str]:
    """Processor time in each round: rows are the means."""
    return [
        f"{rounds[0].name}, by round: " + ", ".join(f"{one.value:g}" for one in rounds)
        for rounds in zip(*runs, strict=True)
        if rounds[0].unit == "µs"
    ]


def _notes(testbed: Testbed) -> list[str]:
    kept = Counter(one.entity for one in testbed.states)
    return [
        testbed.release[2],
        f"{about_bank(testbed)}; states before: "
        + ", ".join(f"{number:,} of {entity}s" for entity, number in kept.items()),
        f"a backlog of {testbed.scale.messages - WARM_UP:,} authorizations after {WARM_UP:,} that "
        f"are not counted; at a rate: {STEADY_S} s after {WARM_S} s; {PARTITIONS} partitions, one "
        "of each service, one broker, one store on two cores",
    ]


def main() -> int:
    """Measure, write benchmarks/results/capacity.json and capacity_check.json, with --states
    capacity_states.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", action="store_true", help="bytes of states, with no service")
    command = "python -m benchmarks.capacity"
    if parser.parse_args().states:
        about = machine()
        with Testbed(STATES[0]) as testbed, Testbed(STATES[1]) as other:
            rows, notes = states(testbed, other)
        return published(result("capacity_states", f"{command} --states", about, rows, notes))
    measured: list[list[Row]] = []
    compared: list[list[Row]] = []
    with Testbed(UNITS) as testbed, Testbed(CHECK) as other:
        for one in (testbed, other):
            warmed(one)
        about = machine()
        held = _state_rows(testbed)
        for turn in range(ROUNDS):
            measured.append(units(testbed, f"units{turn}-"))
            compared.append(check(other, costs_from([*measured[-1], *held]), f"check{turn}-"))
            notes = [*_notes(testbed), *_spread(measured)]
            published(result("capacity", command, about, mean(measured) + held, notes))
            notes = [
                *_notes(other),
                "baseline: what the unit costs of the same round predict",
                *_spread(compared),
            ]
            published(result("capacity_check", command, about, mean(compared), notes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
