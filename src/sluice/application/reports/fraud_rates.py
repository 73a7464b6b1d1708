"""Fraud rates as articles 19 to 21 of Delegated Regulation (EU) 2018/389 count them.

A rate is the value of the fraudulent payments divided by the value of all payments, of the same
type and the same days. Whole numbers and exact fractions; only what is shown is rounded, half up.
Pure: payments in, sums out, which grow with days, types and exemptions and never with payments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Literal, NamedTuple

from sluice.domain.clock import DAY_US
from sluice.domain.records.authorization import Channel, ScaExemption, ThreeDs
from sluice.domain.sca import ARTICLES, OUT_OF_SCOPE
from sluice.errors import Rejected

Type = Literal["remote_card", "mail_or_telephone", "card_present", "cash_withdrawal"]
TYPES: Mapping[Channel, Type] = {
    Channel.ECOM: "remote_card",
    Channel.MOTO: "mail_or_telephone",
    Channel.POS: "card_present",
    Channel.CONTACTLESS: "card_present",
    Channel.ATM: "cash_withdrawal",
}
REMOTE: Type = "remote_card"
"""The Annex's remote electronic card-based payments: the one type here that has reference rates."""
AUTHENTICATED, NOT_TOLD = "authenticated", "not_told"
HOWS = (AUTHENTICATED, *ARTICLES, NOT_TOLD, *sorted(OUT_OF_SCOPE))
"""How a payment was initiated, in the order in which it is shown."""
ROLLING_DAYS = 90
PPM = 1_000_000
MATURE_DAYS = 60
"""From this age on a fraud had the time to become known, as for ``sluice labels maturity``."""
_QUARTER = re.compile(r"([0-9]{4})Q([1-4])")
_EPOCH = date(1970, 1, 1).toordinal()


class Quarter(NamedTuple):
    """A calendar quarter of UTC days, counted from 1970: [first, until)."""

    name: str
    first: int
    until: int

    @property
    def before(self) -> Quarter:
        """The quarter before it."""
        day = day_date(self.first - 1)
        return quarter_of(f"{day.year}Q{(day.month + 2) // 3}")


