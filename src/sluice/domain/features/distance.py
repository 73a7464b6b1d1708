"""How far apart two countries are: tells that nobody travels from Lisbon to Lima in an hour.

All integers, so that every machine finds the same distance. numba compiles every function here.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sluice.domain.compiled import part
from sluice.domain.records.countries import CENTRES, COUNTRY_INDEX

Ints = npt.NDArray[np.int64]

COS_MILLI: Ints = np.array([round(1000 * math.cos(math.radians(d))) for d in range(91)], np.int64)
LATITUDE: Ints = np.array([0] + [CENTRES[code][0] for code in COUNTRY_INDEX], np.int64)
LONGITUDE: Ints = np.array([0] + [CENTRES[code][1] for code in COUNTRY_INDEX], np.int64)


@part
def root(value):  # type: ignore[no-untyped-def]
    """Integer square root of a non-negative 62-bit integer, exact on every machine."""
    guess = np.int64(np.sqrt(np.float64(value)))
    while guess * guess > value:
        guess -= 1
    while (guess + 1) * (guess + 1) <= value:
        guess += 1
    return guess


@part
def distance_km(a, b):  # type: ignore[no-untyped-def]
    """Equirectangular distance of two countries' centres by index; 0 if either is unknown."""
    if not (0 < a < len(LATITUDE) and 0 < b < len(LATITUDE)):
        return np.int64(0)
    turn = abs(LONGITUDE[a] - LONGITUDE[b])
    east = min(turn, 360 - turn) * COS_MILLI[abs(LATITUDE[a] + LATITUDE[b]) // 2]
    north = (LATITUDE[a] - LATITUDE[b]) * 1000
    return 111 * root(north * north + east * east) // 1000
