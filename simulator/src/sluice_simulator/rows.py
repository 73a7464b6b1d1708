"""One row per authorization while it is still numbers: what the generators write."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt

from sluice_simulator.config import Kind

Rows = npt.NDArray[np.void]
"""A structured array of ROW."""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

ROW = np.dtype(
    [
        ("event_us", "i8"),
        ("card", "i4"),  # slot of the card; who holds the slot depends on the day
        ("merchant", "i4"),
        ("terminal", "i2"),  # counts a merchant's terminals from 0
        ("channel", "i1"),  # index into CHANNELS
        ("three_ds", "i1"),  # index into THREE_DS, 0 for none
        ("amount", "i8"),  # minor units of the merchant's currency
        ("device", "u8"),  # hash, 0 for none
        ("ip", "u4"),  # number of a prefix, 0 for none
        ("high", "u8"),  # random bits of the id
        ("low", "u8"),
        ("kind", "i1"),  # index into KINDS, 0 for plain traffic
        ("campaign_day", "i4"),  # with campaign_no: which campaign; -1 for none
        ("campaign_no", "i4"),
        ("known_us", "i8"),  # 0: never reported
        ("way", "i1"),  # index into labels.WAYS
    ]
)
CHANNELS = ("pos", "contactless", "ecom", "moto", "atm")
POS, CONTACTLESS, ECOM, MOTO, ATM = range(5)
THREE_DS = (None, "frictionless", "challenged", "attempted", "failed")

FRAUD: tuple[Kind, ...] = get_args(Kind)
BENIGN = ("false_claim", "unlucky_terminal", "holiday_travel", "new_phone")
KINDS = (None, *FRAUD, *BENIGN)
"""Index 0 is plain traffic, then fraud, then innocent rows that look like fraud."""
KIND_INDEX = {kind: i for i, kind in enumerate(KINDS) if kind}
LAST_FRAUD = len(FRAUD)


def is_fraud(rows: Rows) -> Bools:
    """(n,) the truth."""
    return (rows["kind"] > 0) & (rows["kind"] <= LAST_FRAUD)


def empty(n: int) -> Rows:
    """n rows of zeros that belong to no campaign."""
    rows = np.zeros(n, ROW)
    rows["campaign_day"] = -1
    return rows


def present(rows: Rows) -> Bools:
    """(n,) True where the card itself was there."""
    return (rows["channel"] <= CONTACTLESS) | (rows["channel"] == ATM)
