"""Every feature, once: name, unit, window, default, meaning. Everything else reads this table.

A feature is a small integer operation on *registers*: the sums, counts and ages that the kernel
takes from the four states at the authorization's own time. Registers of one feature belong to one
entity (or to the authorization itself, ``now``), so each entity can be computed on its own.

Windows. A card remembers its last 64 authorizations, so 1m to 1d are exact: (t - w, t]. All
others are tiles, aligned to the UTC minute, hour or day: a window of n tiles is the tile that
holds t and the n - 1 before it. See docs/decisions/0001-window-edges.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sluice.domain.records.entity import ENTITY_KINDS, EntityKind

Entity = EntityKind | Literal["context"]
ENTITIES: tuple[Entity, ...] = (*ENTITY_KINDS, "context")
VIEWS = ENTITY_KINDS
"""The entities whose state is read from the store; bit i of a missing mask is VIEWS[i]."""

WINDOWS: dict[str, int] = {
    "1m": 60,
    "5m": 300,
    "1h": 3_600,
    "6h": 21_600,
    "1d": 86_400,
    "7d": 604_800,
    "30d": 2_592_000,
}
"""Name and nominal span in seconds."""

CARD_SUMS = (
    "count",
    "amount",
    "declines",
    "ecom",
    "small",
    "here_count",
    "here_amount",
    "merchants",
    "devices",
    "countries",
    "max",
)
"""Of a card, per window. ``here`` is this merchant; ``small`` is below SMALL_MINOR."""
CARD_FACTS = (
    "others",
    "age_s",
    "since_last_s",
    "last_amount",
    "mean",
    "deviation",
    "other_max",
    "ema",
    "jumps_7d",
    "first_merchant",
    "first_country",
    "first_currency",
    "first_device",
    "first_mcc",
    "first_channel",
    "country_changed",
    "currency_changed",
    "device_changed",
    "speed_kmh",
    "since_here_s",
    "frauds",
    "since_fraud_s",
    "excess",
)
"""Of a card, over its other remembered authorizations up to t."""
TILE_SUMS = ("count", "amount", "declines", "cards", "frauds")
"""Of a terminal, merchant or device, per window."""
TILE_FACTS = (
    "age_s",
    "since_last_s",
    "since_first_fraud_s",
    "since_last_fraud_s",
    "since_genuine_s",
)
NOW_FACTS = (
    "amount",
    "is_pos",
    "is_contactless",
    "is_ecom",
    "is_moto",
    "is_atm",
    "has_three_ds",
    "three_ds_failed",
    "is_cross_border",
    "has_device",
    "mcc_risk",
    "is_round",
    "hour_utc",
    "weekday",
    "day_of_month",
)
SMALL_MINOR = 300
"""Three euros: what card testing stays below (ACFE; see docs/explanation/simulator.md)."""
NEVER_S = 400 * 86_400
"""Said of an age when the thing never happened; ages are cut here."""
MCC_RISK: dict[int, int] = (
    dict.fromkeys((4829, 5944, 5816, 6010, 6011, 6051, 6211, 6540, 7273, 7801, 7995), 3)
    | dict.fromkeys((4722, 4816, 5045, 5094, 5122, 5691, 5732, 5734, 5815, 5817, 5818, 5912, 5967, 7011), 2)
    | dict.fromkeys((3000, 4511, 5311, 5399, 5651, 5661, 5735, 5941, 5945, 5964, 5999, 7299), 1)
)  # fmt: skip
"""Risk class by merchant category: 3 cash-like and gambling, 2 easily resold goods, 1 retail by
post, 0 the rest. Ours, not a network's."""


def _registers() -> dict[str, int]:
    names = [f"card.{s}.{w}" for s in CARD_SUMS for w in WINDOWS]
    names += [f"card.{fact}" for fact in CARD_FACTS]
    for entity in VIEWS[1:]:
        names += [f"{entity}.{s}.{w}" for s in TILE_SUMS for w in WINDOWS]
        names += [f"{entity}.{fact}" for fact in TILE_FACTS]
    names += [f"now.{fact}" for fact in NOW_FACTS]
    return {name: i for i, name in enumerate(names)}


REGISTERS: dict[str, int] = _registers()

