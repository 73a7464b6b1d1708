"""The features again, by brute force over plain lists: slow, short, and without the kernel.

Written from DESIGN section 4 and docs/explanation/features-and-states.md. It keeps every event and
label ever applied, and works each number out from the whole list.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from sluice.domain.features import catalogue
from sluice.domain.records.countries import CENTRES, COUNTRY_INDEX

SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND
NEVER = 400 * 86_400
ECOM, MOTO = 3, 4
SPANS = {"1m": 60, "5m": 300, "1h": 3600, "6h": 21_600, "1d": 86_400}
DAYS = {"7d": 7, "30d": 30}
PLACES = {i: CENTRES[code] for code, i in COUNTRY_INDEX.items()}


@dataclass(frozen=True)
class Event:
    """An authorization, fields in the order of a kernel row."""

    us: int
    id: int
    amount: int
    card: int = 11
    terminal: int = 21
    merchant: int = 31
    device: int = 0
    country: int = 1
    card_country: int = 1
    currency: int = 1
    mcc: int = 5411
    channel: int = 1
    three_ds: int = 0
    declined: int = 0

    def row(self) -> tuple[int, ...]:
        return tuple(self.__dict__.values())

    @property
    def key(self) -> tuple[int, int]:
        return self.us, self.id

    @property
    def content(self) -> tuple[int, ...]:
        """What a card keeps of it; of two records with one key the greater stays."""
        kept = ("amount", "merchant", "device", "country", "currency", "mcc", "channel")
        return tuple(getattr(self, name) for name in kept)


@dataclass(frozen=True)
class Label:
    """A report about an authorization, by the time it became known."""

    is_fraud: bool
    known_us: int
    withdraws: int = 0
    """When the fraud was known that it takes back; 0 for none."""


Applied = Event | Label


def since(us: int | None, t: int) -> int:
    return NEVER if us is None else min(max(t - us, 0) // SECOND, NEVER)


def kilometres(a: int, b: int) -> int:
    if a not in PLACES or b not in PLACES:
        return 0
    (lat_a, lon_a), (lat_b, lon_b) = PLACES[a], PLACES[b]
    turn = abs(lon_a - lon_b)
    cosine = round(1000 * math.cos(math.radians(abs(lat_a + lat_b) // 2)))
    east, north = min(turn, 360 - turn) * cosine, (lat_a - lat_b) * 1000
    return 111 * math.isqrt(east * east + north * north) // 1000


def united(records: Iterable[Event]) -> list[Event]:
    """One event for each key: the record of the greatest content, declined if any of them is."""
    of_key: dict[tuple[int, int], list[Event]] = {}
    for record in records:
        of_key.setdefault(record.key, []).append(record)
    return [
        replace(max(twins, key=lambda e: e.content), declined=int(any(e.declined for e in twins)))
        for twins in of_key.values()
    ]


@dataclass
class Card:
    """Everything ever applied to one card."""

    records: list[Event] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)

    def apply(self, what: Applied) -> None:
        if isinstance(what, Label):
            self.labels.append(what)
        else:
            self.records.append(what)

    def kept(self) -> tuple[list[Event], list[Event]]:
        """What came before (known by day only) and the 64 latest, of the newest 35 days."""
        if not self.records:
            return [], []
        newest = max(e.us for e in self.records) // DAY
        recent = [e for e in united(self.records) if e.us // DAY > newest - 35]
        recent.sort(key=lambda e: e.key)
        return recent[:-64], recent[-64:]

    def with_pending(self, own: Event, pending: Iterable[Event]) -> tuple[Card, set[Event]]:
        """This card with what is in flight, and which entries changed it."""
        by_day, ring = self.kept()
        held = {e.key: e for e in (*by_day, *ring)}
        floor = ring[0].key if len(ring) == 64 else (-1, -1)
        flying = [e for e in pending if e.key != own.key and e.key >= floor]
        counted = set()
        for entry in flying:
            content = max(e.content for e in flying if e.key == entry.key)
            known = held.get(entry.key)
            if entry.content == content and (known is None or content > known.content):
                counted.add(entry)
        both = Card([*self.records, *counted], self.labels)
        kept = {e.key for part in both.kept() for e in part}
        return both, {entry for entry in counted if entry.key in kept}

    def registers(self, own: Event) -> dict[str, int]:
        by_day, ring = self.kept()
        t, today = own.us, own.us // DAY
        others = [e for e in ring if e.us <= t and e.key != own.key]
        judged = [*others, replace(own, declined=0)]
        r: dict[str, int] = {}
        for w in (*SPANS, *DAYS):
            if w in SPANS:
                inside = [e for e in judged if t - e.us < SPANS[w] * SECOND]
                folded = []
            else:
                inside = [e for e in judged if today - e.us // DAY < DAYS[w]]
                folded = [e for e in by_day if 0 <= today - e.us // DAY < DAYS[w]]
            here = [e for e in inside if e.merchant == own.merchant]
            r[f"count.{w}"] = len(inside) + len(folded)
            r[f"amount.{w}"] = sum(e.amount for e in (*inside, *folded))
            r[f"declines.{w}"] = sum(e.declined for e in (*inside, *folded))
            r[f"ecom.{w}"] = sum(e.channel == ECOM for e in inside)
            r[f"small.{w}"] = sum(e.amount < 300 for e in inside)
            r[f"here_count.{w}"] = len(here)
            r[f"here_amount.{w}"] = sum(e.amount for e in here)
            r[f"merchants.{w}"] = len({e.merchant for e in inside})
            r[f"devices.{w}"] = len({e.device for e in inside if e.device})
            r[f"countries.{w}"] = len({e.country for e in inside})
            r[f"max.{w}"] = max(e.amount for e in inside)
        month = [e for e in others if today - e.us // DAY < 30]
        amounts = [min(e.amount, 2**27) for e in month]
        mean = sum(amounts) // len(amounts) if amounts else 0
        variance = sum(a * a for a in amounts) // len(amounts) - mean * mean if amounts else 0
        r["mean"] = mean
        r["deviation"] = max(math.isqrt(max(variance, 0)), 100) if amounts else 0
        r["excess"] = min(own.amount, 2**27) - mean if amounts else 0
        r["other_max"] = max((e.amount for e in month), default=0)
        r["others"] = len(others)
        r["age_s"] = since(others[0].us, t) if others else 0
        last = others[-1] if others else None
        r["since_last_s"] = since(last.us, t) if last else NEVER
        r["last_amount"] = last.amount if last else 0
        r["country_changed"] = int(last is not None and last.country != own.country)
        r["currency_changed"] = int(last is not None and last.currency != own.currency)
        devices = [e.device for e in others if e.device]
        r["device_changed"] = int(bool(devices and own.device and devices[-1] != own.device))
        for what in ("merchant", "country", "currency", "mcc", "channel"):
            known = {getattr(e, what) for e in others}
            r[f"first_{what}"] = int(getattr(own, what) not in known)
        r["first_device"] = int(own.device != 0 and own.device not in devices)
        at_merchant = [e.us for e in others if e.merchant == own.merchant]
        r["since_here_s"] = since(at_merchant[-1], t) if at_merchant else NEVER
        present = [e for e in others if e.channel not in (ECOM, MOTO)]
        r["speed_kmh"] = 0
        if present and own.channel not in (ECOM, MOTO):
            minutes = max((t - present[-1].us) // MINUTE, 1)
            r["speed_kmh"] = kilometres(present[-1].country, own.country) * 60 // minutes
        ema, jumps = None, 0
        for e in others:
            scaled = e.amount * 256
            if ema is None:
                ema = scaled
                continue
            jumps += 2 * scaled > 5 * ema and today - e.us // DAY < 7
            ema += (scaled - ema) // 4
        r["ema"], r["jumps_7d"] = (ema or 0) // 256, int(jumps)
        frauds = [label.known_us for label in self.labels if label.is_fraud]
        r["frauds"] = len(frauds) - sum(label.withdraws > 0 for label in self.labels)
        r["since_fraud_s"] = since(max(frauds, default=None) if r["frauds"] else None, t)
        return {f"card.{name}": value for name, value in r.items()}


@dataclass
class Tiles:
    """Everything ever applied to one terminal, merchant or device."""

    events: list[Event] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)

    def apply(self, what: Applied) -> None:
        (self.labels if isinstance(what, Label) else self.events).append(what)

    def registers(self, own: Event, view: str) -> dict[str, int]:
        t = own.us
        frauds = [label.known_us for label in self.labels if label.is_fraud]
        genuine = [label.known_us for label in self.labels if not label.is_fraud]
        seen = [e.us for e in self.events]
        r: dict[str, int] = {}
        for w, unit, kept, width in (
            ("1m", MINUTE, 60, 1),
            ("5m", MINUTE, 60, 5),
            ("1h", MINUTE, 60, 60),
            ("6h", HOUR, 48, 6),
            ("1d", HOUR, 48, 24),
            ("7d", DAY, 35, 7),
            ("30d", DAY, 35, 30),
        ):
            newest = max((us // unit for us in seen), default=-1)

            def is_in(
                us: int, width: int, unit: int = unit, kept: int = kept, newest: int = newest
            ) -> bool:
                return us // unit > newest - kept and 0 <= t // unit - us // unit < width

            inside = [e for e in self.events if is_in(e.us, width)]
            r[f"count.{w}"] = len(inside) + 1
            r[f"amount.{w}"] = sum(e.amount for e in inside) + own.amount
            r[f"declines.{w}"] = sum(e.declined for e in inside)
            bits = {(e.card * 0x9E3779B97F4A7C15 % 2**64) >> 58 for e in (*inside, own)}
            full = len(bits) == 64
            r[f"cards.{w}"] = round(64 * math.log(128 if full else 64 / (64 - len(bits))))
            r[f"frauds.{w}"] = 0
        newest = max((us // DAY for us in frauds), default=-1)
        days = [us // DAY for us in frauds if us // DAY > newest - 35]
        for label in self.labels:
            if label.withdraws and label.withdraws // DAY in days:
                days.remove(label.withdraws // DAY)
        for w, width in (("1d", 1), ("7d", 7), ("30d", 30)):
            r[f"frauds.{w}"] = sum(0 <= t // DAY - day < width for day in days)
        r["age_s"] = since(min(seen), t) if seen else 0
        r["since_last_s"] = since(max(seen, default=None), t)
        r["since_first_fraud_s"] = since(min(frauds, default=None), t)
        r["since_last_fraud_s"] = since(max(frauds, default=None), t)
        r["since_genuine_s"] = since(max(genuine, default=None), t)
        return {f"{view}.{name}": value for name, value in r.items()}


def context(own: Event) -> dict[str, int]:
    """Of the authorization itself. Calendar by the standard library."""
    from datetime import UTC, datetime, timedelta

    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=own.us)
    r = {
        "amount": own.amount,
        "has_three_ds": int(own.three_ds != 0),
        "three_ds_failed": int(own.three_ds == 4),
        "is_cross_border": int(own.country != own.card_country),
        "has_device": int(own.device != 0),
        "mcc_risk": catalogue.MCC_RISK.get(own.mcc, 0),
        "is_round": int(own.amount > 0 and own.amount % 1000 == 0),
        "hour_utc": at.hour,
        "weekday": at.weekday(),
        "day_of_month": at.day,
    }
    for i, channel in enumerate(("pos", "contactless", "ecom", "moto", "atm"), start=1):
        r[f"is_{channel}"] = int(own.channel == i)
    return {f"now.{name}": value for name, value in r.items()}


def features(own: Event, card: Card, tiles: Sequence[Tiles]) -> list[int]:
    """All features in the catalogue's order. tiles: terminal, merchant, device."""
    r = context(own) | card.registers(own)
    for view, history in zip(("terminal", "merchant", "device"), tiles, strict=True):
        r |= history.registers(own, view)

    def value(f: catalogue.Feature) -> int:
        a, b = r[f.a], r[f.b] if f.b else 1
        if f.operation == catalogue.COPY:
            return a
        if f.operation == catalogue.DIFFERENCE:
            return a - b
        scale = {catalogue.MILLI: 1000, catalogue.PPM: 1_000_000, catalogue.MEAN: 1}[f.operation]
        return a * scale // b if b else 0

    return [value(f) for f in catalogue.FEATURES]
