"""DESIGN 4.7: a report counts by the time it became known, never by that of its event."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sluice.domain.features.catalogue import FEATURES, INDEX, NEVER_S
from tests.property.reference import DAY, HOUR, Event, Label
from tests.property.test_features import differences
from tests.property.worlds import START, TEMPOS, Change, Stream, Tempo, world

LABEL_FEATURES = {f.name for f in FEATURES if "fraud" in f.a or "genuine" in f.a}


def test_a_report_counts_from_the_day_it_is_known_whatever_the_day_of_its_event() -> None:
    stream = Stream()
    event = Event(START, 1, 100, device=41)
    stream.apply(Change(event, event, 0, 0))
    known = START + 20 * DAY + HOUR
    stream.apply(Change(Label(is_fraud=True, known_us=known), event, 4096, 0))
    for days, expected in ((19, (0, 0, 0)), (20, (1, 1, 1)), (26, (0, 1, 1)), (27, (0, 0, 1))):
        served = stream.serve(replace(event, us=START + days * DAY + 2 * HOUR, id=2)).features[0]
        for entity in ("terminal", "merchant", "device"):
            got = tuple(served[INDEX[f"{entity}_frauds_{w}"]] for w in ("1d", "7d", "30d"))
            assert got == expected
    later = stream.serve(replace(event, us=known + HOUR, id=2)).features[0]
    assert later[INDEX["card_frauds_reported"]] == 1
    assert later[INDEX["card_since_fraud_s"]] == 3600
    assert later[INDEX["device_since_first_fraud_s"]] == 3600
    assert later[INDEX["device_since_genuine_s"]] == NEVER_S


@pytest.mark.parametrize("tempo", TEMPOS)
def test_the_time_of_the_event_that_a_report_is_about_does_not_matter(tempo: Tempo) -> None:
    one, other = Stream(), Stream()
    changes = world(15, 200, tempo)
    for change in changes:
        one.apply(change)
        moved = replace(change, about=replace(change.about, us=3, declined=1, amount=8))
        other.apply(moved if isinstance(change.what, Label) else change)
    assert one.states == other.states


@pytest.mark.parametrize("tempo", TEMPOS)
def test_reports_move_label_features_and_nothing_else(tempo: Tempo) -> None:
    reported, unreported = Stream(), Stream()
    for change in world(16, 200, tempo):
        if isinstance(change.what, Event):
            probe = replace(change.what, id=6)
            with_labels = reported.serve(probe).features[0].tolist()
            without = unreported.serve(probe).features[0].tolist()
            assert set(differences(with_labels, without)) <= LABEL_FEATURES
            unreported.apply(change)
        reported.apply(change)
