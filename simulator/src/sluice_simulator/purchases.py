"""One way to pay, for customers and thieves alike, so that nothing but behaviour tells them apart.

Given who pays where, when and about how much, this fills in what a terminal or web shop adds:
channel, currency and rounding, terminal, device, network, 3-D Secure.
"""

from __future__ import annotations

import numpy as np

from sluice_simulator import geography as geo
from sluice_simulator.people import Merchants
from sluice_simulator.rows import ATM, CONTACTLESS, ECOM, MOTO, POS, Floats, Ints, Rows, empty

CONTACTLESS_LIMIT_EUR = 50.0
_SCA = np.cumsum([0.18, 0.55, 0.20, 0.05])  # none, frictionless, challenged, attempted; failed
_ELSEWHERE = np.cumsum([0.75, 0.14, 0.05, 0.05])


def pay(
    merchants: Merchants,
    rng: np.random.Generator,
    *,
    card: Ints,
    home: Ints,
    merchant: Ints,
    event_us: Ints,
    eur: Floats,
) -> Rows:
    """(n,) of each to n rows; device and network of remote payments are the caller's.

    home: country of each card. eur: amount before currency and price endings.
    """
    n = len(card)
    rows = empty(n)
    rows["card"], rows["merchant"], rows["event_us"] = card, merchant, event_us
    till = rng.random(n) ** 1.5 * merchants.terminals[merchant]
    rows["terminal"] = till
    category = merchants.category[merchant]
    cash = category == geo.CASH
    chance = rng.random(n)
    in_shop = np.where((eur <= CONTACTLESS_LIMIT_EUR) & (chance < 0.8), CONTACTLESS, POS)
    remote = np.where((chance < 0.25) & geo.TRAVEL[category], MOTO, ECOM)
    channel = np.where(merchants.online[merchant], remote, np.where(cash, ATM, in_shop))
    rows["channel"] = channel
    rows["amount"] = _price(eur, merchants.country[merchant], cash, rng.random(n))
    rows["three_ds"] = _three_ds(channel, eur, geo.SCA[home], rng.random(n), rng.random(n))
    bits = rng.integers(0, 1 << 64, (2, n), np.uint64)
    rows["high"], rows["low"] = bits
    return rows


def _price(eur: Floats, country: Ints, cash: np.ndarray, chance: Floats) -> Ints:
    """(n,) euros to minor units of each country's currency, with the endings that prices have."""
    minor = np.rint(eur * geo.MINOR_PER_EUR[country]).astype(np.int64)
    whole = geo.WHOLE_UNIT[country]
    # Currencies without a minor unit still have customary endings: 980 yen, 10 990 pesos.
    whole = np.where(whole == 1, 10 * np.maximum(geo.MINOR_PER_EUR[country] // 100, 1), whole)
    whole = whole.astype(np.int64)
    step = geo.CASH_STEP[country]
    rounded = (minor // whole + 1) * whole
    minor = np.where(chance < 0.22, rounded - np.maximum(whole // 100, 1), minor)
    minor = np.where((chance > 0.85) & (minor > whole), rounded, minor)
    minor = np.where(whole == 1000, minor // 5 * 5, minor)  # no fils below 5
    minor = np.where(cash, np.maximum(minor // step, 1) * step, minor)
    return np.where(eur <= 0, 0, np.maximum(minor, 1))


def _three_ds(channel: Ints, eur: Floats, sca: np.ndarray, first: Floats, second: Floats) -> Ints:
    """(n,) outcomes: always tried where the law asks for it, but for small amounts."""
    by_law = (first[:, None] >= _SCA).sum(axis=1)
    elsewhere = (first[:, None] >= _ELSEWHERE).sum(axis=1)
    exempt = (eur < 30) & (second < 0.7)
    outcome = np.where(sca, np.where(exempt, 0, by_law), elsewhere)
    return np.where(channel == ECOM, outcome, 0)
