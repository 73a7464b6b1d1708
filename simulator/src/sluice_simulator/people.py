"""The standing population: cards with habits, merchants with popularity. A function of the seed.

Whoever is in a slot changes: cards and merchants close and others open in their place, phones
are replaced, people travel. Each of these is a function of the slot and the day alone, so that
any day can be made without the days before it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sluice_simulator import geography as geo
from sluice_simulator import identifiers as ids
from sluice_simulator.config import Config
from sluice_simulator.rows import Bools, Floats, Ints

I32 = npt.NDArray[np.int32]
HABITS_SHOP, HABITS_ONLINE = 8, 4
HABITS_OFTEN = 4
"""The first habits are the strongest: these four shops get seven in ten habitual purchases."""
CARDS_PER_MERCHANT = 15
COUNTRIES = len(geo.COUNTRIES)
EVERYWHERE = 2 * COUNTRIES
"""Row of the table that holds the online merchants of all countries."""


def stream(seed: int, *purpose: int) -> np.random.Generator:
    """An independent source of numbers for one purpose of one world."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *purpose])))


class Merchants:
    """(m,) merchants: country, category, online, price factor, number of terminals."""

    def __init__(self, config: Config, seed: int, country_share: Floats) -> None:
        rng = stream(seed, 1)
        wanted = config.cards / CARDS_PER_MERCHANT
        shares = np.array([c.share for c in geo.CATEGORIES])
        shares /= shares.sum()
        country, category, online, weight = [], [], [], []
        for place in range(COUNTRIES):
            for kind, what in enumerate(geo.CATEGORIES):
                for is_online, part in ((False, 1 - what.online), (True, what.online)):
                    if not part:
                        continue
                    size = max(2, round(wanted * country_share[place] * shares[kind] * part))
                    country += [place] * size
                    category += [kind] * size
                    online += [is_online] * size
                    zipf = 1 / np.arange(1, size + 1)
                    weight.append(shares[kind] * part * zipf / zipf.sum())
        self.country = np.array(country)
        self.category = np.array(category)
        self.online = np.array(online)
        self.weight = np.concatenate(weight)
        self.count = len(self.country)
        self.price = np.exp(0.3 * rng.standard_normal(self.count))
        local = self.weight * wanted * country_share[self.country]
        tills = np.minimum(1 + np.sqrt(4 * local).astype(np.int64), 40)
        self.terminals = np.where(self.online, 1, tills)
        self.life, self.phase = _lives(rng, self.count, config.merchant_churn_month)
        self._table(country_share)

    def _table(self, country_share: Floats) -> None:
        """Cumulative popularity by row: shops of each country, online of each, online of all."""
        row = 2 * self.country + self.online
        order = np.argsort(row, kind="stable")
        online = np.flatnonzero(self.online)
        weight = np.concatenate(
            [self.weight[order], (self.weight * country_share[self.country])[online]]
        )
        rows = np.concatenate([row[order], np.full(len(online), EVERYWHERE)])
        self._order = np.concatenate([order, online])
        total = np.cumsum(weight)
        first = np.searchsorted(rows, np.arange(EVERYWHERE + 2))
        before = np.concatenate([[0.0], total])[first[:-1]]
        sums = np.concatenate([[0.0], total])[first[1:]] - before
        self._cumulative = rows + (total - before[rows]) / sums[rows]
        self._last = first[1:] - 1

    def pick(self, row: Ints, uniform: Floats) -> Ints:
        """(n,) merchants by popularity. row: 2 * country + online, or EVERYWHERE."""
        place = np.searchsorted(self._cumulative, row + uniform, side="right")
        return self._order[np.minimum(place, self._last[row])]

    def generation(self, merchant: Ints, day: Ints | int) -> Ints:
        """(n,) which of its holders has the merchant's slot on a day."""
        return (day + self.phase[merchant]) // self.life[merchant]

    def age_days(self, day: int) -> Ints:
        """(m,) days since each merchant opened."""
        return (day + self.phase) % self.life


