"""The live view: one screen in a terminal, one line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from local.demo.tally import Tally
from sluice.domain.records.outcome import Outcome

SCREEN_S, LINE_S = 0.5, 5.0
BAR_WIDTH = 40
OUTCOMES = tuple(Outcome)


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
    """Shows a tally as it grows. Use as a context manager: a terminal gets its cursor back."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        console = Console(highlight=False)
        screen = sys.stdout.isatty() and not console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False) if screen else None
        self._began = time.monotonic()
        self._last = (0.0, 0)
        self._rate = 0.0
        self._due = 0.0

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self) -> None:
        """Time runs from here."""
        self._began = time.monotonic()

    def due(self) -> bool:
        """True when it is time to show again."""
        return time.monotonic() >= self._due

    def show(self, tally: Tally, gauges: Gauges) -> None:
        """Draw over the last screen, or print a line."""
        now = time.monotonic() - self._began
        self._due = time.monotonic() + (LINE_S if self._live is None else SCREEN_S)
        before, count = self._last
        if now - before >= SCREEN_S:
            self._rate = (len(tally.decisions) - count) / (now - before)
            self._last = (now, len(tally.decisions))
        if self._live is None:
            print(line(now, self._rate, tally, gauges), flush=True)
            return
        self._live.start()
        self._live.update(screen(now, self._seconds, self._rate, tally, gauges), refresh=True)


def line(now: float, rate: float, tally: Tally, gauges: Gauges) -> str:
    """What fits in a log file."""
    return (
        f"  {now:4.0f} s  {len(tally.decisions):7,} decided  {rate:5.0f}/s  "
        f"queue {_number(gauges.lag)}  stopped EUR {_euros(tally.stopped_minor)}  "
        f"lost EUR {_euros(tally.missed_minor)}  "
        f"false positives {tally.false_positives_per_10k:.1f} per 10,000"
    )


def screen(now: float, seconds: float, rate: float, tally: Tally, gauges: Gauges) -> Group:
    """Everything, in eight lines of at most 80 columns."""
    time_line = Table.grid(padding=(0, 1))
    time_line.add_row(
        " ",
        ProgressBar(total=seconds, completed=min(now, seconds), width=BAR_WIDTH),
        f"{now:.0f} of {seconds:.0f} s",
    )
    rows = Table.grid(padding=(0, 2))
    for name, *values in _rows(rate, tally, gauges):
        rows.add_row(Text(f"  {name}", style="bold"), Text("   ".join(values)))
    return Group(time_line, rows)


def _rows(rate: float, tally: Tally, gauges: Gauges) -> list[tuple[str, ...]]:
    return [
        (
            "decided",
            f"{len(tally.decisions):,}",
            f"{rate:.0f}/s",
            f"sync {tally.entrypoints['sync']:,}",
            f"stream {tally.entrypoints['stream']:,}",
        ),
        ("outcomes", *(f"{name} {tally.outcomes[name]:,}" for name in OUTCOMES)),
        (
            "latency",
            f"sync {_pair(gauges.sync_ms)}",
            f"stream {_pair(gauges.stream_ms)}",
            "p50 / p99 in ms",
        ),
        (
            "queue",
            f"decider {_number(gauges.lag)}",
            f"featurizer {_number(gauges.featurizer_lag)}",
            f"degraded {tally.degraded:,}",
        ),
        ("states", f"{_number(gauges.states)} written", f"archived {_number(gauges.archived)}"),
        (
            "fraud",
            f"{tally.frauds_stopped:,} of {tally.frauds:,} stopped",
            f"EUR {_euros(tally.stopped_minor)}",
            f"lost EUR {_euros(tally.missed_minor)}",
        ),
        ("customers", f"{tally.false_positives_per_10k:.1f} of 10,000 genuine ones stopped"),
    ]


def _euros(minor: int) -> str:
    return f"{minor / 100:,.0f}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def _pair(pair: tuple[float, float] | None) -> str:
    return "?" if pair is None else f"{pair[0]:.1f} / {pair[1]:.1f}"
