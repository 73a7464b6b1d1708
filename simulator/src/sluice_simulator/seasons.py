"""When people pay: hour of day, weekday, pay day, month and sales, in local time."""

from __future__ import annotations

from datetime import date, timedelta
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sluice_simulator.geography import COUNTRIES

EPOCH = date(1970, 1, 1)

_HOURS = np.array(
    [
        # in shops
        [2, 1, 1, 1, 1, 2, 6, 12, 20, 22, 24, 28, 34, 30, 24, 23, 26, 32, 36, 32, 22, 13, 8, 4],
        # online
        [10, 5, 3, 2, 2, 3, 6, 12, 18, 22, 24, 25, 26, 24, 23, 23, 24, 25, 27, 31, 36, 38, 30, 19],
    ],
    float,
)
HOURS = _HOURS / _HOURS.sum(axis=1, keepdims=True)
_WEEKDAY = (0.92, 0.92, 0.95, 1.0, 1.15, 1.2, 0.86)
_MONTH = (0.93, 0.94, 0.97, 0.98, 1.0, 1.0, 1.02, 1.0, 0.98, 1.0, 1.05, 1.13)
SHOP, ONLINE = 0, 1


def day_number(day: date) -> int:
    """Days since 1970-01-01."""
    return (day - EPOCH).days


def day_date(day: int) -> date:
    """The calendar date of a day number."""
    return EPOCH + timedelta(days=day)


@lru_cache(maxsize=4096)
def factors(day: int) -> tuple[float, float]:
    """How much busier than usual a local calendar day is, in shops and online."""
    when = day_date(day)
    base = _WEEKDAY[when.weekday()] * _MONTH[when.month - 1]
    base *= 1.1 if when.day >= 25 or when.day <= 2 else 0.97
    return base, base * (1.6 if sale(when) else 1.0)


def sale(when: date) -> bool:
    """Singles' day, the days from Black Friday to the Monday after, and before Christmas."""
    if when.month == 11:
        first = date(when.year, 11, 1)
        thanksgiving = first + timedelta(days=(3 - first.weekday()) % 7 + 21)
        return when.day == 11 or 1 <= (when - thanksgiving).days <= 4
    return when.month == 12 and 14 <= when.day <= 22


@lru_cache(maxsize=128)
def hour_weights(day: int) -> npt.NDArray[np.float64]:
    """(countries, 2, 24) weight of each UTC hour of a UTC day, in shops and online.

    A usual day's weights sum to about 1 for each country, whose local clock they follow.
    """
    table = np.empty((len(COUNTRIES), 2, 24))
    for row, country in enumerate(COUNTRIES):
        for hour in range(24):
            local = hour * 60 + 30 + country.offset_min
            factor = factors(day + local // 1440)
            of_day = local % 1440 // 60
            table[row, SHOP, hour] = HOURS[SHOP, of_day] * factor[SHOP]
            table[row, ONLINE, hour] = HOURS[ONLINE, of_day] * factor[ONLINE]
    return table


@lru_cache(maxsize=1)
def usual_factors() -> npt.NDArray[np.float64]:
    """(2,) mean of factors over a year, in shops and online."""
    year = day_number(date(2025, 1, 1))
    return np.mean([factors(year + k) for k in range(365)], axis=0)