VERSIONS: dict[str, int] = {}
"""What the kernel makes of a register, numbered: raised by hand when it makes something else of
the same events. By family: ``card.mean``, ``card.count`` for all its windows, ``tile.count`` for
terminal, merchant and device. A family that is not named is at 1. tests/support/kernel_world.json
holds values of every register; where they change without this, a test names the register."""


def _family(register: str) -> str:
    owner, fact, *_ = register.split(".")
    return f"{'tile' if owner in VIEWS[1:] else owner}.{fact}"


_AGES = {f"card.{age}" for age in ("age_s", "since_last_s", "since_here_s", "since_fraud_s")} | {
    f"tile.{fact}" for fact in TILE_FACTS
}


def register_meaning(register: str) -> str:
    """What a register's number means: its version, and the numbers of this table it is made with.

    >>> register_meaning("card.small.1h")
    'card.small.1h version 1 window_s 3600 small_minor 300'
    """
    family = _family(register)
    words = [register, "version", VERSIONS.get(family, 1)]
    if (window := register.rpartition(".")[2]) in WINDOWS:
        words += ["window_s", WINDOWS[window]]
    if family == "card.small":
        words += ["small_minor", SMALL_MINOR]
    if family in _AGES:
        words += ["never_s", NEVER_S]
    if family == "now.mcc_risk":
        classes = repr(sorted(MCC_RISK.items())).encode()
        words += ["classes", hashlib.sha256(classes).hexdigest()[:16]]
    return " ".join(map(str, words))


if unknown := VERSIONS.keys() - {_family(register) for register in REGISTERS}:
    raise AssertionError(f"no register is of the family {', '.join(sorted(unknown))}")

# What a feature does with its registers a and b. Division floors; by 0 it gives 0.
COPY = 0
"""a"""
MILLI = 1
"""1000 a / b"""
PPM = 2
"""1,000,000 a / b"""
MEAN = 3
"""a / b"""
DIFFERENCE = 4
"""a - b"""
_OPERATIONS = {COPY: "copy", MILLI: "milli", PPM: "ppm", MEAN: "mean", DIFFERENCE: "difference"}
"""Part of a feature's definition: other arithmetic is another name."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One number that models and rules may use."""

    name: str
    entity: Entity
    unit: str
    description: str
    group: str
    """What an analyst would call the reason: velocity, amount, novelty, place, ..."""
    operation: int
    a: str
    b: str = ""
    window: str = ""
    default: int = 0
    """Over an entity never seen before, this authorization itself left aside."""

    @property
    def source(self) -> str:
        """The operation and its registers."""
        return f"{_OPERATIONS[self.operation]} {self.a} {self.b}".rstrip()

    @property
    def definition(self) -> str:
        """All that this table says of the number. What it is called in prose is not of it."""
        told = (self.name, self.entity, self.source, self.window, self.unit, self.default)
        return "|".join(map(str, told))

    @property
    def meaning(self) -> str:
        """What the kernel puts into its registers."""
        return ", ".join(register_meaning(register) for register in (self.a, self.b) if register)


_SPOKEN = {
    "1m": "minute",
    "5m": "5 minutes",
    "1h": "hour",
    "6h": "6 hours",
    "1d": "day",
    "7d": "7 days",
    "30d": "30 days",
}


def _per_window(
    entity: Entity, total: str, windows: str, stem: str, unit: str, group: str, says: str
) -> list[Feature]:
    return [
        Feature(
            f"{entity}_{stem}_{w}" + ("_minor" if unit == "minor" else ""),
            entity,
            unit,
            f"{says} in the last {_SPOKEN[w]}, this one included",
            group,
            COPY,
            f"{entity}.{total}.{w}",
            window=w,
        )
        for w in windows.split()
    ]


def _fact(
    entity: Entity, fact: str, name: str, unit: str, group: str, says: str, default: int = 0
) -> Feature:
    owner = "now" if entity == "context" else entity
    return Feature(name, entity, unit, says, group, COPY, f"{owner}.{fact}", default=default)


