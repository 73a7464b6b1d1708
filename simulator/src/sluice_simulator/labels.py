"""When fraud becomes known. Event time and known time are apart, and some is never reported."""

from __future__ import annotations

import numpy as np

from sluice_simulator.config import Config, Delay
from sluice_simulator.rows import Rows, present

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
LONGEST_DAYS = 120
"""The dispute window."""
MEDIAN_DAYS, SIGMA = 30.0, 0.6
WAYS = (None, ("alert", "cardholder"), ("chargeback", "network"), ("chargeback", "issuer"))
"""Kind and source of the label, by way; 0 is never."""


def report(rows: Rows, config: Config, rng: np.random.Generator) -> None:
    """Draw known_us and way of each row, in place, from the mixture of its channel."""
    shares = np.where(
        present(rows)[:, None], _cumulative(config.present_delay), _cumulative(config.remote_delay)
    )
    way = 1 + (rng.random(len(rows))[:, None] >= shares).sum(axis=1)
    way[way > 3] = 0
    hours = rng.uniform(0.2, 12, len(rows)) * HOUR_US
    days = rng.uniform(3, 7, len(rows)) * DAY_US
    weeks = MEDIAN_DAYS * np.exp(SIGMA * rng.standard_normal(len(rows)))
    # Nobody disputes a statement before it is there: two days at least.
    weeks = np.clip(weeks, 2, LONGEST_DAYS) * DAY_US
    delay = np.choose(way, [np.zeros(len(rows)), hours, days, weeks])
    rows["way"] = way
    rows["known_us"] = np.where(way > 0, rows["event_us"] + delay.astype(np.int64), 0)


def _cumulative(delay: Delay) -> np.ndarray:
    return np.cumsum([delay.hours, delay.days, delay.weeks])
