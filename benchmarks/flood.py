"""More requests than an entrypoint can answer: ``python -m benchmarks.flood``, its own process.

Open loop: each request has its moment, whatever became of those before. It is sent if one of a
fixed number of connections is free within the caller's patience; otherwise it is ``unsent``, as
with a caller whose pool is exhausted. After the flood comes ordinary traffic, over the same
connections, which tells how long the flood is felt. Each request has an id of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sluice_simulator.sync_client import (
    Connection,
    Response,
    SyncClientError,
    connect,
    request_head,
)

ID = b'"authorization_id":"'
COMPLETE = b'"degradation_level":"D0"'
LEVEL = b'"degradation_level":"'
FINISH_S = 5.0
BIN_S = 0.1
"""What happened is kept in bins of so long, to say when all was well again."""


@dataclass
class Phase:
    """What came of the requests of a stretch of time."""

    offered: Counter[str] = field(default_factory=Counter)
    """By priority, as the next three."""
    decided: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unsent: Counter[str] = field(default_factory=Counter)
    levels: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    admitted_s: list[float] = field(default_factory=list)
    """From sending to the answer."""
    admitted_due_s: list[float] = field(default_factory=list)
    """The same from the request's moment."""
    refused_s: list[float] = field(default_factory=list)
    bad: set[int] = field(default_factory=set)
    """Bins in which a request was not answered, or not completely."""

    def summary(self) -> dict[str, Any]:
        """For one line of JSON, milliseconds."""
        return {
            "offered": self.offered,
            "decided": self.decided,
            "refused": self.refused,
            "unsent": self.unsent,
            "levels": self.levels,
            "statuses": self.statuses,
            "broken": self.broken,
            "admitted": percentiles(self.admitted_s),
            "admitted_due": percentiles(self.admitted_due_s),
            "refused_ms": percentiles(self.refused_s),
            "bad": sorted(self.bad),
        }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p99 and the largest, in milliseconds."""
    ms = np.array(seconds or [0.0]) * 1000
    return {
        "p50": float(np.percentile(ms, 50)),
        "p99": float(np.percentile(ms, 99)),
        "max": float(ms.max()),
    }


class Flood:
    """Sends bodies to one URL."""

    def __init__(self, url: str, lines: list[bytes], mark: str, patience_s: float) -> None:
        self._url = url
        self._head = request_head(url)
        self._bodies: list[tuple[str, bytes, bytes]] = []
        for line in lines:
            what, _, body = line.partition(b"\t")
            at = body.index(ID) + len(ID)
            self._bodies.append((what.decode(), body[:at], body[body.index(b'"', at) :]))
        self._mark = mark.encode()
        self._patience_s = patience_s
        self._number = 0
        self._free: list[Connection] = []
        self._due: deque[tuple[float, Phase]] = deque()
        self._in_flight = 0
        self._closed_until = 0.0
        self._began = 0.0

    async def closed(self, connections: int, seconds: float) -> Phase:
        """Each connection asks again as soon as it is answered."""
        phase = Phase()
        made = [await connect(self._url) for _ in range(connections)]
        self._began = time.perf_counter()
        self._closed_until = self._began + seconds
        for connection in made:
            self._send(connection, time.perf_counter(), phase)
        await self._finish(seconds)
        for connection in made:
            connection.close("")
        return phase

    async def open(
        self, connections: int, rate: float, seconds: float, then_rate: float, then_s: float
    ) -> tuple[Phase, Phase, float]:
        """The flood, then ordinary traffic. Returns both and by how much we were late at most."""
        self._free = [await connect(self._url) for _ in range(connections)]
        flood, after, late = Phase(), Phase(), 0.0
        for phase, pace, length in ((flood, rate, seconds), (after, then_rate, then_s)):
            self._began = began = time.perf_counter()
            count, n = round(pace * length), 0
            while n < count:
                ahead = began + n / pace - time.perf_counter()
                await asyncio.sleep(max(0.0, ahead))
                now = time.perf_counter()
                late = max(late, now - began - n / pace)
                while n < count and began + n / pace <= now:
                    self._arrive(began + n / pace, now, phase)
                    n += 1
                self._give_up(now)
        await self._finish(0)
        return flood, after, late

    def _arrive(self, due: float, now: float, phase: Phase) -> None:
        if self._free:
            self._send(self._free.pop(), due, phase)
        else:
            self._due.append((due, phase))

    def _give_up(self, now: float) -> None:
        while self._due and self._due[0][0] < now - self._patience_s:
            due, phase = self._due.popleft()
            what = self._bodies[self._number % len(self._bodies)][0]
            self._number += 1
            phase.offered[what] += 1
            phase.unsent[what] += 1
            phase.bad.add(int((due - self._began) / BIN_S))

    def _send(self, connection: Connection, due: float, phase: Phase) -> None:
        what, before, rest = self._bodies[self._number % len(self._bodies)]
        name = b"%s-%d" % (self._mark, self._number)
        self._number += 1
        phase.offered[what] += 1
        self._in_flight += 1
        length = len(before) + len(name) + len(rest)
        request = b"%s%d\r\n\r\n%s%s%s" % (self._head, length, before, name, rest)
        now = time.perf_counter()
        connection.ask(request, partial(self._answered, connection, what, due, now, phase))

    def _answered(
        self,
        connection: Connection,
        what: str,
        due: float,
        sent: float,
        phase: Phase,
        answer: Response | SyncClientError,
    ) -> None:
        self._in_flight -= 1
        now = time.perf_counter()
        if isinstance(answer, SyncClientError):
            phase.broken += 1
            phase.bad.add(int((due - self._began) / BIN_S))
            return
        phase.statuses[answer.status] += 1
        if answer.status == 200:
            phase.decided[what] += 1
            phase.admitted_s.append(now - sent)
            phase.admitted_due_s.append(now - due)
            at = answer.body.find(LEVEL) + len(LEVEL)
            phase.levels[answer.body[at : at + 2].decode()] += 1
        else:
            phase.refused[what] += 1
            phase.refused_s.append(now - sent)
        if answer.status != 200 or COMPLETE not in answer.body:
            phase.bad.add(int((due - self._began) / BIN_S))
        if connection.closed:
            return
        if now < self._closed_until:
            self._send(connection, now, phase)
            return
        self._give_up(now)
        if self._due:
            waiting = self._due.popleft()
            self._send(connection, *waiting)
        else:
            self._free.append(connection)

    async def _finish(self, seconds: float) -> None:
        end = time.perf_counter() + seconds + FINISH_S
        while time.perf_counter() < end:
            await asyncio.sleep(0.01)
            self._give_up(time.perf_counter())
            if not self._in_flight and not self._due:
                break


def main() -> None:
    """Run one load and print what came of it as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path, help="a priority, a tab and a JSON body a line")
    parser.add_argument("--mark", required=True, help="begins each id; another one for each run")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=0.0, help="0: closed loop")
    parser.add_argument("--then-rate", type=float, default=0.0, help="after the flood")
    parser.add_argument("--then-seconds", type=float, default=0.0)
    parser.add_argument("--patience-ms", type=float, default=50.0, help="for a free connection")
    args = parser.parse_args()
    flood = Flood(
        args.url, args.bodies.read_bytes().splitlines(), args.mark, args.patience_ms / 1000
    )
    busy, began = time.process_time(), time.perf_counter()
    with asyncio.Runner() as runner:
        if args.rate:
            during, after, late = runner.run(
                flood.open(
                    args.connections, args.rate, args.seconds, args.then_rate, args.then_seconds
                )
            )
        else:
            during, after, late = runner.run(flood.closed(args.connections, args.seconds)), None, 0
    print(
        json.dumps(
            {
                "during": during.summary(),
                "after": after and after.summary(),
                "late_ms": late * 1000,
                "client_cores": (time.process_time() - busy) / (time.perf_counter() - began),
            }
        )
    )


if __name__ == "__main__":
    main()
