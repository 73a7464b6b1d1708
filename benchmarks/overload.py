"""What the sync API does under more than it can: ``python -m benchmarks.overload``.

Finds the most complete answers a second, then offers twice and five times as many, open loop, and
says what became of them, and how long it is felt afterwards. The peak is measured again on both
sides of each flood, after half a minute of the same load: what a decision costs grows with the
authorizations of its card in that time, and the machine has other guests.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.processes import MEASURED, OTHERS, cpu_s, memory_mb, on
from benchmarks.report import Row, machine, result, row, save, table
from benchmarks.testbed import FULL, QUICK, Testbed
from local import metrics_page
from services.decider.admission import PRIORITIES, priority

DEADLINE_MS = 50
TIMES = (2, 5)
CONNECTIONS = (32, 64, 128)
"""Of the closed loops, the best of which is the peak."""
CALM = 0.25
"""Of the peak: ordinary traffic after the flood."""
CALM_S = 8.0
PEAK_S = 6.0
"""Of a closed loop that looks for the peak."""
WARM_S = 30.0
"""Before one beside a flood: until a card's pending entries go as fast as they come."""
COMPLETE_MIN = 95.0
"""Percent of the answers in a flood that are to be complete (D0)."""
BIN_S = 0.1
"""The client's: see :mod:`benchmarks.flood`."""