def quarter_of(name: str) -> Quarter:
    """A quarter by its name. Raises Rejected.

    >>> quarter = quarter_of("2026Q4")
    >>> str(day_date(quarter.first)), str(day_date(quarter.until)), quarter.before.name
    ('2026-10-01', '2027-01-01', '2026Q3')
    """
    found = _QUARTER.fullmatch(name)
    if found is None or not "1970" < found[1] < "2100":
        raise Rejected("no quarter", where=repr(name), fix="write it as 2026Q3")
    year, month = int(found[1]), 3 * int(found[2]) - 2
    after = date(year + month // 10, month % 12 + 3 if month < 10 else 1, 1)
    return Quarter(name, date(year, month, 1).toordinal() - _EPOCH, after.toordinal() - _EPOCH)


def day_of(us: int) -> int:
    """The UTC day of a time, counted from 1970."""
    return us // DAY_US


def day_date(day: int) -> date:
    """Its date."""
    return datetime.fromtimestamp(day * 86_400, UTC).date()


def how(
    channel: Channel, exemption: ScaExemption | str | None, three_ds: ThreeDs | str | None
) -> str:
    """How a payment was initiated, by what the log tells: one of HOWS, or a word that a newer
    release wrote.

    Out of scope is out of scope, whatever ran. A passed challenge of 3-D Secure is authentication,
    also where an exemption was asked for. Orders by mail or telephone say so by their channel.

    >>> how(Channel.ECOM, "low_value", "challenged"), how(Channel.MOTO, None, None)
    ('authenticated', 'moto')
    """
    if exemption in OUT_OF_SCOPE:
        return str(exemption)
    if channel is Channel.MOTO:
        return ScaExemption.MOTO.value
    if three_ds == ThreeDs.CHALLENGED:
        return AUTHENTICATED
    return str(exemption or NOT_TOLD)


class Sums(NamedTuple):
    """Of some payments: how many, their value, and those of them that were fraudulent."""

    payments: int = 0
    value_minor: int = 0
    frauds: int = 0
    fraud_minor: int = 0

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        return Sums(
            self.payments + other.payments,
            self.value_minor + other.value_minor,
            self.frauds + other.frauds,
            self.fraud_minor + other.fraud_minor,
        )

    @property
    def rate(self) -> Fraction | None:
        """Fraudulent value by value; None without any."""
        return Fraction(self.fraud_minor, self.value_minor) if self.value_minor else None

    @property
    def average_minor(self) -> Fraction | None:
        """Value of one; None without any."""
        return Fraction(self.value_minor, self.payments) if self.payments else None

    def exceeds(self, rate_ppm: int) -> bool:
        """Whether the rate is above one, in millionths. At it is not above it."""
        return self.fraud_minor * PPM > rate_ppm * self.value_minor


NOTHING = Sums()


class Totals:
    """Sums by day, type and how. take: a payment of one day; O(1)."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, Type, str], Sums] = {}

    def take(self, day: int, kind: Type, by: str, amount_minor: int, *, fraud: bool) -> None:
        """One payment."""
        cell = day, kind, by
        one = Sums(1, amount_minor, int(fraud), amount_minor if fraud else 0)
        self._cells[cell] = self._cells.get(cell, NOTHING).plus(one)

    def by_how(self, kind: Type, first: int, until: int) -> dict[str, Sums]:
        """Of a type and days [first, until), in the order of HOWS; without those that are empty."""
        found: dict[str, Sums] = {}
        for (day, of, by), sums in self._cells.items():
            if of == kind and first <= day < until:
                found[by] = found.get(by, NOTHING).plus(sums)
        order = [*HOWS, *sorted(set(found) - set(HOWS))]
        return {by: found[by] for by in order if by in found}

    def in_rate(self, first: int, until: int) -> Sums:
        """What article 19 counts: remote electronic card payments, authenticated or under an
        exemption; all but those out of scope."""
        some = self.by_how(REMOTE, first, until)
        return total(sums for by, sums in some.items() if by not in OUT_OF_SCOPE)

    def rolling(self, quarter: Quarter) -> list[tuple[int, Sums]]:
        """For each day of a quarter what article 19 counts of the 90 days that end with it."""
        days = range(quarter.first - ROLLING_DAYS + 1, quarter.until)
        each = dict.fromkeys(days, NOTHING)
        for (day, kind, by), sums in self._cells.items():
            if kind == REMOTE and by not in OUT_OF_SCOPE and day in each:
                each[day] = each[day].plus(sums)
        return [
            (day, total(each[one] for one in range(day - ROLLING_DAYS + 1, day + 1)))
            for day in range(quarter.first, quarter.until)
        ]

    def payments_by_day(self, kind: Type, first: int, until: int) -> dict[int, int]:
        """How many payments of a type each day had."""
        found: dict[int, int] = {}
        for (day, of, _), sums in self._cells.items():
            if of == kind and first <= day < until:
                found[day] = found.get(day, 0) + sums.payments
        return found


def total(some: Iterable[Sums]) -> Sums:
    """All of them."""
    found = NOTHING
    for one in some:
        found = found.plus(one)
    return found


class Delays:
    """How many days it took until frauds were known, of payments old enough to tell."""

    def __init__(self) -> None:
        self._by_days = [0] * (MATURE_DAYS + 1)

    @property
    def frauds(self) -> int:
        """That it rests on."""
        return sum(self._by_days)

    def take(self, event_us: int, known_us: int, as_of_us: int) -> None:
        """A fraud, if its payment is old enough and it was known within MATURE_DAYS."""
        days = max(0, -(-(known_us - event_us) // DAY_US))
        if event_us <= as_of_us - MATURE_DAYS * DAY_US and days <= MATURE_DAYS:
            self._by_days[days] += 1

    def known_share(self, payments: Mapping[int, int], as_of_us: int) -> Fraction | None:
        """Of the frauds among payments that become known within MATURE_DAYS: the share that is
        known by now, if they are as late as those before. payments: by day. None if no fraud is
        old enough to tell."""
        frauds, count = self.frauds, sum(payments.values())
        if not frauds or not count:
            return None
        known = 0
        for day, some in payments.items():
            age = max(-1, min(MATURE_DAYS, (as_of_us - (day + 1) * DAY_US) // DAY_US))
            known += some * sum(self._by_days[: age + 1])
        return Fraction(known, frauds * count)


class Standing(NamedTuple):
    """How the rate stands to a reference rate, this quarter and the one before. None: not known,
    there was no payment or the log does not reach so far."""

    now: bool | None
    before: bool | None

    @property
    def duty(self) -> str:
        """What articles 19 and 20 ask for."""
        if self.now is None:
            return "No rate: the exemption cannot be used by it (article 19)."
        if not self.now:
            if self.before:
                return (
                    "Within the rate again. Where use had ceased it may begin anew after this "
                    "quarter, once the authority was notified and has the evidence (article 20(3), "
                    "(4))."
                )
            return "Within the rate: the exemption may be used (article 19)."
        report = "Report to the competent authority at once, with the measures (article 20(1))."
        if self.before:
            return (
                "Exceeded in two consecutive quarters: cease to use the exemption in this range "
                f"at once (article 20(2)). {report}"
            )
        if self.before is None:
            return f"{report} Whether it was exceeded in the quarter before is not known here."
        return f"{report} If the next quarter exceeds it too, use must cease (article 20(2))."


def percent(rate: Fraction | None, places: int = 4) -> str:
    """A share as text, rounded half up.

    >>> percent(Fraction(13, 10_000)), percent(Fraction(1, 2_000_000)), percent(None)
    ('0.1300 %', '0.0001 %', 'none')
    """
    if rate is None:
        return "none"
    scaled = rounded(rate * 100 * 10**places)
    return f"{scaled // 10**places}.{scaled % 10**places:0{places}d} %"


def rounded(value: Fraction) -> int:
    """To the next whole number, half up. value: at least 0."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