def _card() -> list[Feature]:
    f: list[Feature] = []
    card: Entity = "card"
    all_windows = "1m 5m 1h 6h 1d 7d 30d"
    f += _per_window(
        card, "count", all_windows, "count", "count", "velocity", "Authorizations of the card"
    )
    f += _per_window(
        card, "amount", "5m 1h 6h 1d 7d 30d", "amount", "minor", "velocity", "Amount on the card"
    )
    f += _per_window(
        card,
        "declines",
        "1h 1d 7d",
        "declines",
        "count",
        "declines",
        "Declined authorizations of the card",
    )
    f += _per_window(
        card,
        "ecom",
        "1h 1d",
        "ecom_count",
        "count",
        "velocity",
        "E-commerce authorizations of the card",
    )
    f += _per_window(
        card,
        "small",
        "5m 1h 1d",
        "small_count",
        "count",
        "testing",
        "Authorizations below 3.00 of the card",
    )
    f += _per_window(
        card,
        "merchants",
        "1h 1d 7d",
        "distinct_merchants",
        "count",
        "velocity",
        "Distinct merchants of the card",
    )
    f += _per_window(
        card,
        "devices",
        "1d 7d",
        "distinct_devices",
        "count",
        "device",
        "Distinct devices of the card",
    )
    f += _per_window(
        card,
        "countries",
        "1d 7d",
        "distinct_countries",
        "count",
        "place",
        "Distinct merchant countries of the card",
    )
    f += _per_window(
        card, "max", "7d 30d", "max_amount", "minor", "amount", "Largest amount on the card"
    )
    f += [
        Feature(f"card_merchant_count_{w}", card, "count",
                f"Authorizations of the card at this merchant in the last {_SPOKEN[w]}, this one included",
                "pair", COPY, f"card.here_count.{w}", window=w)
        for w in ("5m", "1h", "1d", "30d")
    ]  # fmt: skip
    f += [
        Feature(f"card_merchant_amount_{w}_minor", card, "minor",
                f"Amount on the card at this merchant in the last {_SPOKEN[w]}, this one included",
                "pair", COPY, f"card.here_amount.{w}", window=w)
        for w in ("1h", "1d")
    ]  # fmt: skip
    f += [
        _fact(card, "since_here_s", "card_merchant_since_last_s", "s", "pair", "Time since the card was last at this merchant", NEVER_S),
        _fact(card, "others", "card_history_count", "count", "novelty", "Other authorizations of the card that are remembered (at most 64)"),
        _fact(card, "age_s", "card_history_span_s", "s", "novelty", "Age of the oldest remembered authorization of the card"),
        _fact(card, "since_last_s", "card_since_last_s", "s", "velocity", "Time since the card's last authorization", NEVER_S),
        Feature("card_amount_to_last_milli", card, "milli", "Amount over the card's last amount", "amount", MILLI, "now.amount", "card.last_amount"),
        Feature("card_amount_to_mean_milli", card, "milli", "Amount over the mean of the card's others in 30 days", "amount", MILLI, "now.amount", "card.mean"),
        Feature("card_amount_to_max_milli", card, "milli", "Amount over the largest of the card's others in 30 days", "amount", MILLI, "now.amount", "card.other_max"),
        Feature("card_amount_z_milli", card, "milli", "Amount minus mean, in standard deviations of the card's others in 30 days", "amount", MILLI, "card.excess", "card.deviation"),
        Feature("card_amount_to_ema_milli", card, "milli", "Amount over the exponential mean (weight 1/4) of the card's amounts", "amount", MILLI, "now.amount", "card.ema"),
        _fact(card, "jumps_7d", "card_ema_jumps_7d", "count", "amount", "Authorizations of 7 days above 2.5 times the exponential mean before them"),
        Feature("card_ecom_share_1d_milli", card, "milli", "Share of e-commerce in the card's day", "velocity", MILLI, "card.ecom.1d", "card.count.1d", window="1d"),
        Feature("card_pace_1h_to_30d_milli", card, "milli", "Authorizations of the hour per authorization of the 30 days", "velocity", MILLI, "card.count.1h", "card.count.30d", window="30d"),
        Feature("card_amount_1d_to_30d_milli", card, "milli", "Amount of the day over the amount of the 30 days", "amount", MILLI, "card.amount.1d", "card.amount.30d", window="30d"),
    ]  # fmt: skip
    f += [
        _fact(card, f"first_{what}", f"card_first_{what}", "flag", "novelty",
              f"1 if the card is not known to have used this {spoken} before", default=1)
        for what, spoken in (
            ("merchant", "merchant"), ("country", "merchant country"), ("currency", "currency"),
            ("device", "device"), ("mcc", "merchant category"), ("channel", "channel"),
        )
    ]  # fmt: skip
    f += [
        _fact(card, "country_changed", "card_country_changed", "flag", "place", "1 if the last authorization was in another country"),
        _fact(card, "currency_changed", "card_currency_changed", "flag", "place", "1 if the last authorization was in another currency"),
        _fact(card, "device_changed", "card_device_changed", "flag", "device", "1 if the last authorization with a device used another one"),
        _fact(card, "speed_kmh", "card_speed_kmh", "km/h", "place", "Speed needed since the last authorization with the card present, if both are"),
        _fact(card, "frauds", "card_frauds_reported", "count", "reports", "Frauds of the card reported by now"),
        _fact(card, "since_fraud_s", "card_since_fraud_s", "s", "reports", "Time since a fraud of the card was last reported", NEVER_S),
    ]  # fmt: skip
    return f


