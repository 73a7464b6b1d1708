"""Amounts in the reference currency, by the policy pack's dated table. Exact integers.

A rate says how many units of a currency one unit of the reference buys, in parts per million
(USD 1,160,000 means EUR 1 = USD 1.16): the European Central Bank's direction, in which even a
currency worth 1/30,000 of the reference keeps eleven digits.
"""

from __future__ import annotations

import datetime
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from sluice.domain.records.currencies import EXPONENTS
from sluice.errors import Misconfigured, Rejected

Ints = npt.NDArray[np.int64]

PPM = 1_000_000
MAX_RATE_PPM = 10**12
"""A million units for one: keeps amount x 10^exponent x 10^6 inside 64 bits with room to spare."""


class Fx(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table of one day."""

    reference: str
    as_of: datetime.date
    rates_ppm: dict[str, Annotated[int, Meta(ge=1, le=MAX_RATE_PPM)]]

    def check(self, where: str) -> None:
        """Raise Misconfigured if a code is not in ISO 4217 or the reference is not at par.

        A reference with three decimals is refused too: the largest amount would overflow.
        """
        for code in (self.reference, *self.rates_ppm):
            if code not in EXPONENTS:
                raise Misconfigured(f"{code} is not an ISO 4217 currency", where=where)
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

        Raises Rejected (no_rate) for a currency without a rate.
        """
        if currency == self.reference:
            return amount_minor
        times, over = self._parts(currency)
        whole, rest = divmod(amount_minor * times, over)
        return whole + (2 * rest > over or (2 * rest == over and whole & 1))

    def column_to_reference(self, amount_minor: Ints, currency: str) -> Ints:
        """(n,) amounts of one currency, each at most MAX_AMOUNT_MINOR; the same integers as
        :meth:`to_reference`. O(n)."""
        times, over = self._parts(currency)
        whole, rest = np.divmod(np.asarray(amount_minor, np.int64) * times, over)
        up = (2 * rest > over) | ((2 * rest == over) & (whole & 1 == 1))
        return whole + up
