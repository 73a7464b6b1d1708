"""A bank's traffic as a function of (configuration, seed, day): any day, with nothing before it.

So a history written today and a stream started tomorrow are one world: same cards, same
merchants, and the campaigns that began in the history go on in the stream.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from datetime import date

import numpy as np

from sluice_simulator import geography as geo
from sluice_simulator import identifiers as ids
from sluice_simulator.batch import Batch
from sluice_simulator.campaigns import DAY_US, HOUR_US, SPAN_DAYS, CampaignPlan, blocks
from sluice_simulator.config import Config
from sluice_simulator.labels import LONGEST_DAYS
from sluice_simulator.people import (
    COUNTRIES,
    EVERYWHERE,
    HABITS_ONLINE,
    HABITS_SHOP,
    Cards,
    Merchants,
    country_shares,
    stream,
)
from sluice_simulator.purchases import pay
from sluice_simulator.rows import ECOM, KIND_INDEX, Bools, Floats, Ints, Rows
from sluice_simulator.seasons import (
    ONLINE,
    SHOP,
    day_date,
    day_number,
    hour_weights,
    sale,
    usual_factors,
)

_HABIT = 0.65
_ABROAD_ONLINE = 0.25
"""Of online purchases outside habit: share at merchants of any country."""
_TOUR = 0.12
"""Share of busy card-days on which all purchases fall within two hours: an honest spree."""
_VERIFICATION = 0.006
"""Of online authorizations: for nothing, to see whether the card works."""
_BLOCKED_US = 2 * DAY_US


class World:
    """One bank. Deterministic: same configuration, seed and day, same rows."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed
        share = country_shares(config)
        self.merchants = Merchants(config, seed, share)
        self.cards = Cards(config, seed, self.merchants, share)
        usual = usual_factors()
        online = self.cards.online
        self.genuine_a_day = float(
            np.sum(self.cards.rate * ((1 - online) * usual[SHOP] + online * usual[ONLINE]))
        )
        """Expected, in a usual week."""
        self._plan = CampaignPlan(config, seed, self.cards, self.merchants, self.genuine_a_day)
        self._started: OrderedDict[int, Rows] = OrderedDict()

    @property
    def authorizations_a_day(self) -> float:
        """Expected number, fraud included, before any drift."""
        return self.genuine_a_day / (1 - self.config.fraud_bp / 10_000)

    def day(self, day: date | int) -> Batch:
        """All authorizations of one UTC day, by time."""
        number = day if isinstance(day, int) else day_number(day)
        fraud = np.concatenate([_of_day(self._starting(d), number) for d in _span(number)])
        genuine = self._genuine(number)
        rows = np.concatenate([self._without_stolen(genuine, number), fraud])
        return Batch(self, rows[np.argsort(rows["event_us"], kind="stable")])

    def days(self, start: date, days: int) -> Iterator[Batch]:
        """One batch a day."""
        first = day_number(start)
        for number in range(first, first + days):
            yield self.day(number)

    def history(self, start: date, days: int) -> Batch:
        """All authorizations of some days, by time. Holds them all in memory: 100 bytes each."""
        return Batch(self, np.concatenate([b.rows for b in self.days(start, days)]))

    def reported(self, start: date | int, since: date | int) -> Batch:
        """Reported rows of campaigns, from authorizations since one day, known from another on.

        What a stream that starts at ``start`` still has to hear about. Not the stream's own days.
        """
        first = start if isinstance(start, int) else day_number(start)
        oldest = since if isinstance(since, int) else day_number(since)
        oldest = max(oldest, first - LONGEST_DAYS - 1)
        rows = np.concatenate(
            [np.zeros(0, self._starting(first).dtype)]
            + [self._starting(d) for d in range(oldest - SPAN_DAYS, first)]
        )
        keep = (rows["known_us"] >= first * DAY_US) & (rows["event_us"] < first * DAY_US)
        keep &= rows["event_us"] >= oldest * DAY_US
        return Batch(self, rows[keep])

    def _starting(self, day: int) -> Rows:
        rows = self._started.get(day)
        if rows is None:
            rows = self._started[day] = self._plan.starting(day)
            if len(self._started) > SPAN_DAYS + LONGEST_DAYS + 2:
                self._started.popitem(last=False)
        return rows

    def _without_stolen(self, genuine: Rows, day: int) -> Rows:
        """Drop what an owner cannot pay: the card is stolen, then blocked for two days."""
        taken: dict[int, int] = {}
        for earlier in range(day - 4, day + 1):
            rows = self._starting(earlier)
            rows = rows[blocks(rows)]
            for card, event_us in zip(
                rows["card"].tolist(), rows["event_us"].tolist(), strict=True
            ):
                taken[card] = min(event_us, taken.get(card, event_us))
        if not taken:
            return genuine
        since = np.full(self.cards.count, np.iinfo(np.int64).max // 2)
        since[list(taken)] = list(taken.values())
        event_us, stolen_us = genuine["event_us"], since[genuine["card"]]
        return genuine[(event_us < stolen_us) | (event_us > stolen_us + _BLOCKED_US)]

    def _genuine(self, day: int) -> Rows:
        rng = stream(self.seed, 5, day)
        cards, merchants = self.cards, self.merchants
        weights = hour_weights(day)
        total = weights.sum(axis=2)
        away = cards.away(day)
        place = cards.home.copy()
        travellers = np.flatnonzero(away)
        place[travellers] = cards.destination(travellers, day)
        in_shops = rng.poisson(cards.rate * (1 - cards.online) * total[cards.home, SHOP])
        remotely = rng.poisson(cards.rate * cards.online * total[cards.home, ONLINE])
        shoppers = np.repeat(cards.slot, in_shops)
        card = np.concatenate([shoppers, np.repeat(cards.slot, remotely)])
        n, walkers = len(card), len(shoppers)
        online = np.arange(n) >= walkers
        country = place[card]
        merchant = self._choose(rng, card, country, away[card], online)
        event_us = day * DAY_US + _times(rng, weights, country, online)
        event_us[:walkers] = self._tours(rng, day, in_shops, event_us[:walkers])
        category = merchants.category[merchant]
        eur = geo.MEDIAN_EUR[category] * np.exp(geo.SIGMA[category] * rng.standard_normal(n))
        eur *= merchants.price[merchant] * cards.spending[card]
        eur *= geo.PRICE_LEVEL[merchants.country[merchant]]
        eur[online & (rng.random(n) < _VERIFICATION)] = 0.0
        if sale(day_date(day)):
            eur *= np.where(online, 1.25, 1.1)
        rows = pay(
            merchants,
            rng,
            card=card,
            home=cards.home[card],
            merchant=merchant,
            event_us=event_us,
            eur=eur,
        )
        self._own_device(rng, rows, day, country)
        rows["kind"][away[card]] = KIND_INDEX["holiday_travel"]
        return rows

    def _choose(
        self, rng: np.random.Generator, card: Ints, country: Ints, away: Bools, online: Bools
    ) -> Ints:
        """(n,) merchants: by habit, or by popularity where the card is, or anywhere online."""
        cards, n = self.cards, len(card)
        chance, first, second = rng.random((3, n))
        row = 2 * np.where(online, cards.home[card], country) + online
        row[online & (second < _ABROAD_ONLINE)] = EVERYWHERE
        merchant = self.merchants.pick(row, first)
        favourite = (second**2 * HABITS_SHOP).astype(np.int64)
        shop = (chance < _HABIT) & ~online & ~away
        merchant[shop] = cards.habits_shop[card[shop], favourite[shop]]
        site = (chance < _HABIT) & online
        favourite = favourite * HABITS_ONLINE // HABITS_SHOP
        merchant[site] = cards.habits_online[card[site], favourite[site]]
        return merchant

    def _tours(self, rng: np.random.Generator, day: int, in_shops: Ints, event_us: Ints) -> Ints:
        """Draw some busy card-days' purchases together, within two hours."""
        cards = self.cards
        tour = ids.unit(ids.mix(self.seed, ids.TOUR, cards.slot, day)) < _TOUR
        tour &= in_shops >= 3
        first = np.repeat(np.cumsum(in_shops) - in_shops, in_shops)
        together = event_us[first] + (rng.random(len(event_us)) * 2 * HOUR_US).astype(np.int64)
        together = np.minimum(together, (day + 1) * DAY_US - 1)
        return np.where(np.repeat(tour, in_shops), together, event_us)

    def _own_device(self, rng: np.random.Generator, rows: Rows, day: int, country: Ints) -> None:
        """Device and network of remote purchases, in place; 4 % are renewals, with neither."""
        remote = np.flatnonzero((rows["channel"] == ECOM) & (rng.random(len(rows)) >= 0.04))
        card = rows["card"][remote].astype(np.int64)
        laptop = rng.random(len(remote)) < 0.25
        rows["device"][remote] = self.cards.phone(card, day, laptop)
        rows["ip"][remote] = self.cards.address(card, country[remote], rng.random(len(remote)))
        fresh = ~laptop & (self.cards.phone_age_days(card, day) < 3)
        rows["kind"][remote[fresh]] = KIND_INDEX["new_phone"]


def _times(rng: np.random.Generator, weights: Floats, country: Ints, online: Bools) -> Ints:
    """(n,) µs since midnight, by the clock of the country where each buyer is."""
    table = weights.reshape(2 * COUNTRIES, 24)
    cumulative = np.cumsum(table, axis=1)
    cumulative /= cumulative[:, -1:]
    lines = (cumulative + np.arange(2 * COUNTRIES)[:, None]).ravel()
    row = 2 * country + online
    hour = np.searchsorted(lines, row + rng.random(len(row)), side="right") - 24 * row
    hour = np.clip(hour, 0, 23)
    return hour * HOUR_US + rng.integers(0, HOUR_US, len(row))


def _span(day: int) -> range:
    return range(day - SPAN_DAYS, day + 1)


def _of_day(rows: Rows, day: int) -> Rows:
    first, last = np.searchsorted(rows["event_us"], [day * DAY_US, (day + 1) * DAY_US])
    return rows[first:last]
