"""Why a payment went without strong customer authentication, as the law of Europe has it.

A function of the row alone: nothing is drawn for it, so that a world's rows are the same with it
and without. The shares are round figures that make plausible traffic.
"""

from __future__ import annotations

import numpy as np

from sluice.domain.records.authorization import ScaExemption
from sluice_simulator import geography as geo
from sluice_simulator import identifiers as ids
from sluice_simulator.people import Merchants
from sluice_simulator.purchases import CONTACTLESS_LIMIT_EUR
from sluice_simulator.rows import CONTACTLESS, ECOM, MOTO, THREE_DS, Ints, Rows

EXEMPTIONS = (None, *ScaExemption)
"""Index 0: none is told."""
_INDEX = {exemption: i for i, exemption in enumerate(EXEMPTIONS)}
_FRICTIONLESS = THREE_DS.index("frictionless")
_AUTHENTICATED_OR_NOT = [THREE_DS.index(outcome) for outcome in ("challenged", "failed")]
_LOW_VALUE_EUR, _TRA_EUR = 30.0, 500.0
_UNATTENDED = np.isin(geo.MCCS, ["4111"])
_SUBSCRIPTION = np.isin(geo.MCCS, ["5815", "4814"])


def exemptions(rows: Rows, home: Ints, merchants: Merchants, seed: int) -> Ints:
    """(n,) index into EXEMPTIONS. home: country of each card."""
    country, category = merchants.country[rows["merchant"]], merchants.category[rows["merchant"]]
    channel = rows["channel"]
    eur = rows["amount"] / geo.MINOR_PER_EUR[country]
    chance = ids.unit(ids.mix(seed, ids.EXEMPTION, rows["high"], rows["low"]))
    asked, asked_there = geo.SCA[home], geo.SCA[country]
    one_law = geo.REGION_OF[home] == geo.REGION_OF[country]
    remote = (channel == ECOM) & ~np.isin(rows["three_ds"], _AUTHENTICATED_OR_NOT)
    frictionless = rows["three_ds"] == _FRICTIONLESS
    # The first that is true, from the top; what is left of a remote payment is told by nobody.
    cases = [
        (~asked & ~asked_there, None),
        (channel == MOTO, ScaExemption.MOTO),
        (~one_law, ScaExemption.ONE_LEG),
        ((channel <= CONTACTLESS) & _UNATTENDED[category], ScaExemption.UNATTENDED_TERMINAL),
        (
            (channel == CONTACTLESS) & (eur <= CONTACTLESS_LIMIT_EUR),
            ScaExemption.CONTACTLESS,
        ),
        (~remote, None),
        (_SUBSCRIPTION[category] & (chance < 0.5), ScaExemption.RECURRING),
        (_SUBSCRIPTION[category] & (chance < 0.7), ScaExemption.MERCHANT_INITIATED),
        (geo.TRAVEL[category] & (chance < 0.15), ScaExemption.SECURE_CORPORATE),
        ((eur <= _LOW_VALUE_EUR) & ~frictionless, ScaExemption.LOW_VALUE),
        (chance < 0.05, ScaExemption.TRUSTED_BENEFICIARY),
        ((eur <= _TRA_EUR) & (chance < 0.9), ScaExemption.TRANSACTION_RISK_ANALYSIS),
    ]
    return np.select([true for true, _ in cases], [_INDEX[one] for _, one in cases], 0)
