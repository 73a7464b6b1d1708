"""Fraud as campaigns: each kind is one function from a start day to its authorizations.

Figures are those of docs/explanation/simulator.md, where each has its source. A campaign may
run for weeks; it is drawn whole, from its own numbers, so any day of it can be asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sluice_simulator import geography as geo
from sluice_simulator import labels
from sluice_simulator.config import Config
from sluice_simulator.people import EVERYWHERE, Cards, Merchants, relays, stream
from sluice_simulator.purchases import CONTACTLESS_LIMIT_EUR, pay
from sluice_simulator.rows import (
    BENIGN,
    CONTACTLESS,
    ECOM,
    FRAUD,
    KIND_INDEX,
    POS,
    Bools,
    Floats,
    Ints,
    Rows,
    empty,
)
from sluice_simulator.seasons import HOURS, ONLINE, SHOP, day_number

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
SPAN_DAYS = 50
"""No campaign lasts longer; a day's fraud comes from the campaigns of the 50 days before."""
LARGEST_CARDS = 200
USUAL_EUR = 30.0
"""A middling purchase, before the card's own spending factor."""
_NEW_ACCOUNT_DAYS = 10
_SAMPLES = 150


@dataclass(frozen=True)
class Scene:
    """What a campaign sees of the world, the day on which it starts, and its own numbers."""

    config: Config
    seed: int
    cards: Cards
    merchants: Merchants
    rng: np.random.Generator
    day: int
    room: int
    """Cards in the largest campaign: small where there is little fraud, so that every month
    holds several campaigns of each kind."""

    def moment(self) -> int:
        """Any time of the first day, µs."""
        return self.day * DAY_US + int(self.rng.integers(0, DAY_US))

    def local(self, country: int, profile: int, day: int | None = None) -> int:
        """A time when people of a country shop, on the first day or another, µs."""
        hour = int(self.rng.choice(24, p=HOURS[profile])) * 60 - geo.COUNTRIES[country].offset_min
        minute = hour % 1440 + self.rng.random() * 60
        return (self.day if day is None else day) * DAY_US + int(minute % 1440 * MINUTE_US)

    def any_cards(self, size: int) -> Ints:
        """(size,) distinct cards, the busy ones rather."""
        size = min(size, self.cards.count // 2)
        found: list[int] = []
        while len(found) < size:
            drawn = self.rng.integers(0, self.cards.count, 4 * size)
            busy = self.rng.random(4 * size) < self.cards.rate[drawn] / 3
            found = list(dict.fromkeys([*found, *drawn[busy].tolist()]))
        return np.array(found[:size])

    def shops(self, size: int, *, online: bool, country: int | None = None) -> Ints:
        """(size,) merchants by popularity, mostly those whose goods can be sold on."""
        tries = 4
        row = EVERYWHERE if online and country is None else 2 * (country or 0) + online
        drawn = self.merchants.pick(
            np.full(size * tries, row), self.rng.random(size * tries)
        ).reshape(size, tries)
        wanted = geo.RESALE[self.merchants.category[drawn]]
        first = np.argmax(wanted, axis=1)
        first[self.rng.random(size) < 0.25] = 0
        return drawn[np.arange(size), first]

    def pay(self, card: Ints, merchant: Ints, event_us: Ints, eur: Floats) -> Rows:
        """Rows of the thief's purchases, by the same hands that make everyone's."""
        return pay(
            self.merchants,
            self.rng,
            card=card,
            home=self.cards.home[card],
            merchant=merchant,
            event_us=event_us,
            eur=eur,
        )

    def hide(self, rows: Rows, devices: int, networks: int) -> Rows:
        """Give remote rows a few devices and networks of the thief's own."""
        remote = rows["channel"] == ECOM
        device = self.rng.integers(1, 1 << 64, devices, np.uint64)
        prefix = relays(self.seed, self.rng, networks)
        n = len(rows)
        rows["device"] = np.where(remote, device[self.rng.integers(0, devices, n)], 0)
        rows["ip"] = np.where(remote, prefix[self.rng.integers(0, networks, n)], 0)
        return rows

    def usual(self, card: Ints) -> Floats:
        """(n,) euros that each card would spend at a middling shop."""
        return USUAL_EUR * self.cards.spending[card]

    def between(self, low: float, high: float, size: int) -> Floats:
        """(size,) uniform in [low, high)."""
        return self.rng.uniform(low, high, size)


def card_testing(scene: Scene) -> Rows:
    """5 to 200 cards at one to three web shops, 0 to 3 EUR, within 5 minutes to an hour; then
    10 to 35 % of the cards are spent on, 10 minutes to 3 days later."""
    rng = scene.rng
    size = int(np.exp(rng.uniform(np.log(5), np.log(scene.room + 1))))
    card = scene.any_cards(size)
    card = np.concatenate([card, card[rng.random(len(card)) < 0.3]])
    start, length = scene.moment(), int(rng.uniform(5, 60) * MINUTE_US)
    shops = scene.shops(int(rng.integers(1, 4)), online=True)
    n = len(card)
    eur = np.where(rng.random(n) < 0.1, 0.0, scene.between(0.1, 3.0, n))
    at = start + rng.integers(0, length, n)
    tests = scene.pay(card, shops[rng.integers(0, len(shops), n)], at, eur)
    tests = scene.hide(tests, int(rng.integers(1, 5)), int(rng.integers(1, 9)))
    return np.concatenate([tests, _follow_up(scene, card[:size], start + length)])


def low_and_slow(scene: Scene) -> Rows:
    """Tries that no counter of a merchant sees: two a merchant over two days, then the spending."""
    rng = scene.rng
    card = scene.any_cards(int(np.clip(scene.room // 2, 6, 60)))
    n = len(card)
    shops = np.repeat(scene.shops(n // 2 + 1, online=True), 2)[:n]
    start = scene.moment()
    tests = scene.pay(card, shops, start + rng.integers(0, 2 * DAY_US, n), scene.between(0.5, 9, n))
    tests = scene.hide(tests, n, max(n // 2, 1))
    return np.concatenate([tests, _follow_up(scene, card, start + 2 * DAY_US)])


def _follow_up(scene: Scene, card: Ints, after_us: int) -> Rows:
    rng = scene.rng
    good = card[rng.random(len(card)) < rng.uniform(0.10, 0.35)]
    card = np.repeat(good, rng.integers(1, 4, len(good)))
    n = len(card)
    if not n:
        return empty(0)
    first = {c: int(rng.uniform(10 * MINUTE_US, 3 * DAY_US)) for c in good.tolist()}
    wait = np.array([first[c] for c in card.tolist()]) + rng.integers(0, 3 * HOUR_US, n)
    eur = 90 * np.exp(0.7 * rng.standard_normal(n))
    rows = scene.pay(card, scene.shops(n, online=True), after_us + wait, eur)
    return scene.hide(rows, max(n // 3, 1), max(n // 3, 1))


def account_takeover(scene: Scene) -> Rows:
    """A new device on a foreign network: 3 to 8 purchases in 6 hours at 2 to 5 times the usual."""
    rng = scene.rng
    n = int(rng.integers(3, 9))
    card = np.repeat(scene.any_cards(1), n)
    at = scene.moment() + np.sort(rng.integers(0, 6 * HOUR_US, n))
    rows = scene.pay(
        card, scene.shops(n, online=True), at, scene.usual(card) * scene.between(2, 5, n)
    )
    return scene.hide(rows, 1, int(rng.integers(1, 3)))


def compromised_terminal(scene: Scene) -> Rows:
    """A terminal copies cards for 7 to 28 days. 5 to 60 % of its regulars are defrauded within
    three weeks: a third at the same terminal, the rest elsewhere, at the card's usual amounts."""
    rng, merchants, cards = scene.rng, scene.merchants, scene.cards
    regulars = np.zeros(0, np.int64)
    merchant = -1
    for _ in range(30):
        merchant = int(cards.habits_shop[int(rng.integers(0, cards.count)), 0])
        regulars = cards.regulars(merchant)
        if len(regulars) >= 5:
            break
    window = int(rng.integers(7, 29))
    most = int(np.clip(scene.room // 3, 4, 60))
    size = min(max(round(len(regulars) * rng.uniform(0.05, 0.60)), 1), most)
    card = np.repeat(rng.choice(regulars, size, replace=False), rng.integers(1, 5, size))
    n = len(card)
    here = rng.random(n) < 0.35
    home = int(merchants.country[merchant])
    place = rng.random(n)
    shops = np.where(
        here,
        merchant,
        np.where(
            place < 0.5,
            scene.shops(n, online=False, country=home),
            scene.shops(n, online=True),
        ),
    )
    copied = rng.integers(0, window, n)
    wait = np.where(here, 0, rng.integers(1, 22, n))
    at = np.array([scene.local(home, SHOP, scene.day + int(d)) for d in copied + wait])
    eur = scene.usual(card) * scene.between(0.6, 2.5, n)
    rows = scene.hide(scene.pay(card, shops, at, eur), max(n // 3, 1), max(n // 3, 1))
    rows["terminal"][here] = int(rng.integers(0, merchants.terminals[merchant]))
    return rows


def lost_stolen(scene: Scene) -> Rows:
    """Card present, below the contactless limit, 2 to 12 in 3 hours, until the card is blocked."""
    rng = scene.rng
    n = int(rng.integers(2, 13))
    card = np.repeat(scene.any_cards(1), n)
    home = int(scene.cards.home[card[0]])
    at = scene.local(home, SHOP) + np.sort(rng.integers(0, 3 * HOUR_US, n))
    shops = scene.shops(n, online=False, country=home)
    eur = scene.between(0.3, 0.98, n) * CONTACTLESS_LIMIT_EUR
    rows = scene.pay(card, shops, at, eur)
    rows["channel"][rows["channel"] == POS] = CONTACTLESS
    return rows


def stolen_card_data(scene: Scene) -> Rows:
    """Numbers from one leak: 1 to 8 cards, each used 2 to 6 times online over 14 days, at 1.5 to
    5 times the usual, between the owner's own purchases."""
    rng = scene.rng
    leak = scene.any_cards(int(rng.integers(1, int(np.clip(scene.room // 10, 3, 9)))))
    card = np.repeat(leak, rng.integers(2, 7, len(leak)))
    n = len(card)
    days = scene.day + rng.integers(0, 14, n)
    home = scene.cards.home[card]
    at = np.array([scene.local(int(h), ONLINE, int(d)) for h, d in zip(home, days, strict=True)])
    eur = scene.usual(card) * scene.between(1.5, 5, n)
    rows = scene.pay(card, scene.shops(n, online=True), at, eur)
    return scene.hide(rows, max(n // 4, 1), max(n // 3, 1))


def merchant_collusion(scene: Scene) -> Rows:
    """A merchant opened weeks ago takes even amounts from stolen cards, faster and faster."""
    rng, merchants = scene.rng, scene.merchants
    young = np.argsort(merchants.age_days(scene.day), kind="stable")[:8]
    merchant = int(rng.choice(young))
    n = int(rng.integers(8, int(np.clip(scene.room // 3, 12, 60))))
    card = scene.any_cards(n)
    n = len(card)
    days = rng.uniform(7, 20)
    at = scene.day * DAY_US + (np.sqrt(rng.random(n)) * days * DAY_US).astype(np.int64)
    eur = rng.choice([50.0, 80.0, 100.0, 150.0, 200.0, 250.0, 300.0], n)
    rows = scene.pay(card, np.full(n, merchant), at, eur)
    country = int(merchants.country[merchant])
    whole = int(geo.WHOLE_UNIT[country])
    whole = whole if whole > 1 else 100
    rows["amount"] = np.maximum(rows["amount"] // (5 * whole), 1) * 5 * whole
    return scene.hide(rows, max(n // 5, 1), max(n // 5, 1))


def new_account(scene: Scene) -> Rows:
    """An account opened with a false name: 4 to 12 growing purchases in its first 10 days."""
    rng = scene.rng
    age = scene.cards.age_days(scene.day)
    young = np.flatnonzero(age <= 3)
    if not len(young):
        young = np.argsort(age, kind="stable")[:3]
    n = int(rng.integers(4, 13))
    card = np.full(n, int(rng.choice(young)))
    at = scene.day * DAY_US + np.sort(rng.integers(0, (_NEW_ACCOUNT_DAYS - 3) * DAY_US, n))
    eur = 40 * np.exp(np.linspace(0, 2.0, n) + 0.3 * rng.standard_normal(n))
    home = int(scene.cards.home[card[0]])
    shops = np.where(
        rng.random(n) < 0.4,
        scene.shops(n, online=False, country=home),
        scene.shops(n, online=True),
    )
    rows = scene.hide(scene.pay(card, shops, at, eur), 1, 2)
    # The account is the thief's, so is the phone that the bank knows.
    remote = rows["channel"] == ECOM
    rows["device"][remote] = scene.cards.phone(card, scene.day, np.zeros(n, bool))[remote]
    return rows


def impossible_travel(scene: Scene) -> Rows:
    """A copied card in another region's shops, 2 to 5 times in 4 hours; its owner is at home."""
    rng = scene.rng
    n = int(rng.integers(2, 6))
    card = np.repeat(scene.any_cards(1), n)
    home = int(scene.cards.home[card[0]])
    far = np.flatnonzero(geo.REGION_OF[home] != geo.REGION_OF)
    there = int(rng.choice(far))
    at = scene.local(home, SHOP) + np.sort(rng.integers(0, 4 * HOUR_US, n))
    eur = scene.usual(card) * scene.between(1.5, 5, n)
    return scene.pay(card, scene.shops(n, online=False, country=there), at, eur)


def false_claim(scene: Scene) -> Rows:
    """The owner buys online on the usual device, and disputes it all the same."""
    rng = scene.rng
    card = scene.any_cards(1)
    home = scene.cards.home[card]
    at = np.array([scene.local(int(home[0]), ONLINE)])
    eur = scene.usual(card) * scene.between(0.5, 3, 1)
    shop = scene.cards.habits_online[card, rng.integers(0, 4, 1)].astype(np.int64)
    rows = scene.pay(card, shop, at, eur)
    remote = rows["channel"] == ECOM
    rows["device"] = np.where(remote, scene.cards.phone(card, scene.day, np.zeros(1, bool)), 0)
    rows["ip"] = np.where(remote, scene.cards.address(card, home, rng.random(1)), 0)
    return rows


def unlucky_terminal(scene: Scene) -> Rows:
    """One disputed purchase at a busy terminal where nothing is wrong."""
    rng = scene.rng
    card = scene.any_cards(1)
    shop = scene.cards.habits_shop[card, rng.integers(0, 3, 1)].astype(np.int64)
    at = np.array([scene.local(int(scene.cards.home[card[0]]), SHOP)])
    return scene.pay(card, shop, at, scene.usual(card) * scene.between(0.3, 2, 1))


GENERATORS: dict[str, Callable[[Scene], Rows]] = {
    f.__name__: f
    for f in (
        card_testing,
        account_takeover,
        compromised_terminal,
        lost_stolen,
        stolen_card_data,
        merchant_collusion,
        new_account,
        impossible_travel,
        low_and_slow,
        false_claim,
        unlucky_terminal,
    )
}
_ANCHOR = 18_262
"""2020-01-01: campaigns are counted from here."""


class CampaignPlan:
    """Which campaigns start on which day, so that the wanted share of authorizations is fraud.

    Campaigns of a kind come evenly (their running count is a rounded-down line), so that even a
    short history holds the wanted mix; when in the day, on whom and how large stays random.
    """

    def __init__(
        self, config: Config, seed: int, cards: Cards, merchants: Merchants, genuine_a_day: float
    ) -> None:
        self._config, self._seed, self._cards, self._merchants = config, seed, cards, merchants
        fraud = config.fraud_bp / 10_000
        a_day = genuine_a_day * fraud / (1 - fraud)
        self._room = int(np.clip(2 * a_day, 8, LARGEST_CARDS))
        whole = sum(config.campaigns.values()) or 1.0
        rng = stream(seed, 3)
        self._phase = {kind: float(rng.random()) for kind in GENERATORS}
        chosen = {str(kind): weight for kind, weight in config.campaigns.items()}
        weights: dict[str, float] = {kind: chosen.get(kind, 0.0) for kind in FRAUD}
        weights["false_claim"] = whole * config.false_claims * 0.7
        weights["unlucky_terminal"] = whole * config.false_claims * 0.3
        drifting = {step.kind for step in config.drift}
        self._lines: dict[str, list[tuple[int, float]]] = {}
        for kind, weight in weights.items():
            if not weight and kind not in drifting:
                continue
            scale = a_day / whole / self._mean_size(kind)
            line = [(_ANCHOR, weight * scale)]
            for step in sorted(config.drift, key=lambda s: s.since):
                if step.kind == kind:
                    line.append((day_number(step.since), step.weight * scale))
            self._lines[kind] = line

    def starting(self, day: int) -> Rows:
        """All rows of the campaigns that start on a day, in the order of their time.

        Their own days reach from day to day + SPAN_DAYS. Labels are drawn.
        """
        found = [empty(0)]
        for kind, line in self._lines.items():
            phase = self._phase[kind]
            first = int(np.floor(_integral(line, day) + phase))
            last = int(np.floor(_integral(line, day + 1) + phase))
            found += [self._draw(kind, day, number) for number in range(last - first)]
        rows = np.concatenate(found)
        return rows[np.argsort(rows["event_us"], kind="stable")]

    def _draw(self, kind: str, day: int, number: int) -> Rows:
        index = KIND_INDEX[kind]
        rng = stream(self._seed, 4, index, day, number)
        scene = Scene(self._config, self._seed, self._cards, self._merchants, rng, day, self._room)
        rows = GENERATORS[kind](scene)
        rows["kind"], rows["campaign_day"], rows["campaign_no"] = index, day, number
        labels.report(rows, self._config, rng)
        if kind in BENIGN:
            # An honest purchase has a label here only because it was disputed.
            never = rows["way"] == 0
            rows["way"][never] = 3
            rows["known_us"][never] = rows["event_us"][never] + int(labels.MEDIAN_DAYS * DAY_US)
        return rows

    def _mean_size(self, kind: str) -> float:
        """Authorizations in a campaign, by drawing some that never happen."""
        sizes = [len(self._draw(kind, _ANCHOR + k, 1_000_000 + k)) for k in range(_SAMPLES)]
        return float(np.mean(sizes))


def _integral(line: list[tuple[int, float]], day: int) -> float:
    """Area under a step function from its first step to a day; negative before it."""
    total = 0.0
    for i, (since, height) in enumerate(line):
        until = line[i + 1][0] if i + 1 < len(line) else day
        end = min(until, day)
        if i == 0 or end > since:
            total += height * (end - since)
    return total


def blocks(rows: Rows) -> Bools:
    """(n,) rows after which the owner no longer has the card."""
    return rows["kind"] == KIND_INDEX["lost_stolen"]
