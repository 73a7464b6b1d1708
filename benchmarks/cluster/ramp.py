"""How many requests a second are meant, over time: calm, a ramp, a plateau, calm again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """Rates in requests a second, the rest in seconds. The first calm lasts before_s."""

    rate: float
    calm_rate: float
    before_s: float
    ramp_s: float
    hold_s: float
    calm_s: float

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
