"""Where the money is spent: countries with currency and clock, merchant categories with prices.

Weights, prices and rates are round figures that make plausible traffic; none is a statistic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sluice.domain.records.currencies import EXPONENTS


@dataclass(frozen=True, slots=True)
class Country:
    """One country.

    offset_min: minutes east of UTC all year (no summer time). weight: share inside its region.
    per_eur: units of its currency for a euro, fixed. sca: strong authentication is the law.
    """

    code: str
    region: str
    currency: str
    offset_min: int
    weight: float
    per_eur: float
    price: float
    cash_step: int
    sca: bool = False


COUNTRIES: tuple[Country, ...] = (
    Country("DE", "eea", "EUR", 60, 20, 1.0, 1.0, 10, sca=True),
    Country("FR", "eea", "EUR", 60, 19, 1.0, 1.0, 10, sca=True),
    Country("ES", "eea", "EUR", 60, 14, 1.0, 0.9, 10, sca=True),
    Country("IT", "eea", "EUR", 60, 13, 1.0, 0.9, 10, sca=True),
    Country("PT", "eea", "EUR", 0, 9, 1.0, 0.8, 10, sca=True),
    Country("NL", "eea", "EUR", 60, 9, 1.0, 1.0, 10, sca=True),
    Country("IE", "eea", "EUR", 0, 4, 1.0, 1.1, 10, sca=True),
    Country("PL", "eea", "PLN", 60, 7, 4.3, 0.7, 50, sca=True),
    Country("SE", "eea", "SEK", 60, 5, 11.3, 1.1, 100, sca=True),
    Country("GB", "uk", "GBP", 0, 1, 0.85, 1.05, 10, sca=True),
    Country("US", "us", "USD", -300, 1, 1.1, 1.15, 20),
    Country("BR", "latam", "BRL", -180, 5, 6.1, 0.6, 50),
    Country("MX", "latam", "MXN", -360, 4, 20.0, 0.6, 200),
    Country("CL", "latam", "CLP", -240, 2, 1020.0, 0.7, 10_000),
    Country("JP", "apac", "JPY", 540, 5, 162.0, 0.9, 1_000),
    Country("AU", "apac", "AUD", 600, 4, 1.65, 1.1, 20),
    Country("SG", "apac", "SGD", 480, 2, 1.45, 1.0, 10),
    Country("KW", "gulf", "KWD", 180, 2, 0.335, 1.0, 5),
    Country("AE", "gulf", "AED", 240, 3, 4.0, 1.0, 100),
)
REGIONS: tuple[str, ...] = tuple(dict.fromkeys(c.region for c in COUNTRIES))

CODES = np.array([c.code for c in COUNTRIES])
CURRENCIES = np.array([c.currency for c in COUNTRIES])
REGION_OF = np.array([REGIONS.index(c.region) for c in COUNTRIES])
MINOR_PER_EUR = np.array([c.per_eur * 10 ** EXPONENTS[c.currency] for c in COUNTRIES])
WHOLE_UNIT = np.array([max(10 ** EXPONENTS[c.currency], 1) for c in COUNTRIES])
CASH_STEP = np.array([c.cash_step * 10 ** EXPONENTS[c.currency] for c in COUNTRIES])
PRICE_LEVEL = np.array([c.price for c in COUNTRIES])
SCA = np.array([c.sca for c in COUNTRIES])


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of merchant. median_eur and sigma: lognormal amounts. online: share of its shops."""

    mcc: str
    share: float
    median_eur: float
    sigma: float
    online: float
    resale: bool = False
    """Goods that a thief can turn into money."""


CATEGORIES: tuple[Category, ...] = (
    Category("5411", 22, 24, 0.85, 0.05),  # groceries
    Category("5812", 10, 28, 0.70, 0.0),  # restaurants
    Category("5814", 11, 9, 0.55, 0.15),  # fast food
    Category("5541", 6, 42, 0.50, 0.0),  # fuel
    Category("5912", 4, 16, 0.75, 0.1),  # pharmacies
    Category("5311", 4, 45, 0.80, 0.3, resale=True),  # department stores
    Category("5651", 5, 48, 0.75, 0.5),  # clothing
    Category("5732", 3, 110, 0.95, 0.55, resale=True),  # electronics
    Category("5999", 7, 32, 0.90, 0.9),  # marketplaces and other shops
    Category("5816", 6, 6, 0.90, 1.0, resale=True),  # games and digital goods
    Category("5815", 4, 10, 0.45, 1.0),  # music, films
    Category("4814", 2, 25, 0.50, 0.8, resale=True),  # telephone
    Category("4111", 6, 5, 0.70, 0.3),  # local transport
    Category("4121", 3, 14, 0.60, 0.6),  # taxis
    Category("4511", 0.8, 190, 0.85, 0.95),  # airlines
    Category("7011", 1.2, 140, 0.75, 0.5),  # hotels
    Category("5942", 1.5, 18, 0.60, 0.6),  # books
    Category("5947", 0.8, 40, 0.80, 0.6, resale=True),  # gifts and vouchers
    Category("5944", 0.4, 160, 0.95, 0.3, resale=True),  # jewellery
    Category("7995", 1.0, 30, 1.00, 1.0, resale=True),  # betting
    Category("8398", 0.5, 15, 0.80, 0.8),  # charities
    Category("6011", 4, 80, 0.70, 0.0, resale=True),  # cash machines
    Category("7230", 1.5, 35, 0.50, 0.0),  # hairdressers
    Category("8099", 1.3, 60, 0.80, 0.2),  # health
)
MCCS = np.array([c.mcc for c in CATEGORIES])
CASH = int(np.flatnonzero(MCCS == "6011")[0])
TRAVEL = np.isin(MCCS, ["4511", "7011"])
MEDIAN_EUR = np.array([c.median_eur for c in CATEGORIES])
SIGMA = np.array([c.sigma for c in CATEGORIES])
RESALE = np.array([c.resale for c in CATEGORIES])
