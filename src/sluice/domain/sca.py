"""Strong customer authentication as Delegated Regulation (EU) 2018/389 has it: which article lets a
payment go without, and what article 18 (transaction risk analysis) and the Annex ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sluice.domain.records.authorization import ScaExemption

ARTICLES: Mapping[ScaExemption, int] = {
    ScaExemption.CONTACTLESS: 11,
    ScaExemption.UNATTENDED_TERMINAL: 12,
    ScaExemption.TRUSTED_BENEFICIARY: 13,
    ScaExemption.RECURRING: 14,
    ScaExemption.OWN_ACCOUNTS: 15,
    ScaExemption.LOW_VALUE: 16,
    ScaExemption.SECURE_CORPORATE: 17,
    ScaExemption.TRANSACTION_RISK_ANALYSIS: 18,
}
"""The article of each exemption. Article 10 is of account information, no payment."""
OUT_OF_SCOPE = frozenset(ScaExemption) - frozenset(ARTICLES)
"""No exemption: the regulation does not ask for authentication there."""
MEANINGS: Mapping[ScaExemption, str] = {
    ScaExemption.CONTACTLESS: "contactless at a point of sale",
    ScaExemption.UNATTENDED_TERMINAL: "transport fare or parking fee at an unattended terminal",
    ScaExemption.TRUSTED_BENEFICIARY: "payee on the payer's list of trusted beneficiaries",
    ScaExemption.RECURRING: "one of a series of the same amount to the same payee",
    ScaExemption.OWN_ACCOUNTS: "credit transfer between accounts of one person",
    ScaExemption.LOW_VALUE: "remote, of low value",
    ScaExemption.SECURE_CORPORATE: "corporate payment process or protocol",
    ScaExemption.TRANSACTION_RISK_ANALYSIS: "remote, of low risk by transaction risk analysis",
    ScaExemption.MERCHANT_INITIATED: "out of scope: initiated by the payee (MIT)",
    ScaExemption.MOTO: "out of scope: ordered by mail or telephone",
    ScaExemption.ONE_LEG: "out of scope: one provider is outside the EEA",
}


class Threshold(NamedTuple):
    """A row of the Annex for remote electronic card-based payments: up to which amount article 18
    may be used, in euros, while the fraud rate is at most this many millionths."""

    etv_eur: int
    reference_rate_ppm: int


THRESHOLDS = (Threshold(100, 1_300), Threshold(250, 600), Threshold(500, 100))
"""0.13 %, 0.06 % and 0.01 %: the higher the exemption threshold value, the lower the rate."""
ETV_CURRENCY = "EUR"
_CENTS = 100


def threshold_of(amount_minor: int, currency: str) -> Threshold | None:
    """The lowest exemption threshold value that an amount does not exceed; None above the highest,
    and in a currency in which the Annex says none.

    >>> threshold_of(100_00, "EUR"), threshold_of(500_01, "EUR")
    (Threshold(etv_eur=100, reference_rate_ppm=1300), None)
    """
    if currency != ETV_CURRENCY:
        return None
    return next((one for one in THRESHOLDS if amount_minor <= one.etv_eur * _CENTS), None)
