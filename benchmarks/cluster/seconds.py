"""What happened in each second of the load, put together from what each worker saw."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec


class Seen(msgspec.Struct):
    """One second of one worker, or of all. latencies_us: of each answer, from its first try.

    refused: tries that were not answered with 200. given_up: authorizations never answered.
    """

    latencies_us: list[int] = []
    degraded: int = 0
    refused: int = 0
    given_up: int = 0

    def add(self, other: Seen) -> None:
        """The other's too."""
        self.latencies_us += other.latencies_us
        self.degraded += other.degraded
        self.refused += other.refused
        self.given_up += other.given_up


class Line(msgspec.Struct, kw_only=True):
    """One second for a reader. at: seconds UTC. offered: requests a second that were meant."""

    at: int
    offered: float
    answered: int
    degraded: int
    refused: int
    given_up: int
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None


def percentile_ms(latencies_us: list[int], percent: float) -> float | None:
    """The smallest latency that so many percent do not exceed (nearest rank); None without any.

    >>> percentile_ms([3000, 1000, 2000], 50), percentile_ms([], 50)
    (2.0, None)
    """
    if not latencies_us:
        return None
    rank = max(1, math.ceil(len(latencies_us) * percent / 100))
    return sorted(latencies_us)[rank - 1] / 1000


class Seconds:
    """Seconds by their moment. A worker takes what it saw away; the master puts it in."""

    def __init__(self) -> None:
        self._seen: dict[int, Seen] = {}

    def at(self, moment: float) -> Seen:
        """The second that a moment lies in, to be changed."""
        return self._seen.setdefault(int(moment), Seen())

    def take(self) -> dict[str, Any]:
        """All of it, as plain values, and begin anew. Keys are texts, as JSON wants them."""
        taken = {str(at): msgspec.to_builtins(seen) for at, seen in self._seen.items()}
        self._seen = {}
        return taken

    def put(self, taken: dict[str, Any]) -> None:
        """What a worker took."""
        for at, seen in taken.items():
            self.at(int(at)).add(msgspec.convert(seen, Seen))

    def lines(self, before: float, offered: float) -> Iterator[Line]:
        """Seconds that ended before a moment, oldest first; each once."""
        for at in sorted(at for at in self._seen if at + 1 <= before):
            seen = self._seen.pop(at)
            yield Line(
                at=at,
                offered=offered,
                answered=len(seen.latencies_us),
                degraded=seen.degraded,
                refused=seen.refused,
                given_up=seen.given_up,
                p50_ms=percentile_ms(seen.latencies_us, 50),
                p99_ms=percentile_ms(seen.latencies_us, 99),
                p999_ms=percentile_ms(seen.latencies_us, 99.9),
            )
