"""Events of a keystore, and the records of the log that tell of them."""

import msgspec
import pytest

from sluice.domain.records.key_event import KeyEvent, event_of, record_of
from sluice.domain.records.log_record import HeartbeatBody, HeartbeatRecord, encode, read

SUBJECT, GRANT = "0f" * 16, "ab" * 32
EVENTS = [
    KeyEvent(sequence=0, at=5, kind="hold", who="ann", case="C-1", subject=SUBJECT),
    KeyEvent(sequence=1, at=6, kind="hold_lifted", who="bob", case="C-1", subject=SUBJECT),
    KeyEvent(
        sequence=2,
        at=7,
        kind="erasure",
        who="ann@bank.example",
        case="GDPR-17",
        subject=SUBJECT,
        through="2026Q4",
        periods=["2026Q3", "2026Q4"],
        archive_rows=12,
    ),
    KeyEvent(sequence=3, at=8, kind="expiry", who="cron", case="keep-9", through="2024Q3"),
    KeyEvent(
        sequence=4,
        at=9,
        kind="access",
        who="ann",
        case="C-2",
        subject=SUBJECT,
        authorization_id="a-1",
        index=41,
        grant=GRANT,
    ),
    KeyEvent(
        sequence=5,
        at=10,
        kind="override",
        who="ann",
        case="REV-7",
        authorization_id="a-1",
        before="review",
        after="approve",
    ),
    KeyEvent(
        sequence=6,
        at=11,
        kind="admin",
        who="ann",
        case="CHG-7",
        action="apply_topics",
        target="topics",
        detail=GRANT,
    ),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_a_record_tells_all_of_its_event(event: KeyEvent) -> None:
    record = record_of(event, log="bank.example/eu/0", emitter="keystore-1", recorded_at=99)
    held = read(encode(record))
    assert event_of(held) == event
    assert (held.emitter, held.sequence, held.recorded_at) == ("keystore-1", event.sequence, 99)
    assert held.sealed is None


def test_another_record_tells_of_no_event() -> None:
    beat = HeartbeatRecord(
        log="l", recorded_at=1, emitter="e", sequence=0, body=HeartbeatBody(size=1, taking=True)
    )
    assert event_of(beat) is None
    hold = record_of(EVENTS[0], log="l", emitter="e", recorded_at=1)
    assert msgspec.structs.replace(hold, sequence=7).sequence == 7
