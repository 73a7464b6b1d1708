"""An authorization as the kernel sees it: one row of 64-bit integers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from zlib import crc32

import numpy as np
import numpy.typing as npt

from sluice.domain.compiled import entry
from sluice.domain.records.authorization import Authorization, Channel, ThreeDs
from sluice.domain.records.codes import CHANNEL_INDEX, THREE_DS_INDEX
from sluice.domain.records.countries import COUNTRY_INDEX
from sluice.domain.records.currencies import CURRENCY_INDEX
from sluice.domain.records.decision import Pending
from sluice.domain.records.identifiers import tag32

Ints = npt.NDArray[np.int64]

COLUMNS = (
    "event_us",
    "id_tag",
    "amount_minor",
    "card_tag",
    "terminal_tag",
    "merchant_tag",
    "device_tag",
    "country",
    "card_country",
    "currency",
    "mcc",
    "channel",
    "three_ds",
    "declined",
)
"""Of a row. amount_minor is in the reference currency; a device_tag of 0 is "no device";
country, currency, channel and three_ds are the frozen indices of their tables, 0 unknown."""

(
    EVENT_US,
    ID,
    AMOUNT,
    CARD,
    TERMINAL,
    MERCHANT,
    DEVICE,
    COUNTRY,
    CARD_COUNTRY,
    CURRENCY,
    MCC,
    CHANNEL,
    THREE_DS,
    DECLINED,
) = range(len(COLUMNS))
WIDTH = len(COLUMNS)

if set(CHANNEL_INDEX) != set(Channel) or set(THREE_DS_INDEX) != set(ThreeDs):
    raise AssertionError("a channel or an outcome of 3-D Secure has no number in codes.py")


def _crc_table() -> npt.NDArray[np.uint32]:
    table = np.zeros(256, np.uint32)
    for byte in range(256):
        rest = byte
        for _ in range(8):
            rest = (rest >> 1) ^ 0xEDB88320 if rest & 1 else rest >> 1
        table[byte] = rest
    return table


_CRC = _crc_table()


@entry
def tag_each(data, ends, out):  # type: ignore[no-untyped-def]
    """tag32 of each of n texts, at once.

    data: (b,) uint8, the texts end to end in UTF-8. ends: (n + 1,) where each begins, and the
    last ends. out: (n,) int64, filled.
    """
    for i in range(len(out)):
        crc = np.uint32(0xFFFFFFFF)
        for at in range(ends[i], ends[i + 1]):
            crc = (crc >> np.uint32(8)) ^ _CRC[(crc ^ data[at]) & np.uint32(255)]
        crc ^= np.uint32(0xFFFFFFFF)
        out[i] = crc if crc else 1


def event_row(auth: Authorization, amount_minor: int, *, declined: bool = False) -> tuple[int, ...]:
    """One row, in the order of COLUMNS. amount_minor: in the reference currency."""
    device = auth.device_id
    return (  # tag32 written out: four calls less
        auth.event_at,
        crc32(auth.authorization_id.encode()) or 1,
        amount_minor,
        crc32(auth.card_token.encode()) or 1,
        crc32(auth.terminal_id.encode()) or 1,
        crc32(auth.merchant_id.encode()) or 1,
        0 if device is None else crc32(device.encode()) or 1,
        COUNTRY_INDEX.get(auth.merchant_country, 0),
        COUNTRY_INDEX.get(auth.card_country, 0),
        CURRENCY_INDEX.get(auth.currency, 0),
        int(auth.mcc),
        CHANNEL_INDEX[auth.channel],
        0 if auth.three_ds is None else THREE_DS_INDEX[auth.three_ds],
        int(declined),
    )


def event_rows(rows: Sequence[tuple[int, ...]]) -> Ints:
    """(n,) row tuples to an (n, WIDTH) matrix."""
    flat = np.fromiter(chain.from_iterable(rows), np.int64, len(rows) * WIDTH)
    return flat.reshape(len(rows), WIDTH)


def to_pending(auth: Authorization, row: Sequence[int], left_at: int) -> Pending:
    """What an authorization leaves for the next one of its card."""
    event_us, _, amount, _, _, merchant, device, country, _, currency, mcc, channel, _, _ = row
    return Pending(
        auth.authorization_id,
        event_us,
        amount,
        merchant,
        device,
        country,
        currency,
        mcc,
        channel,
        left_at,
    )


def pending_rows(entries: Iterable[Pending]) -> list[tuple[int, ...]]:
    """Pending entries as rows; what a card state does not keep stays 0."""
    return [
        (
            p.event_us,
            tag32(p.authorization_id),
            p.amount_minor,
            0,
            0,
            p.merchant_tag,
            p.device_tag,
            p.country,
            0,
            p.currency,
            p.mcc,
            p.channel,
            0,
            0,
        )
        for p in entries
    ]
