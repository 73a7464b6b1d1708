"""How late frauds become known, among authorizations that are all old enough to tell."""

from __future__ import annotations

import msgspec

from sluice.application.label_maturity import COMPLETE_DAYS, DAYS, EVERY, Delays
from sluice.domain.clock import DAY_US
from sluice.domain.records.authorization import Channel
from sluice.domain.records.label import Label
from sluice.testing.factories import NOON_US, make_authorization, make_label


def label(day: int, delay_days: float, **changes: object) -> Label:
    auth = make_authorization(event_at=NOON_US + day * DAY_US, channel=Channel.ECOM)
    made = make_label(auth, known_at=auth.event_at + int(delay_days * DAY_US))
    return msgspec.structs.replace(made, **changes)


def delays(*labels: Label) -> Delays:
    made = Delays()
    for one in labels:
        made.add(one)
    return made


def test_the_share_known_after_so_many_days_by_channel_and_source() -> None:
    pos = {"channel": Channel.POS}
    rows = delays(
        label(0, 0.5),
        label(0, 5),
        label(0, 40),
        label(1, 20, source="visa-tc40"),
        label(1, 1, **pos),
    ).by_channel_and_source(NOON_US + 100 * DAY_US)
    told = {(row.channel, row.source): row for row in rows}
    assert set(told) == {
        (EVERY, EVERY),
        ("ecom", EVERY),
        ("pos", EVERY),
        ("ecom", "test"),
        ("ecom", "visa-tc40"),
        ("pos", "test"),
    }
    every = told[EVERY, EVERY]
    assert (every.reports, every.median_days) == (5, 5.0)
    assert dict(every.known) == {1: 0.4, 3: 0.4, 7: 0.6, 14: 0.6, 30: 0.8, 60: 1.0}
    assert dict(told["ecom", "visa-tc40"].known)[14] == 0.0
    assert told["pos", "test"].reports == 1


def test_authorizations_too_young_to_tell_and_reports_later_than_that_are_left_out() -> None:
    made = delays(label(0, 2), label(0, COMPLETE_DAYS + 1), label(50, 2))
    [every, *_] = made.by_channel_and_source(NOON_US + COMPLETE_DAYS * DAY_US)
    assert every.reports == 1
    assert made.by_channel_and_source(NOON_US + COMPLETE_DAYS * DAY_US - 1) == []
    [every, *_] = made.by_channel_and_source(NOON_US + COMPLETE_DAYS * DAY_US, complete_days=7)
    assert every.reports == 2
    assert [n for n, _ in every.known] == [n for n in DAYS if n <= 7]


def test_what_tells_of_no_fraud_or_changes_nothing_is_no_first_report() -> None:
    made = delays(label(0, 1, is_fraud=False), label(0, 9, uncounted="repeats"), label(0, 2))
    assert len(made) == 1
    assert len(made.copy()) == 1


def test_a_label_whose_writer_did_not_say_the_channel_is_of_an_unknown_one() -> None:
    rows = delays(label(0, 1, channel=None)).by_channel_and_source(NOON_US + 100 * DAY_US)
    assert {row.channel for row in rows} == {EVERY, "unknown"}


def test_without_a_report_there_is_no_row() -> None:
    assert Delays().by_channel_and_source(NOON_US) == []