def _tiles(entity: Entity, counts: str, cards: str, amounts: str) -> list[Feature]:
    who = f"the {entity}"
    f: list[Feature] = []
    f += _per_window(entity, "count", counts, "count", "count", entity, f"Authorizations of {who}")
    f += _per_window(
        entity,
        "cards",
        cards,
        "distinct_cards",
        "count",
        entity,
        f"Distinct cards of {who} (an estimate)",
    )
    f += _per_window(
        entity,
        "declines",
        "1h 1d",
        "declines",
        "count",
        "declines",
        f"Declined authorizations of {who}",
    )
    f += _per_window(
        entity, "frauds", "1d 7d 30d", "frauds", "count", "reports", f"Frauds of {who} reported"
    )
    f += [
        Feature(f"{entity}_mean_amount_{w}_minor", entity, "minor", f"Mean amount of {who} in the last {_SPOKEN[w]}", entity, MEAN,
                f"{entity}.amount.{w}", f"{entity}.count.{w}", window=w)
        for w in amounts.split()
    ]  # fmt: skip
    f += [
        Feature(f"{entity}_fraud_ppm_30d", entity, "ppm", f"Frauds reported per authorization of {who} in the last 30 days", "reports", PPM,
                f"{entity}.frauds.30d", f"{entity}.count.30d", window="30d"),
        _fact(entity, "age_s", f"{entity}_age_s", "s", entity, f"Time since {who} was first seen"),
        _fact(entity, "since_last_s", f"{entity}_since_last_s", "s", entity, f"Time since the last authorization of {who}", NEVER_S),
        _fact(entity, "since_first_fraud_s", f"{entity}_since_first_fraud_s", "s", "reports", f"Time since a fraud of {who} was first reported", NEVER_S),
        _fact(entity, "since_last_fraud_s", f"{entity}_since_last_fraud_s", "s", "reports", f"Time since a fraud of {who} was last reported", NEVER_S),
        _fact(entity, "since_genuine_s", f"{entity}_since_genuine_s", "s", "reports", f"Time since an authorization of {who} was last reported genuine", NEVER_S),
    ]  # fmt: skip
    return f


