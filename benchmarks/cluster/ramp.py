"""How many requests a second are meant, over time: calm, a ramp, a plateau, calm again."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Ramp:
    """Rates in requests a second, the rest in seconds. The first calm lasts before_s, the last one
    long enough to scale in."""

    rate: float = 400
    calm_rate: float = 40
    before_s: float = 30
    ramp_s: float = 60
    hold_s: float = 120
    calm_s: float = 420

    def at(self, second: float) -> float | None:
        """The rate meant then; None when it is over.

        >>> ramp = Ramp(rate=100, calm_rate=10, before_s=5, ramp_s=10, hold_s=20, calm_s=30)
        >>> [ramp.at(s) for s in (0, 10, 15, 34, 36, 65)]
        [10, 55.0, 100, 100, 10, None]
        """
        climbed = (second - self.before_s) / self.ramp_s
        if climbed <= 0:
            return self.calm_rate
        if climbed < 1:
            return self.calm_rate + climbed * (self.rate - self.calm_rate)
        if second < self.before_s + self.ramp_s + self.hold_s:
            return self.rate
        return self.calm_rate if second < self.seconds else None

    @property
    def seconds(self) -> float:
        """How long all of it takes."""
        return self.before_s + self.ramp_s + self.hold_s + self.calm_s

    @property
    def requests(self) -> int:
        """How many that is, rounded up."""
        calm = self.calm_rate * (self.before_s + self.calm_s)
        ramp = (self.rate + self.calm_rate) / 2 * self.ramp_s
        return int(calm + ramp + self.rate * self.hold_s) + 1

    def arguments(self) -> list[str]:
        """As `given` reads them."""
        return [f"--{_option(f.name)}={getattr(self, f.name):g}" for f in fields(self)]


def _option(name: str) -> str:
    return name.replace("_", "-")


def add_arguments(parser: Any) -> None:
    """One of each field; of Locust's parser too."""
    for field in fields(Ramp):
        parser.add_argument(f"--{_option(field.name)}", type=float, default=field.default)


def given(arguments: Any) -> Ramp:
    """What was parsed."""
    return Ramp(**{field.name: getattr(arguments, field.name) for field in fields(Ramp)})
