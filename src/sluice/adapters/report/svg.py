"""Small drawings: axes, lines, steps and dots as SVG text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 520, 320
LEFT, RIGHT, TOP, BOTTOM = 68, 24, 12, 44

Scale = Callable[[float], float]


def linear(low: float, high: float) -> Scale:
    """low to 0, high to 1."""
    return lambda value: (value - low) / ((high - low) or 1.0)


def logarithmic(low: float, high: float) -> Scale:
    """The same of logarithms; what is below low is at it."""
    span = math.log10(high / low) or 1.0
    return lambda value: math.log10(max(value, low) / low) / span


@dataclass
class Chart:
    """One drawing. x_ticks, y_ticks: value and its text."""

    x: Scale
    y: Scale
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    x_label: str
    y_label: str
    title: str
    height: int = HEIGHT
    parts: list[str] = field(default_factory=list)

    def _x(self, value: float) -> float:
        return LEFT + min(1.0, max(0.0, self.x(value))) * (WIDTH - LEFT - RIGHT)

    def _y(self, value: float) -> float:
        inner = self.height - TOP - BOTTOM
        return TOP + (1 - min(1.0, max(0.0, self.y(value)))) * inner

    def line(
        self, xs: Sequence[float], ys: Sequence[float], colour: int, *, dashed: bool = False
    ) -> None:
        """Through points, in their order; what lies right of the drawing is left out."""
        points = " ".join(
            f"{self._x(x):.1f},{self._y(y):.1f}"
            for x, y in zip(xs, ys, strict=True)
            if self.x(x) <= 1
        )
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(f'<polyline class="l c{colour}" points="{points}"{dash}/>')

    def dots(
        self, xs: Sequence[float], ys: Sequence[float], colour: int, told: Sequence[str] = ()
    ) -> None:
        """A dot a point; told: what a pointer resting on it reads."""
        for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
            title = f"<title>{escape(told[i])}</title>" if told else ""
            self.parts.append(
                f'<circle class="d c{colour}" cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="3.5">'
                f"{title}</circle>"
            )

    def rule(self, points: Sequence[tuple[float, float]]) -> None:
        """A thin grey line: what something is compared with."""
        text = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline class="r" points="{text}"/>')

    def svg(self) -> str:
        """The drawing."""
        bottom = self.height - BOTTOM
        grid = [
            f'<line class="g" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self._y(v):.1f}" '
            f'y2="{self._y(v):.1f}"/><text class="t" text-anchor="end" x="{LEFT - 7}" '
            f'y="{self._y(v) + 4:.1f}">{escape(text)}</text>'
            for v, text in self.y_ticks
        ] + [
            f'<line class="g" x1="{self._x(v):.1f}" x2="{self._x(v):.1f}" y1="{TOP}" '
            f'y2="{bottom}"/><text class="t" text-anchor="middle" x="{self._x(v):.1f}" '
            f'y="{bottom + 16}">{escape(text)}</text>'
            for v, text in self.x_ticks
        ]
        middle = (TOP + bottom) / 2
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" '
            f'aria-label="{escape(self.title)}">'
            + "".join(grid)
            + f'<text class="a" text-anchor="middle" x="{(LEFT + WIDTH - RIGHT) / 2}" '
            f'y="{self.height - 6}">{escape(self.x_label)}</text>'
            f'<text class="a" text-anchor="middle" transform="rotate(-90 12 {middle})" x="12" '
            f'y="{middle}">{escape(self.y_label)}</text>' + "".join(self.parts) + "</svg>"
        )


def shares(step: float = 0.2) -> list[tuple[float, str]]:
    """Ticks from 0 to 100 %."""
    return [(i * step, f"{i * step:.0%}") for i in range(round(1 / step) + 1)]


def powers(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks at powers of ten, as per cent."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [(10.0**k, f"{100 * 10.0**k:.6g} %") for k in range(first, last + 1)]


def round_up(value: float) -> float:
    """To 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))
