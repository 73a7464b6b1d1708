"""DESIGN 4.3: windows are worked out at read, so they decay with no writer running."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sluice.domain.features.catalogue import INDEX, WINDOWS
from tests.property.reference import DAY, HOUR, MINUTE, SECOND, Event
from tests.property.test_features import differences
from tests.property.worlds import START, TEMPOS, Change, Stream, Tempo, world

LATER = (1, 30 * SECOND, MINUTE, 5 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY, 99 * DAY)


@pytest.mark.parametrize("tempo", TEMPOS)
def test_the_same_state_read_later_gives_the_windows_of_then(tempo: Tempo) -> None:
    stream = Stream()
    changes = world(8, 250, tempo)
    for change in changes:
        stream.apply(change)
    newest = max(c.what.us for c in changes if isinstance(c.what, Event))
    for change in changes[::60]:
        for later in LATER:
            for edge in (0, MINUTE, HOUR, DAY):
                us = newest + later
                us -= us % edge if edge else 0
                event = replace(change.about, us=us, id=3)
                served = stream.serve(event).features[0].tolist()
                assert differences(served, stream.expect(event)) == {}


@pytest.mark.parametrize("window", ["1m", "5m", "1h", "6h", "1d"])
def test_a_card_window_leaves_out_what_is_exactly_its_span_old(window: str) -> None:
    stream = Stream()
    first = Event(START, 1, 700)
    stream.apply(Change(first, first, 0, 0))
    count = INDEX[f"card_count_{window}"]
    span = WINDOWS[window] * SECOND
    inside = stream.serve(replace(first, us=START + span - 1, id=2)).features[0]
    outside = stream.serve(replace(first, us=START + span, id=2)).features[0]
    assert (inside[count], outside[count]) == (2, 1)


def test_a_tile_window_begins_with_a_whole_minute_hour_or_day() -> None:
    stream = Stream()
    first = Event(START, 1, 700)
    stream.apply(Change(first, first, 0, 0))
    count = INDEX["terminal_count_5m"]
    inside = stream.serve(replace(first, us=START + 5 * MINUTE - 1, id=2)).features[0]
    outside = stream.serve(replace(first, us=START + 5 * MINUTE, id=2)).features[0]
    assert (inside[count], outside[count]) == (2, 1)
