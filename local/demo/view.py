"""The live view: one screen in a terminal, one line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from local.demo.tally import Tally
from sluice.domain.records.outcome import Outcome

SCREEN_S, LINE_S = 0.5, 5.0
_BAR = 28


@dataclass
class Gauges:
    """What the services say of themselves now. None: they do not answer."""

    lag: float | None = None
    featurizer_lag: float | None = None
    states: float | None = None
    archived: float | None = None
    sync_ms: tuple[float, float] | None = None
    stream_ms: tuple[float, float] | None = None


class View:
    """Shows a tally as it grows."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._screen = sys.stdout.isatty()
        self._began = time.monotonic()
        self._last = (0.0, 0)
        self._rate = 0.0
        self._due = 0.0
        self._drawn = 0

    def start(self) -> None:
        """Time runs from here."""
        self._began = time.monotonic()

    def due(self) -> bool:
        """True when it is time to show again."""
        return time.monotonic() >= self._due

    def show(self, tally: Tally, gauges: Gauges) -> None:
        """Draw over the last screen, or print a line."""
        now = time.monotonic() - self._began
        self._due = time.monotonic() + (SCREEN_S if self._screen else LINE_S)
        before, count = self._last
        if now - before >= SCREEN_S:
            self._rate = (len(tally.decisions) - count) / (now - before)
            self._last = (now, len(tally.decisions))
        lines = (
            self._lines(now, tally, gauges) if self._screen else [self._line(now, tally, gauges)]
        )
        if self._screen and self._drawn:
            sys.stdout.write(f"\x1b[{self._drawn}F")
        self._drawn = len(lines)
        end = "\x1b[K\n" if self._screen else "\n"
        sys.stdout.write("".join(line + end for line in lines))
        sys.stdout.flush()

    def _line(self, now: float, tally: Tally, gauges: Gauges) -> str:
        return (
            f"  {now:4.0f} s  {len(tally.decisions):7,} decided  {self._rate:5.0f}/s  "
            f"queue {_number(gauges.lag)}  stopped EUR {_euros(tally.stopped_minor)}  "
            f"lost EUR {_euros(tally.let_through_minor)}  "
            f"false positives {tally.false_positives_per_10k:.1f} per 10,000"
        )

    def _lines(self, now: float, tally: Tally, gauges: Gauges) -> list[str]:
        done = min(1.0, now / self._seconds)
        bar = "#" * round(done * _BAR)
        outcomes = "  ".join(f"{name} {tally.outcomes[name]:,}" for name in _OUTCOMES)
        return [
            f"  [{bar:<{_BAR}}] {now:3.0f} of {self._seconds:.0f} s",
            f"  decided      {len(tally.decisions):9,}   {self._rate:6.0f}/s   "
            f"sync {tally.entrypoints['sync']:,}   stream {tally.entrypoints['stream']:,}",
            f"  outcomes     {outcomes}",
            f"  latency      sync {_pair(gauges.sync_ms)}   stream {_pair(gauges.stream_ms)}   "
            "(p50 / p99 in ms, at the decider)",
            f"  queue        decider {_number(gauges.lag)}   featurizer "
            f"{_number(gauges.featurizer_lag)}   degraded {tally.degraded:,}",
            f"  states       {_number(gauges.states)} written   archived "
            f"{_number(gauges.archived)}",
            f"  fraud        {tally.frauds:,} tried, {tally.frauds_stopped:,} stopped   "
            f"EUR {_euros(tally.stopped_minor)} stopped, {_euros(tally.let_through_minor)} lost",
            f"  customers    {tally.false_positives_per_10k:.1f} of 10,000 genuine ones stopped",
        ]


_OUTCOMES = tuple(Outcome)


def _euros(minor: int) -> str:
    return f"{minor / 100:,.0f}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def _pair(pair: tuple[float, float] | None) -> str:
    return "?" if pair is None else f"{pair[0]:.1f} / {pair[1]:.1f}"
