"""DESIGN 4.6: late events go to the tile of their time; too old ones are reported, and change
none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sluice.domain.features.catalogue import INDEX
from sluice.domain.features.kernel import DONE, TOO_OLD
from sluice.domain.records.entity import ENTITY_KINDS, EntityKind
from tests.property.reference import DAY, HOUR, MINUTE, Event, Label
from tests.property.test_features import differences
from tests.property.worlds import START, TEMPOS, Change, Stream, Tempo, apply_to, world

NOW = START + 40 * DAY + 12 * HOUR


@pytest.mark.parametrize(
    ("late", "counted"),
    [
        (30 * MINUTE, {"1h", "6h", "1d", "7d", "30d"}),
        (2 * HOUR, {"6h", "1d", "7d", "30d"}),
        (20 * HOUR, {"1d", "7d", "30d"}),
        (3 * DAY, {"7d", "30d"}),
        (20 * DAY, {"30d"}),
        (33 * DAY, set()),
    ],
)
def test_a_late_event_counts_where_its_own_time_lies(late: int, counted: set[str]) -> None:
    stream = Stream()
    now = Event(NOW, 1, 100)
    stream.apply(Change(now, now, 0, 0))
    probe = replace(now, us=NOW + 1, id=3)
    before = stream.serve(probe).features[0]
    arrives = replace(now, us=NOW - late, id=2)
    stream.apply(Change(arrives, arrives, 0, 1))
    after = stream.serve(probe).features[0]
    for entity in ("card", "terminal", "merchant"):
        grown = {
            w
            for w in ("1m", "5m", "1h", "6h", "1d", "7d", "30d")
            if after[INDEX[f"{entity}_count_{w}"]] == before[INDEX[f"{entity}_count_{w}"]] + 1
        }
        assert grown == counted


@pytest.mark.parametrize("kind", ENTITY_KINDS)
def test_35_days_are_kept_and_what_is_older_is_told(kind: EntityKind) -> None:
    now = Event(NOW, 1, 100)
    state, _ = apply_to(kind, b"", [Change(now, now, 0, 0)])
    kept = replace(now, us=NOW // DAY * DAY - 34 * DAY, id=2)
    gone = replace(kept, us=kept.us - 1)
    assert apply_to(kind, state, [Change(kept, kept, 0, 1)])[1] == [DONE]
    assert apply_to(kind, state, [Change(gone, gone, 0, 1)])[1] == [TOO_OLD]


@pytest.mark.parametrize("kind", ENTITY_KINDS[1:])
def test_a_fraud_reported_before_the_tiles_is_told(kind: EntityKind) -> None:
    now = Event(NOW, 1, 100)
    new = Change(Label(is_fraud=True, known_us=NOW), now, 4096, 0)
    old = Change(Label(is_fraud=True, known_us=NOW - 36 * DAY), now, 4096, 1)
    assert apply_to(kind, b"", [new, old])[1] == [DONE, TOO_OLD]


@pytest.mark.parametrize("tempo", TEMPOS)
def test_what_is_too_old_changes_no_window(tempo: Tempo) -> None:
    stream = Stream()
    changes = world(14, 200, tempo)
    for change in changes:
        stream.apply(change)
    newest = max(c.about.us for c in changes)
    for change in changes[::20]:
        probe = replace(change.about, us=newest, id=4)
        before = stream.serve(probe).features[0].tolist()
        old = replace(change.about, us=START - 50 * DAY, id=5)
        ancient = Stream(dict(stream.states), stream.cards, stream.tiles)
        ancient.apply(Change(old, old, 9, 0))
        after = ancient.serve(probe).features[0].tolist()
        changed = set(differences(before, after))
        assert changed <= {"terminal_age_s", "merchant_age_s", "device_age_s"}
