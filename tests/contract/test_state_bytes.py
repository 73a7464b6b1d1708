"""States and pending entries of yesterday mean today what they meant: their bytes, pinned.

If a test here fails, what is stored would be read as something else: undo the change, or raise
stateformat.LAYOUT, after which every store has to be rebuilt, and pin the new bytes.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from sluice.domain.features.events import event_row, event_rows, to_pending
from sluice.domain.features.kernel import AUTHORIZATION, FRAUD, GENUINE, scratch, update
from sluice.domain.features.states import BACKFILL, DECISIONS, LABELS, source
from sluice.domain.records.authorization import Channel, ThreeDs
from sluice.domain.records.decision import Pending
from sluice.domain.records.entity import EntityKind
from sluice.testing.factories import NOON_US, make_authorization

DAY_US = 86_400_000_000
AUTHORIZATIONS = [
    make_authorization("a-1"),
    make_authorization("a-2", event_at=NOON_US + 1, channel=Channel.ATM, currency="ZWG"),
    make_authorization(
        "a-3",
        event_at=NOON_US + 60_000_000,
        channel=Channel.ECOM,
        merchant_id="merchant-2",
        mcc="7995",
        merchant_country="ZW",
        device_id="device-1",
        three_ds=ThreeDs.FAILED,
    ),
    make_authorization("a-4", event_at=NOON_US - 3 * DAY_US, channel=Channel.MOTO),
]
ROWS = [event_row(auth, auth.amount_minor) for auth in AUTHORIZATIONS]
ROWS[1] = (*ROWS[1][:-1], 1)
CHANGES = [
    (AUTHORIZATION, source(DECISIONS, 3), 10, 0),
    (AUTHORIZATION, source(DECISIONS, 3), 11, 0),
    (AUTHORIZATION, source(DECISIONS, 4), 7, 0),
    (AUTHORIZATION, source(BACKFILL, 0), 2, 0),
    (FRAUD, source(LABELS, 1), 5, NOON_US + DAY_US),
    (GENUINE, source(LABELS, 1), 6, NOON_US + 2 * DAY_US),
]
PINNED: dict[EntityKind, str] = {
    "card": (
        "01060000000000000004030b040781200680400201fba00181a09b9bfbe09403040480a0a5e0f3d6"
        "94035fd6cab7d20914296b2a4c3ca32ae180c098ccc507d022a0c7d209cd016a73a95ed209149c01"
        "13ff8dce1cfc43ae29d209fa0129d17b45a5bb3e79e22fb7"
    ),
    "terminal": (
        "01060000000000000004030b040781200680400292e2920efd961efba001fca00181a0a5e0f3d694"
        "0381a09b9bfbe0940381a09b9bfbe0940381e0f889bde3940381ee8bc9b9de9403020001d2093740"
        "02a413010137014003f61c010137024003f61c0101370201d209370001"
    ),
}
PENDING = "9aa3612d33cf000652f39922f700cd04d2cea5457bd1ceb72fe279ccfa29cd1f3b03cf000652f3958f7002"


@pytest.mark.parametrize("kind", PINNED)
def test_the_bytes_of_a_state_are_those_of_the_first_release(kind: EntityKind) -> None:
    rows = [*ROWS, *[(0,) * len(ROWS[0])] * 2]
    made = update(
        [(kind, "k")],
        [b""],
        np.array([0, len(CHANGES)], np.int64),
        event_rows(rows),
        np.array(CHANGES, np.int64),
        scratch(),
    )
    assert made.states[0].hex() == PINNED[kind]


def test_the_bytes_of_a_pending_entry_are_those_of_the_first_release() -> None:
    auth = AUTHORIZATIONS[2]
    entry = to_pending(auth, ROWS[2], NOON_US + 2)
    assert msgspec.msgpack.encode(entry).hex() == PENDING
    assert msgspec.msgpack.decode(bytes.fromhex(PENDING), type=Pending) == entry