def _context() -> list[Feature]:
    now: Entity = "context"
    return [
        _fact(now, "amount", "amount_minor", "minor", "amount", "Amount in the reference currency"),
        _fact(now, "is_round", "is_round", "flag", "amount", "1 if the amount is a positive multiple of 10.00"),
        _fact(now, "is_pos", "is_pos", "flag", "channel", "1 if the card was inserted"),
        _fact(now, "is_contactless", "is_contactless", "flag", "channel", "1 if contactless"),
        _fact(now, "is_ecom", "is_ecom", "flag", "channel", "1 if e-commerce"),
        _fact(now, "is_moto", "is_moto", "flag", "channel", "1 if mail or telephone order"),
        _fact(now, "is_atm", "is_atm", "flag", "channel", "1 if cash withdrawal"),
        _fact(now, "has_three_ds", "has_three_ds", "flag", "channel", "1 if 3-D Secure ran"),
        _fact(now, "three_ds_failed", "three_ds_failed", "flag", "channel", "1 if 3-D Secure failed"),
        _fact(now, "is_cross_border", "is_cross_border", "flag", "place", "1 if merchant and card are of different countries"),
        _fact(now, "has_device", "has_device", "flag", "device", "1 if a device is named"),
        _fact(now, "mcc_risk", "mcc_risk", "class", "merchant category", "Risk class of the merchant category, 0 to 3"),
        _fact(now, "hour_utc", "hour_utc", "h", "calendar", "Hour of the day, UTC"),
        _fact(now, "weekday", "weekday", "d", "calendar", "Day of the week, Monday 0, UTC"),
        _fact(now, "day_of_month", "day_of_month", "d", "calendar", "Day of the month, UTC"),
    ]  # fmt: skip


FEATURES: tuple[Feature, ...] = (
    *_context(),
    *_card(),
    *_tiles("terminal", "1m 5m 1h 6h 1d 7d 30d", "1h 1d 7d", "1d 7d 30d"),
    *_tiles("merchant", "1m 5m 1h 6h 1d 7d 30d", "5m 1h 1d", "1d 30d"),
    *_tiles("device", "5m 1h 1d 7d 30d", "1h 1d 7d", "7d"),
)
NAMES: tuple[str, ...] = tuple(f.name for f in FEATURES)
N = len(FEATURES)
INDEX: dict[str, int] = {name: i for i, name in enumerate(NAMES)}
DIGEST: str = hashlib.sha256(
    "\n".join(f"{f.definition}|{f.meaning}" for f in FEATURES).encode()
).hexdigest()[:16]
"""Of all features in their order: names the vector of a record. No release is bound to it."""


def digest(feature: Feature) -> str:
    """Of one feature: what this table says of it, and what the kernel computes for it.

    >>> digest(FEATURES[0]) == digest(FEATURES[1])
    False
    """
    return hashlib.sha256(f"{feature.definition}|{feature.meaning}".encode()).hexdigest()[:16]


def look_back(feature: Feature) -> str | None:
    """What bounds how far back a feature looks; None if nothing does.

    A window, the card's 64 latest authorizations (docs/explanation/features-and-states.md), or the
    cut of an age at NEVER_S: what lies further back reads like what lies there.

    >>> look_back(FEATURES[INDEX["card_amount_1h_minor"]])
    '1h, 64 authorizations'
    """
    bounds = [_bound(register) for register in (feature.a, feature.b) if register]
    if None in bounds:
        return None
    known = [bound for bound in bounds if bound and bound != _ITSELF]
    return "; ".join(dict.fromkeys(known)) or _ITSELF


_ITSELF = "this authorization"
_REMEMBERED = "64 authorizations"
_TILED = {f"card.{total}.{w}" for total in ("count", "amount", "declines") for w in ("7d", "30d")}
"""Of a card, what day tiles hold beyond the authorizations remembered."""
_IN_30_DAYS = {"mean", "deviation", "other_max", "excess"}
_FOR_EVER = {"card.frauds"}
"""Counted since the state began, whenever that was."""


def _bound(register: str) -> str | None:
    """What bounds one register."""
    owner, fact, *window = register.split(".")
    if owner == "now":
        return _ITSELF
    if register in _FOR_EVER:
        return None
    if window and (owner != "card" or register in _TILED):
        return window[0]
    if owner == "card" and fact != "since_fraud_s":
        span = window[0] if window else "30d" if fact in _IN_30_DAYS else ""
        return f"{span}, {_REMEMBERED}" if span else _REMEMBERED
    return f"{NEVER_S // 86_400}d"


def plan() -> npt.NDArray[np.int64]:
    """(N, 4) operation, register a, register b, entity index: what the kernel runs."""
    rows = [
        (f.operation, REGISTERS[f.a], REGISTERS[f.b] if f.b else 0, ENTITIES.index(f.entity))
        for f in FEATURES
    ]
    return np.array(rows, np.int64)


if len(INDEX) != N:
    raise AssertionError("two features share a name")
