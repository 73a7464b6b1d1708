"""One page that shows a run over time: curves in SVG, no script, nothing fetched, both themes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 960, 176
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 18, 22
GAP_S = 12.0
"""A curve is broken where nothing was seen for so long."""
STYLE = """
:root { color-scheme: light dark; --bg: #fcfcfb; --ink: #1c1b19; --soft: #6b6a66; --grid: #e4e3df;
  --a: #1f6fb8; --b: #c2571a; --c: #7a4fb0; --bad: #b3261e; --fill: #1f6fb822; }
@media (prefers-color-scheme: dark) { :root { --bg: #171716; --ink: #ecebe7; --soft: #a3a29c;
  --grid: #353431; --a: #6db3f2; --b: #f09a5d; --c: #b99be8; --bad: #ff8a80; --fill: #6db3f233; } }
body { background: var(--bg); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; } h2 { font-size: 1rem; margin: 1.6rem 0 .2rem; }
p, li { color: var(--soft); margin: .2rem 0; }
svg { width: 100%; height: auto; display: block; }
text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
.grid { stroke: var(--grid); stroke-width: 1; }
.limit { stroke: var(--bad); stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.key { display: inline-block; margin-right: 1.2em; color: var(--ink); font-size: .9rem; }
.key i { display: inline-block; width: 1.4em; height: .25em; margin-right: .4em;
  vertical-align: middle; border-radius: 2px; }
table { border-collapse: collapse; width: 100%; margin-top: .6rem; font-size: .92rem; }
td, th { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--grid); }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""
Points = Sequence[tuple[float, float | None]]
"""Seconds since the run began, and what was seen; None is a gap."""


class Curve(NamedTuple):
    """One line. color: a variable of STYLE. step: it keeps its value until the next point."""

    name: str
    color: str
    points: Points
    step: bool = False
    filled: bool = False


class Panel(NamedTuple):
    """Curves over one axis. limit: a line that should not be crossed."""

    title: str
    unit: str
    curves: tuple[Curve, ...]
    log: bool = False
    limit: float | None = None


class Fact(NamedTuple):
    """A row of the table. target: what was promised, "" for nothing."""

    name: str
    value: str
    target: str = ""


def page(
    title: str,
    about: Iterable[str],
    panels: Iterable[Panel],
    marks: Sequence[tuple[float, str]],
    facts: Iterable[Fact],
) -> str:
    """The page. marks: seconds at which something begins, and its name."""
    shown = [panel for panel in panels if any(_seen(c.points) for c in panel.curves)]
    ends = [at for panel in shown for curve in panel.curves for at, _ in curve.points]
    seconds = max([*ends, 1.0])
    rows = "".join(
        f"<tr><td>{escape(f.name)}</td><td class=n>{escape(f.value)}</td>"
        f"<td>{escape(f.target)}</td></tr>"
        for f in facts
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        + "".join(f"<p>{escape(line)}</p>\n" for line in about)
        + "".join(_panel(panel, seconds, marks) for panel in shown)
        + f"<h2>In figures</h2>\n<table><tr><th>what</th><th></th><th>wanted</th></tr>{rows}"
        "</table>\n</body></html>\n"
    )


def _seen(points: Points) -> bool:
    return any(value is not None for _, value in points)


def _panel(panel: Panel, seconds: float, marks: Sequence[tuple[float, str]]) -> str:
    values = [v for c in panel.curves for _, v in c.points if v is not None]
    if panel.limit is not None:
        values.append(panel.limit)
    scale = _Scale(panel.log, values)
    parts = []
    for tick in scale.ticks:
        y = scale.y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{_short(tick)}</text>')
    every = _nice(seconds / 8, (30, 60, 120, 300, 600, 1200, 3600))
    for n in range(int(seconds // every) + 1):
        at = n * every
        parts.append(
            f'<text x="{_x(at, seconds)}" y="{HEIGHT - 6}" text-anchor="middle">'
            f"{int(at // 60)}:{int(at % 60):02d}</text>"
        )
    for at, name in marks:
        x = _x(at, seconds)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x + 4}" y="{TOP - 5}">{escape(name)}</text>')
    if panel.limit is not None:
        y = scale.y(panel.limit)
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
    for curve in panel.curves:
        parts += _curve(curve, scale, seconds)
    keys = "".join(
        f'<span class="key"><i style="background:var(--{c.color})"></i>{escape(c.name)}</span>'
        for c in panel.curves
    )
    return (
        f"<h2>{escape(panel.title)}, {escape(panel.unit)}</h2>\n<div>{keys}</div>\n"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(panel.title)}">'
        f"{''.join(parts)}</svg>\n"
    )


def _curve(curve: Curve, scale: _Scale, seconds: float) -> list[str]:
    parts = []
    for run in _runs(curve.points):
        path = []
        before: float | None = None
        for at, value in run:
            x, y = _x(at, seconds), scale.y(value)
            if before is not None and curve.step:
                path.append(f"L{x} {before}")
            path.append(f"{'L' if path else 'M'}{x} {y}")
            before = y
        if curve.filled:
            foot, first, last = HEIGHT - BOTTOM, _x(run[0][0], seconds), _x(run[-1][0], seconds)
            area = f"{' '.join(path)} L{last} {foot} L{first} {foot} Z"
            parts.append(f'<path d="{area}" fill="var(--fill)"/>')
        parts.append(f'<path class="line" d="{" ".join(path)}" stroke="var(--{curve.color})"/>')
    return parts


def _runs(points: Points) -> list[list[tuple[float, float]]]:
    """Points without gaps, where there is more than one."""
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is None or (runs[-1] and at - runs[-1][-1][0] > GAP_S):
            runs.append([])
        if value is not None:
            runs[-1].append((at, value))
    return [run for run in runs if len(run) > 1]


class _Scale:
    """From a value to its height."""

    def __init__(self, log: bool, values: Sequence[float]) -> None:
        self._log = log
        most = max([*values, 0.0])
        if log:
            low = min([v for v in values if v > 0] or [1.0])
            self._low = 10 ** math.floor(math.log10(low))
            self._high = 10 ** math.ceil(math.log10(max(most, 10 * self._low)))
            powers = range(round(math.log10(self._low)), round(math.log10(self._high)) + 1)
            self.ticks = [10.0**power for power in powers]
        else:
            step = _nice(most / 4, [m * 10**e for e in range(-2, 7) for m in (1, 2, 5)])
            self._low, self._high = 0.0, max(1, math.ceil(most / step)) * step
            self.ticks = [n * step for n in range(round(self._high / step) + 1)]

    def y(self, value: float) -> float:
        """Within the panel; what is off the scale lies at its edge."""
        if self._log:
            value = max(value, self._low)
            share = math.log10(value / self._low) / math.log10(self._high / self._low)
        else:
            share = (value - self._low) / (self._high - self._low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)


def _x(at: float, seconds: float) -> float:
    return round(LEFT + at / seconds * (WIDTH - LEFT - RIGHT), 1)


def _nice(least: float, steps: Sequence[float]) -> float:
    return next((step for step in steps if step >= least), steps[-1])


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
