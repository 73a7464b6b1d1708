"""A lean HTTP load client in a process of its own: ``python -m benchmarks.client``.

Locust spends several hundred µs of processor time a request, more than the entrypoint it measures,
so on a small machine it measures itself. This one spends about 30.

closed: each connection asks again as soon as it is answered. open: each request has its moment,
and latency counts from that moment, whether or not we were late to send it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import selectors
import ssl
import time
from collections import Counter, deque
from functools import partial
from pathlib import Path

import numpy as np
from sluice_simulator.sync_client import (
    Connection,
    Response,
    SyncClientError,
    connect,
    request_head,
)

CONNECTIONS_MAX = 256
ANSWER_MAX_S = 10.0


class Load:
    """Sends bodies to one URL and keeps what came back."""

    def __init__(
        self,
        url: str,
        bodies: list[bytes],
        marker: bytes,
        *,
        token: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url
        self._tls = tls
        head = request_head(url, token=token)
        self._requests = [head + b"%d\r\n\r\n" % len(body) + body for body in bodies]
        self._marker = marker
        self._at = 0
        self._until = 0.0
        self._due: deque[tuple[int, float]] = deque()
        self._free: list[Connection] = []
        self._is_open = False
        self.statuses: Counter[int] = Counter()
        self.marked = 0
        self.latencies: list[float] = []
        self.in_flight = 0
        self.broken = 0

    def _answered(
        self, connection: Connection, since: float, what: Response | SyncClientError
    ) -> None:
        self.in_flight -= 1
        if isinstance(what, SyncClientError):
            self.broken += 1
            return
        now = time.perf_counter()
        self.latencies.append(now - since)
        self.statuses[what.status] += 1
        self.marked += self._marker in what.body
        if self._is_open:
            if self._due:
                request, moment = self._due.popleft()
                self._send(connection, request, moment)
            else:
                self._free.append(connection)
        elif now < self._until and self._at < len(self._requests):
            self._send(connection, self._at, now)
            self._at += 1

    def _send(self, connection: Connection, request: int, since: float) -> None:
        self.in_flight += 1
        connection.ask(self._requests[request], partial(self._answered, connection, since))

    async def _finish(self) -> None:
        deadline = time.perf_counter() + ANSWER_MAX_S
        while (self.in_flight or self._due) and time.perf_counter() < deadline:
            await asyncio.sleep(0.002)

    async def closed(self, connections: int, seconds: float) -> float:
        """Saturate. Returns the seconds from the first request to the last answer."""
        made = [await connect(self._url, self._tls) for _ in range(connections)]
        began = time.perf_counter()
        self._until = began + seconds
        for connection in made:
            self._send(connection, self._at, time.perf_counter())
            self._at += 1
        while time.perf_counter() < self._until and self._at < len(self._requests):
            await asyncio.sleep(0.02)
        await self._finish()
        return time.perf_counter() - began

    async def open(self, rate: float, seconds: float) -> float:
        """One request every 1/rate s. Returns the seconds that took."""
        self._is_open = True
        self._free = [await connect(self._url, self._tls) for _ in range(64)]
        count = min(round(rate * seconds), len(self._requests))
        began = time.perf_counter() + 0.05
        for i in range(count):
            due = began + i / rate
            while (now := time.perf_counter()) < due:
                await asyncio.sleep(due - now)
            if i % 16 == 0:
                await asyncio.sleep(0)
            while self._free and self._free[-1].closed:  # a server closes what stays idle
                self._free.pop()
            if self._free:
                self._send(self._free.pop(), i, due)
            elif self.in_flight < CONNECTIONS_MAX:
                self._send(await connect(self._url, self._tls), i, due)
            else:
                self._due.append((i, due))
        await self._finish()
        return time.perf_counter() - began


def main() -> None:
    """Run one load and print what came of it as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop", choices=("closed", "open"))
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path, help="one JSON body a line")
    parser.add_argument("--first", type=int, default=0, help="line of the first body")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, default=32, help="closed: how many ask")
    parser.add_argument("--rate", type=float, default=1000, help="open: requests a second")
    parser.add_argument(
        "--marker", default='"degradation_level":"D0"', help="counted in the answers"
    )
    parser.add_argument("--token", default="", help="a bearer token for each request")
    parser.add_argument("--ca", type=Path, help="CA of an https server")
    args = parser.parse_args()
    bodies = args.bodies.read_bytes().splitlines()[args.first :]
    tls = ssl.create_default_context(cafile=args.ca) if args.ca else None
    load = Load(args.url, bodies, args.marker.encode(), token=args.token, tls=tls)
    busy = time.process_time()
    # epoll wakes on whole milliseconds, which would be charged to the entrypoint as latency.
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        going = (
            load.closed(args.connections, args.seconds)
            if args.loop == "closed"
            else load.open(args.rate, args.seconds)
        )
        seconds = runner.run(going)
    ms = np.array(load.latencies or [0.0]) * 1000
    print(
        json.dumps(
            {
                "answered": len(load.latencies),
                "ok": load.statuses[200],
                "statuses": load.statuses,
                "marked": load.marked,
                "unanswered": load.in_flight + load.broken + len(load._due),
                "seconds": seconds,
                "rate": len(load.latencies) / seconds,
                "client_cpu_us": (time.process_time() - busy) * 1e6 / max(len(load.latencies), 1),
                "p50_ms": float(np.percentile(ms, 50)),
                "p99_ms": float(np.percentile(ms, 99)),
                "p999_ms": float(np.percentile(ms, 99.9)),
                "max_ms": float(ms.max()),
            }
        )
    )


if __name__ == "__main__":
    main()
