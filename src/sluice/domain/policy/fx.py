"""Amounts in the reference currency, by the policy pack's dated table. Exact integers.

A rate says how many units of a currency one unit of the reference buys, in parts per million
(USD 1,160,000 means EUR 1 = USD 1.16): the European Central Bank's direction, in which even a
currency worth 1/30,000 of the reference keeps eleven digits.
"""

from __future__ import annotations

import datetime
import math
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from sluice.domain.records.currencies import ENDED, EXPONENTS
from sluice.errors import Misconfigured, Rejected

Ints = npt.NDArray[np.int64]

PPM = 1_000_000
MAX_RATE_PPM = 10**12
"""A million units for one."""
REFERENCE_MAX_MINOR = 10**12
"""Ten billion where the reference has two decimals: keeps every sum of a window, and a thousand
times that, inside 64 bits."""
INT64_MAX = 2**63 - 1


Rate = Annotated[int, Meta(ge=1, le=MAX_RATE_PPM)]


class Dated(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rate of another day than the table's: the last one of a currency that ended."""

    as_of: datetime.date
    rate_ppm: Rate


class Fx(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table of one day. historic: of currencies that ended, for what was paid before."""

    reference: str
    as_of: datetime.date
    rates_ppm: dict[str, Rate]
    historic: dict[str, Dated] = {}

    def check(self, where: str) -> None:
        """Raise Misconfigured if a code is not in ISO 4217 or the reference is not at par.

        A reference with three decimals is refused too: the largest amount would overflow.
        """
        for code in (self.reference, *self.rates_ppm, *self.historic):
            if code not in EXPONENTS:
                raise Misconfigured(f"{code} is not an ISO 4217 currency", where=where)
        for code in self.rates_ppm:
            if code in ENDED and ENDED[code] < self.as_of:
                raise Misconfigured(
                    f"{code} ended on {ENDED[code]} and has no rate of {self.as_of}",
                    where=where,
                    fix=f"historic: {{{code}: {{as_of: {ENDED[code]}, rate_ppm: ...}}}}",
                )
        for code, dated in self.historic.items():
            if code not in ENDED or dated.as_of > ENDED[code]:
                raise Misconfigured(
                    f"historic has a rate of {code} of {dated.as_of}, on which it had "
                    f"{'not ' if code not in ENDED else ''}ended",
                    where=where,
                    fix="historic is for currencies that ended, with a rate from before their end",
                )
        if EXPONENTS[self.reference] > 2:
            raise Misconfigured(
                f"the reference currency {self.reference} has three decimals, at most two fit",
                where=where,
            )
        if self.rates_ppm.get(self.reference) != PPM:
            raise Misconfigured(
                f"the reference currency {self.reference} must have the rate {PPM}", where=where
            )

    def _parts(self, currency: str) -> tuple[int, int]:
        rate = self.rates_ppm.get(currency)
        if rate is None and currency in self.historic:
            rate = self.historic[currency].rate_ppm
        if rate is None:
            raise Rejected(
                f"the policy has no rate for {currency}",
                where="$.currency",
                fix="add it to the policy pack's fx.yaml",
                code="no_rate",
            )
        return 10 ** EXPONENTS[self.reference] * PPM, 10 ** EXPONENTS[currency] * rate

    def to_reference(self, amount_minor: int, currency: str) -> int:
        """Minor units of the reference currency; half a unit goes to the even neighbour.

        Raises Rejected (no_rate) for a currency without a rate, and (out_of_range) past
        REFERENCE_MAX_MINOR.
        """
        if currency == self.reference:
            return amount_minor
        times, over = self._parts(currency)
        whole, rest = divmod(amount_minor * times, over)
        whole += 2 * rest > over or (2 * rest == over and whole & 1)
        if whole > REFERENCE_MAX_MINOR:
            raise _too_large(self.reference)
        return whole

    def most(self, currency: str) -> int:
        """Up to this amount, in minor units, :meth:`to_reference` takes any; it refuses what is
        worth a minor unit of the reference more. Raises Rejected (no_rate)."""
        if currency == self.reference:
            return REFERENCE_MAX_MINOR
        times, over = self._parts(currency)
        return REFERENCE_MAX_MINOR * over // times

    def column_to_reference(self, amount_minor: Ints, currency: str) -> Ints:
        """(n,) amounts of one currency, each at most MAX_AMOUNT_MINOR; the same integers as
        :meth:`to_reference`, and the same errors. O(n)."""
        amounts = np.asarray(amount_minor, np.int64)
        times, over = self._parts(currency)
        common = math.gcd(times, over)
        times, over = times // common, over // common
        if len(amounts) and int(amounts.max()) > INT64_MAX // max(times, 2):
            # Of the few that are so large; a product of 64 bits would not hold them.
            return np.array([self.to_reference(a, currency) for a in amounts.tolist()], np.int64)
        whole, rest = np.divmod(amounts * times, over)
        up = (2 * rest > over) | ((2 * rest == over) & (whole & 1 == 1))
        whole = whole + up
        if len(whole) and int(whole.max()) > REFERENCE_MAX_MINOR:
            raise _too_large(self.reference)
        return whole


def _too_large(reference: str) -> Rejected:
    return Rejected(
        f"the amount is more than {REFERENCE_MAX_MINOR} minor units of {reference}",
        where="$.amount_minor",
        fix="is the rate right? see the policy pack's fx.yaml",
        code="out_of_range",
    )