class Cards:
    """(n,) cards: home, activity, habits; owner is the slot whose customer holds the card."""

    def __init__(self, config: Config, seed: int, merchants: Merchants, share: Floats) -> None:
        rng = stream(seed, 2)
        n = config.cards
        self.count = n
        self.slot = np.arange(n)
        self.owner = np.where(self.slot % 8 == 7, self.slot - 1, self.slot)
        self.home = rng.choice(COUNTRIES, n, p=share)[self.owner]
        shape = 1.3
        rate = rng.gamma(shape, config.per_card_day / shape, n)
        self.rate = np.clip(rate, 0.05, max(6.0, config.per_card_day))
        self.rate *= config.per_card_day / self.rate.mean()
        self.online = rng.beta(2.2, 4.0, n)
        self.spending = np.exp(0.45 * rng.standard_normal(n))
        self.life, self.phase = _lives(rng, n, config.card_churn_month)
        self.trip_every = rng.integers(150, 500, n)
        self.trip_days = rng.integers(3, 15, n)
        self.trip_phase = rng.integers(0, 500, n)
        self.phone_every = rng.integers(500, 1100, n)[self.owner]
        self.phone_phase = rng.integers(0, 1100, n)[self.owner]
        self.habits_shop = self._habits(rng, merchants, HABITS_SHOP, online=False)
        self.habits_online = self._habits(rng, merchants, HABITS_ONLINE, online=True)
        self._seed = seed
        often = self.habits_shop[:, :HABITS_OFTEN].ravel()
        self._by_shop = np.argsort(often, kind="stable")
        self._shops = often[self._by_shop]
        same = geo.REGION_OF[:, None] == geo.REGION_OF[None, :]
        self._trips = np.cumsum(_rows_to_one(share[None, :] * np.where(same, 4.0, 1.0)), axis=1)

    def _habits(
        self, rng: np.random.Generator, merchants: Merchants, k: int, *, online: bool
    ) -> I32:
        row = np.repeat(2 * self.home + online, k)
        if online:
            row[rng.random(len(row)) < 0.15] = EVERYWHERE
        return merchants.pick(row, rng.random(len(row))).reshape(-1, k).astype(np.int32)

    def regulars(self, merchant: int) -> Ints:
        """Cards that have a shop among those they visit most."""
        first, last = np.searchsorted(self._shops, [merchant, merchant + 1])
        return np.unique(self._by_shop[first:last] // HABITS_OFTEN)

    def generation(self, card: Ints, day: Ints | int) -> Ints:
        """(n,) which of its holders has the card's slot on a day."""
        return (day + self.phase[card]) // self.life[card]

    def age_days(self, day: int) -> Ints:
        """(cards,) days since each card was issued."""
        return (day + self.phase) % self.life

    def away(self, day: int) -> Bools:
        """(cards,) who is abroad."""
        return (day + self.trip_phase) % self.trip_every < self.trip_days

    def destination(self, card: Ints, day: int) -> Ints:
        """(n,) country in which each travelling card is; four times rather in its own region."""
        trip = (day + self.trip_phase[card]) // self.trip_every[card]
        where = ids.unit(ids.mix(self._seed, ids.TRIP, card, trip))
        place = (self._trips[self.home[card]] <= where[:, None]).sum(axis=1)
        place = np.minimum(place, COUNTRIES - 1)
        return np.where(place == self.home[card], (place + 1) % COUNTRIES, place)

    def phone(self, card: Ints, day: int, laptop: Bools) -> ids.U64:
        """(n,) the owner's device on a day: a phone that is replaced, or a laptop."""
        owner = self.owner[card]
        number = (day + self.phone_phase[card]) // self.phone_every[card]
        holder = self.generation(owner, day)
        return ids.mix(
            self._seed, ids.PHONE, owner, holder, np.where(laptop, -1, number)
        ) | np.uint64(1)

    def phone_age_days(self, card: Ints, day: int) -> Ints:
        """(n,) days since the owner's phone was new."""
        return (day + self.phone_phase[card]) % self.phone_every[card]

    def address(self, card: Ints, country: Ints, uniform: Floats) -> npt.NDArray[np.uint32]:
        """(n,) network prefix of a purchase: at home, the mobile network of a country, a relay."""
        home = ids.mix(self._seed, ids.HOME, self.owner[card])
        mobile = ids.mix(self._seed, ids.PREFIX, country, (uniform * 1024).astype(np.int64) % 24)
        relay = ids.mix(self._seed, ids.PREFIX, 999, (uniform * 4096).astype(np.int64) % RELAYS)
        at_home = (uniform < 0.6) & (country == self.home[card])
        chosen = np.where(at_home, home, np.where(uniform < 0.97, mobile, relay))
        return (chosen % np.uint64(ids.IP_SPACE) + np.uint64(1)).astype(np.uint32)


RELAYS = 64
"""Prefixes of relays and VPNs, which honest people and thieves share."""


def relays(seed: int, rng: np.random.Generator, size: int) -> npt.NDArray[np.uint32]:
    """(size,) prefixes behind which a thief hides: mostly relays, some rented machines."""
    relay = ids.mix(seed, ids.PREFIX, 999, rng.integers(0, RELAYS, size))
    rented = rng.integers(0, 1 << 63, size).astype(np.uint64)
    chosen = np.where(rng.random(size) < 0.6, relay, rented)
    return (chosen % np.uint64(ids.IP_SPACE) + np.uint64(1)).astype(np.uint32)


def country_shares(config: Config) -> Floats:
    """(countries,) share of the cards that live in each."""
    share = np.array([c.weight for c in geo.COUNTRIES], float)
    chosen = {str(region): weight for region, weight in config.regions.items()}
    for index, region in enumerate(geo.REGIONS):
        inside = index == geo.REGION_OF
        share[inside] *= chosen.get(region, 0.0) / share[inside].sum()
    return share / share.sum()


def _lives(rng: np.random.Generator, n: int, churn_month: float) -> tuple[Ints, Ints]:
    """(n,) days that a holder keeps a slot, and the phase. Without churn: for ever."""
    mean = 30.4 / churn_month if churn_month else 1e6
    life = np.maximum((mean * rng.uniform(0.7, 1.3, n)).astype(np.int64), 2)
    return life, (rng.random(n) * life).astype(np.int64)


def _rows_to_one(table: Floats) -> Floats:
    return table / table.sum(axis=1, keepdims=True)
