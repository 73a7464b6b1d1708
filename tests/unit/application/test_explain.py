"""A decision in words."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from sluice.application.explain import explain
from sluice.cli.explain import lines
from sluice.domain.features import catalogue
from sluice.domain.features.catalogue import NEVER_S
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import Decision
from sluice.domain.records.label import label_of
from sluice.testing.factories import NOON_US
from sluice.testing.records import make_decision


class At(NamedTuple):
    partition: int
    offset: int
    decision: Decision
    record: bytes
    superseded: bool = False


def with_features(**values: int) -> At:
    made = make_decision()
    features = [f.default for f in catalogue.FEATURES]
    for name, value in values.items():
        features[catalogue.INDEX[name]] = value
    fields = {"features": features, "catalogue": catalogue.DIGEST}
    decision = msgspec.structs.replace(made, **fields)
    return At(3, 17, decision, encode(decision))


def names(at: At, *, everything: bool) -> list[str]:
    found = explain(at, everything=everything).features
    assert found is not None
    return [row.name for rows in found.values() for row in rows]


def test_features_that_say_nothing_are_left_out_unless_asked_for() -> None:
    seconds = next(f for f in catalogue.FEATURES if f.unit == "s" and f.entity == "card")
    count = next(f for f in catalogue.FEATURES if f.unit == "count" and f.entity == "card")
    quiet = with_features(**{seconds.name: NEVER_S, count.name: 0})
    assert {seconds.name, count.name}.isdisjoint(names(quiet, everything=False))
    assert sorted(names(quiet, everything=True)) == sorted(catalogue.NAMES)
    said = explain(with_features(**{seconds.name: 12_345, count.name: 7})).features
    assert said is not None
    values = {row.name: row.value for row in said["card"]}
    assert (values[seconds.name], values[count.name]) == ("3 h 25 min", "7")


def test_features_of_another_catalogue_are_not_named() -> None:
    at = with_features()
    other = at._replace(decision=msgspec.structs.replace(at.decision, catalogue="0" * 16))
    assert explain(other).features is None
    assert "  named by another catalogue than this build's; see --json" in lines(explain(other))


def test_of_two_records_of_an_id_a_page_shows_both_and_which_counts() -> None:
    first = with_features()
    second = first._replace(offset=21, superseded=True)
    assert explain(first, of=[first]).records == []
    page = list(lines(explain(first, of=[first, second])))
    at = page.index("decided more than once; one record counts")
    assert page[at + 1].startswith("  counts       decisions.v1/3@17  approve, D1, sync, 2026-")
    assert page[at + 2].startswith("  superseded   decisions.v1/3@21  approve, D1, sync, 2026-")


def test_a_page_says_where_the_record_lies_and_what_was_decided() -> None:
    at = with_features()
    page = list(lines(explain(at)))
    assert f"authorization  {at.decision.authorization.authorization_id}" in page
    assert f"outcome        {at.decision.outcome.upper()}" in page
    assert "recorded       decisions.v1/3@17" in page
    assert page.index("reasons") < page.index("states served, by the last record applied")


def test_a_page_shows_what_was_reported_and_which_report_counts() -> None:
    at = with_features()
    auth = at.decision.authorization
    reported = [
        label_of(auth, known_at=known, is_fraud=fraud, kind=kind, source=source, **more)
        for known, fraud, kind, source, more in (
            (NOON_US + 2, False, "verdict", "analysts", {"report_id": "case-7"}),
            (NOON_US + 1, True, "issuer_report", "visa-tc40", {"reason": "6"}),
        )
    ]
    page = list(lines(explain(at, labels=reported)))
    where = page.index("reported, as it became known")
    assert "fraud, issuer_report of visa-tc40, reason 6, known 2026-" in page[where + 1]
    assert page[where + 2].startswith(
        "  counts       genuine, verdict of analysts, report case-7, known 2026-"
    )
    assert "reported, as it became known" not in lines(explain(at))


def test_a_page_says_that_a_decline_was_let_through_and_with_what_probability() -> None:
    at = with_features()
    said = []
    for ppm in (None, 0, 12_500):
        changed = msgspec.structs.replace(at.decision, let_through_ppm=ppm)
        page = lines(explain(at._replace(decision=changed)))
        said.append([line for line in page if line.startswith("let_through")])
    assert said == [
        [],
        ["let_through    drawn, but the day's budget was spent"],
        ["let_through    instead of a decline, with 1.25 %"],
    ]