class Server:
    """The entrypoint under load, and what was sent to it so far."""

    def __init__(self, pid: int, url: str, bodies: Path) -> None:
        self.pid = pid
        self._url = url
        self._bodies = bodies
        self._runs = 0

    def load(self, connections: int, seconds: float, **more: float) -> dict[str, Any]:
        """One run of the client. more: its further options."""
        self._runs += 1
        options = [
            word
            for name, value in more.items()
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        command = [
            sys.executable, "-m", "benchmarks.flood", self._url, str(self._bodies),
            "--mark", f"r{self._runs}", "--connections", str(connections),
            "--seconds", str(seconds), *options,
        ]  # fmt: skip
        with on(OTHERS):
            before = cpu_s(self.pid)
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        found["server_cpu_s"] = cpu_s(self.pid) - before
        return found


def measure(testbed: Testbed, seconds: float, connections: int) -> tuple[list[Row], list[str]]:
    """The peak, then each flood."""
    bodies = testbed.folder / "overload.tsv"
    lines = []
    for value in testbed.traffic.values:
        auth = msgspec.json.decode(value)
        amount = testbed.fx.to_reference(auth["amount_minor"], auth["currency"])
        lines.append(priority(amount).encode() + b"\t" + value)
    bodies.write_bytes(b"\n".join(lines))
    testbed.topics("overload-")
    with testbed.store() as store, testbed.stack(store, "overload-") as stack:
        with on(MEASURED):
            process = stack.start("decider-sync")
        stack.wait_ready(process)
        server = Server(process.popen.pid, f"{stack.url}/v1/authorizations", bodies)
        server.load(64, min(seconds, 3.0))
        loads = {n: server.load(n, min(seconds, PEAK_S)) for n in CONNECTIONS}
        tries = {n: found["during"] for n, found in loads.items()}
        cost = {n: _cpu_us(found) for n, found in loads.items()}
        rates = {
            n: found["levels"].get("D0", 0) / min(seconds, PEAK_S) for n, found in tries.items()
        }
        refused = {n: sum(found["refused"].values()) for n, found in tries.items()}
        peak = max(rates.values())
        rows = [
            row("peak: complete answers a second", "1/s", peak),
            row("peak: server CPU per complete answer", "µs", min(cost.values())),
            row("refused while saturated by a closed loop", "", sum(refused.values()), target="0"),
        ]
        notes = [
            "closed loops: " + ", ".join(f"{n} connections {r:,.0f}/s" for n, r in rates.items())
        ]
        best = max(rates, key=lambda n: rates[n])
        for times in TIMES:
            around = [_peak(server, best, seconds)]
            before = memory_mb(server.pid)
            found = server.load(
                connections,
                seconds,
                rate=times * around[0][0],
                then_rate=CALM * around[0][0],
                then_seconds=CALM_S,
            )
            after = memory_mb(server.pid)
            around.append(_peak(server, best, seconds))
            beside = statistics.mean(rate for rate, _ in around)
            rows.append(row(f"{times}x: peak before and after it", "1/s", beside))
            rows.append(
                row(
                    f"{times}x: server CPU per complete answer at that peak",
                    "µs",
                    statistics.mean(cost for _, cost in around),
                )
            )
            rows += _rows(f"{times}x", found, beside, seconds)
            rows.append(row(f"{times}x: resident before", "MB", before))
            rows.append(row(f"{times}x: resident after", "MB", after, target="as before"))
            notes.append(_note(f"{times}x", found, seconds, connections))
            limit, page = process.metric("sluice_decider_limit"), process.metrics()
            shed = {
                f"{s.labels['reason']} {s.labels['priority']}": int(s.value)
                for s in metrics_page.samples(page, "sluice_decider_shed_total")
                if s.value
            }
            notes.append(f"{times}x: limit {limit:.0f} at the end; shed so far {shed}")
    return rows, [*notes, testbed.release[2]]


def _peak(server: Server, connections: int, seconds: float) -> tuple[float, float]:
    """Complete answers a second of a closed loop, and the server's CPU for each in microseconds."""
    server.load(connections, min(seconds, WARM_S))
    seconds = min(seconds, PEAK_S)
    found = server.load(connections, seconds)
    return found["during"]["levels"].get("D0", 0) / seconds, _cpu_us(found)


def _cpu_us(found: dict[str, Any]) -> float:
    """Of the server, for each complete answer of a run, all refusals included."""
    phases = [phase for phase in (found["during"], found["after"]) if phase]
    complete = sum(phase["levels"].get("D0", 0) for phase in phases)
    return float(found["server_cpu_s"] * 1e6 / max(complete, 1))


def _rows(name: str, found: dict[str, Any], peak: float, seconds: float) -> list[Row]:
    during = found["during"]
    answers, complete = sum(during["levels"].values()), during["levels"].get("D0", 0)
    offered = during["offered"]
    sent = {p: offered.get(p, 0) - during["unsent"].get(p, 0) for p in PRIORITIES}
    rows = [
        row(f"{name}: offered", "1/s", sum(offered.values()) / seconds),
        row(f"{name}: decided", "1/s", answers / seconds),
        row(f"{name}: complete (D0) of the decided", "%", 100 * complete / max(answers, 1),
            target=f">= {COMPLETE_MIN:g}"),
        row(f"{name}: complete answers against the peak", "%", 100 * complete / seconds / peak,
            target=">= 90"),
        row(f"{name}: p50 of the decided, from sending", "ms", during["admitted"]["p50"]),
        row(f"{name}: p99 of the decided, from sending", "ms", during["admitted"]["p99"],
            target=f"<= {DEADLINE_MS + 5}"),
        row(f"{name}: p99 of the decided, from the request's moment", "ms",
            during["admitted_due"]["p99"]),
        row(f"{name}: p50 of the refused", "ms", during["refused_ms"]["p50"]),
        row(f"{name}: p99 of the refused", "ms", during["refused_ms"]["p99"]),
        row(f"{name}: unsent of the offered, no connection was free", "%",
            100 * sum(during["unsent"].values()) / max(sum(offered.values()), 1)),
        row(f"{name}: server CPU per complete answer, the calm after it included", "µs",
            _cpu_us(found)),
    ]  # fmt: skip
    rows += [
        row(f"{name}: refused of the sent, priority {p}", "%",
            100 * during["refused"].get(p, 0) / max(sent[p], 1))
        for p in PRIORITIES
    ]  # fmt: skip
    bad = found["after"]["bad"]
    felt = (bad[-1] + 1) * BIN_S if bad else 0.0
    rows.append(row(f"{name}: all well again after", "s", felt, target="< 5"))
    return rows


def _note(name: str, found: dict[str, Any], seconds: float, connections: int) -> str:
    during, after = found["during"], found["after"]
    busy = found["server_cpu_s"] / (seconds + CALM_S)
    return (
        f"{name}: {connections} connections; statuses {during['statuses']}, levels "
        f"{during['levels']}, broken {during['broken']}; afterwards statuses {after['statuses']}, "
        f"levels {after['levels']}; the client was late by {found['late_ms']:.0f} ms at most and "
        f"used {found['client_cores']:.2f} cores, the server {busy:.2f}"
    )


def main() -> int:
    """Measure, print, and keep the figures where ``make bench`` keeps its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seconds", type=float, default=60.0, help="of each flood")
    parser.add_argument("--connections", type=int, default=512)
    parser.add_argument("--quick", action="store_true", help="a small store, for trying out")
    args = parser.parse_args()
    os.environ.setdefault("FEAST_USAGE", "False")
    about = machine()
    with Testbed(QUICK if args.quick else FULL) as testbed:
        rows, notes = measure(testbed, args.seconds, args.connections)
    command = (
        f"benchmarks/.venv/bin/python -m benchmarks.overload --seconds {args.seconds:g} "
        f"--connections {args.connections}" + (" --quick" if args.quick else "")
    )
    found = result("overload", command, about, rows, notes)
    save(args.out, found)
    print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
