"""The figures of PSD2's technical standards: against a count of every payment by hand, and what the
document says of rates that hold, that are exceeded once, and twice."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sluice.application.read_log import Order, Unverifiable
from sluice.application.reports import fraud_rates, psd2
from sluice.application.reports.document import Document, Section
from sluice.application.reports.evidence import Log, Unfounded
from sluice.application.reports.fraud_rates import Delays, Standing, percent, quarter_of, rounded
from sluice.audit.entries import join
from sluice.cli import main
from sluice.domain.records import log_record as records
from sluice.domain.records.authorization import Channel, ScaExemption, ThreeDs
from sluice.domain.records.label import LabelKind
from sluice.domain.records.outcome import Outcome
from sluice.domain.sca import threshold_of
from sluice.errors import Rejected
from tests.support.logs import KEY, ORIGIN, signed, tree_files, write_log

DAY_US = 86_400_000_000
EXAMPLE = records.read(
    (Path(__file__).parents[3] / "contracts/examples/log-records.v1.jsonl")
    .read_bytes()
    .splitlines()[0]
)
END_US = 1_800_000_000_000_000
"""When all records of these logs were written: January 2027."""


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def decision(
    name: str,
    event_at: int,
    amount_minor: int = 10_000,
    *,
    channel: Channel = Channel.ECOM,
    exemption: ScaExemption | None = None,
    three_ds: ThreeDs | None = None,
    outcome: Outcome = Outcome.APPROVE,
    currency: str = "EUR",
    tenant: str = "bank",
    recorded_at: int = END_US,
) -> records.DecisionRecord:
    assert isinstance(EXAMPLE, records.DecisionRecord)
    etv = threshold_of(amount_minor, currency)
    tra: Any = msgspec.UNSET
    if exemption == ScaExemption.TRANSACTION_RISK_ANALYSIS:
        tra = records.Tra(
            etv_eur=etv and etv.etv_eur, reference_rate_ppm=etv and etv.reference_rate_ppm
        )
    body = msgspec.structs.replace(
        EXAMPLE.body,
        channel=channel,
        amount_minor=amount_minor,
        outcome=outcome,
        currency=currency,
        tenant=tenant,
        sca=records.Sca(exemption=exemption, three_ds=three_ds, tra=tra),
    )
    return msgspec.structs.replace(
        EXAMPLE, log=ORIGIN, recorded_at=recorded_at, authorization_id=name, event_at=event_at,
        body=body, sealed=None,
    )  # fmt: skip


def label(
    name: str,
    event_at: int,
    known_at: int,
    *,
    kind: LabelKind = "chargeback",
    is_fraud: bool = True,
    tenant: str = "bank",
    recorded_at: int = END_US,
) -> records.LabelRecord:
    return records.LabelRecord(
        log=ORIGIN,
        recorded_at=recorded_at,
        authorization_id=name,
        event_at=event_at,
        body=records.LabelBody(
            tenant=tenant, channel=None, known_at=known_at, is_fraud=is_fraud, kind=kind,
            source="test", reason=None, uncounted=None, withdraws=None,
        ),
    )  # fmt: skip


def log_of(said: Iterable[records.AnyRecord]) -> Log:
    written = [join(records.encode(one)) for one in said]
    files, root = tree_files(written)
    files["checkpoint"] = signed(len(written), root)
    return Log(lambda path: files[path], Order(KEY))


def made(
    said: Iterable[records.AnyRecord], quarter: str = "2026Q3", tenants: Sequence[str] = ()
) -> Document:
    return psd2.psd2([log_of(said)], quarter, now_us=END_US, tenants=tenants).document


def section(document: Document, title: str) -> Section:
    (found,) = [one for one in document.sections if one.title.startswith(title)]
    return found


def rows(document: Document, title: str) -> list[list[Any]]:
    table = section(document, title).table
    assert table is not None
    return table.rows


def facts(document: Document, title: str) -> dict[str, Any]:
    return {fact.name: fact.value for fact in section(document, title).facts}


# Against a count by hand.


def random_records(seed: int, count: int) -> list[records.AnyRecord]:
    rng = random.Random(seed)
    said: list[records.AnyRecord] = []
    for n in range(count):
        event_at = at("2026-01-20") + rng.randrange(300 * DAY_US)
        said.append(
            decision(
                f"a-{n}",
                event_at,
                rng.choice((0, 99, 2_000, 9_999, 25_001, 60_000)),
                channel=rng.choice(tuple(Channel)),
                exemption=rng.choice((None, *ScaExemption)),
                three_ds=rng.choice((None, *ThreeDs)),
                outcome=rng.choice((*Outcome, Outcome.APPROVE)),
            )
        )
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
            said.append(
                label(
                    f"a-{n}",
                    event_at,
                    event_at + rng.randrange(90 * DAY_US),
                    kind=rng.choice(("chargeback", "alert", "verdict", "issuer_report")),
                    is_fraud=rng.random() < 0.7,
                )
            )
    rng.shuffle(said)
    return said


RANK = {"alert": 0, "issuer_report": 1, "chargeback": 2, "verdict": 2}


def by_hand(said: Sequence[records.AnyRecord], first: str, until: str) -> dict[str, Any]:
    """Every payment looked at, and every label of it."""
    found: dict[tuple[str, str], list[int]] = {}
    rate = [0, 0]
    for one in said:
        if not isinstance(one, records.DecisionRecord) or one.body.outcome != "approve":
            continue
        if not at(first) <= one.event_at < at(until):
            continue
        labels = [
            (RANK[two.body.kind], two.body.known_at, place, two.body.is_fraud)
            for place, two in enumerate(said)
            if isinstance(two, records.LabelRecord) and two.authorization_id == one.authorization_id
        ]
        fraud = bool(labels) and max(labels)[3]
        body = one.body
        if body.sca.exemption in ("merchant_initiated", "moto", "one_leg"):
            by = body.sca.exemption
        elif body.channel == "moto":
            by = "moto"
        elif body.sca.three_ds == "challenged":
            by = "authenticated"
        else:
            by = body.sca.exemption or "not_told"
        cell = found.setdefault((body.channel.value, by), [0, 0, 0, 0])
        for place, more in enumerate(
            (1, body.amount_minor, int(fraud), body.amount_minor if fraud else 0)
        ):
            cell[place] += more
        if body.channel == "ecom" and by not in ("merchant_initiated", "moto", "one_leg"):
            rate[0] += body.amount_minor if fraud else 0
            rate[1] += body.amount_minor
    return {"cells": found, "rate": tuple(rate)}


CHANNELS = {
    "remote_card": ("ecom",),
    "mail_or_telephone": ("moto",),
    "card_present": ("pos", "contactless"),
    "cash_withdrawal": ("atm",),
}


@pytest.mark.parametrize("labelled_max", [psd2.LABELLED_MAX, 40])
def test_all_sums_are_those_of_a_count_by_hand(labelled_max, monkeypatch):
    monkeypatch.setattr(psd2, "LABELLED_MAX", labelled_max)
    said = random_records(5, 900)
    quarter = quarter_of("2026Q3")
    figures, _ = psd2.count([log_of(said)], quarter, [], lambda _done, _of: None)
    true = by_hand(said, "2026-07-01", "2026-10-01")
    for kind, channels in CHANNELS.items():
        sums = figures.totals.by_how(kind, quarter.first, quarter.until)
        mine: dict[str, list[int]] = {}
        for (channel, by), some in true["cells"].items():
            if channel in channels:
                mine[by] = [a + b for a, b in zip(mine.get(by, [0] * 4), some, strict=True)]
        assert {str(by): list(some) for by, some in sums.items()} == mine
    in_rate = figures.totals.in_rate(quarter.first, quarter.until)
    assert (in_rate.fraud_minor, in_rate.value_minor) == true["rate"]
    assert in_rate.fraud_minor > 0
    rolling = dict(figures.totals.rolling(quarter))
    assert len(rolling) == 92
    for day in (quarter.first, quarter.first + 45, quarter.until - 1):
        first = str(fraud_rates.day_date(day - 89))
        until = str(fraud_rates.day_date(day + 1))
        assert (rolling[day].fraud_minor, rolling[day].value_minor) == by_hand(said, first, until)[
            "rate"
        ]
    assert sum(one.payments for one in figures.outcomes.values()) == sum(
        isinstance(one, records.DecisionRecord)
        and at("2026-07-01") <= one.event_at < at("2026-10-01")
        for one in said
    )


def test_two_logs_are_counted_as_one_whatever_lies_in_which():
    said = random_records(8, 200)
    quarter = quarter_of("2026Q3")
    whole, _ = psd2.count([log_of(said)], quarter, [], lambda _done, _of: None)
    decisions = [one for one in said if isinstance(one, records.DecisionRecord)]
    labels = [one for one in said if isinstance(one, records.LabelRecord)]
    parts, _ = psd2.count([log_of(decisions), log_of(labels)], quarter, [], lambda _done, _of: None)
    assert parts.totals._cells == whole.totals._cells
    assert parts.totals._cells


# What the document says.


def quarter_with(day: str, frauds_minor: int, of_minor: int) -> list[records.AnyRecord]:
    """One fraudulent payment and one genuine one, by transaction risk analysis."""
    risk = ScaExemption.TRANSACTION_RISK_ANALYSIS
    return [
        decision(f"g-{day}", at(day), of_minor - frauds_minor, exemption=risk),
        decision(f"f-{day}", at(day), frauds_minor, exemption=risk),
        label(f"f-{day}", at(day), at(day) + DAY_US),
    ]


def early() -> records.AnyRecord:
    """The log began before the quarter before."""
    return decision("old", at("2025-12-01"), 1, recorded_at=at("2026-01-01"))


def test_at_the_reference_rate_the_exemption_may_be_used_and_a_cent_above_it_is_reported():
    said = [early(), *quarter_with("2026-08-01", 1_300, 1_000_000)]  # 0.13 %
    annex = rows(made(said), "The rate against the Annex")
    assert [row[:3] for row in annex] == [
        ["EUR 100", "0.13 %", "within"],
        ["EUR 250", "0.06 %", "exceeded"],
        ["EUR 500", "0.01 %", "exceeded"],
    ]
    said = [early(), *quarter_with("2026-08-01", 1_301, 1_000_000)]
    document = made(said)
    assert "above every reference rate" in document.lead
    assert "0.1301 %: 13.01 EUR of 10000.00 EUR" in document.lead.replace(",", "")
    assert facts(document, "The rate against the Annex")["Exactly, in minor units"] == (
        "1301 / 1000000"
    )


def test_two_consecutive_quarters_above_it_end_the_exemption_in_that_range_alone():
    said = [
        early(),
        *quarter_with("2026-05-01", 700, 1_000_000),
        *quarter_with("2026-08-01", 800, 1_000_000),
    ]
    document = made(said)
    asked = {row[0]: row[2:] for row in rows(document, "The rate against the Annex")}
    assert asked["EUR 100"][:2] == ["within", "within"]
    assert asked["EUR 250"][:2] == ["exceeded", "exceeded"]
    assert "cease to use the exemption in this range at once (article 20(2))" in asked["EUR 250"][2]
    assert "may be used up to EUR 100" in document.lead
    assert "EUR 250, EUR 500 it was exceeded in two consecutive quarters" in document.lead


def test_a_quarter_within_the_rate_after_one_above_it_lets_it_begin_anew_with_notice():
    said = [
        early(),
        *quarter_with("2026-05-01", 1_500, 1_000_000),
        *quarter_with("2026-08-01", 50, 1_000_000),
    ]
    asked = rows(made(said), "The rate against the Annex")
    assert all(row[2:4] == ["within", "exceeded"] for row in asked)
    assert all("article 20(3), (4)" in row[4] for row in asked)


def test_a_log_that_does_not_reach_the_quarter_before_says_that_it_is_not_known():
    document = made(quarter_with("2026-08-01", 800, 1_000_000))
    asked = rows(document, "The rate against the Annex")
    assert [row[3] for row in asked] == ["not known"] * 3
    assert "not known here" in asked[1][4]
    assert "begin on 2027-01-15" in document.lead


def test_each_exemption_has_its_number_share_average_and_rate():
    said = [
        early(),
        decision("a", at("2026-07-01"), 3_001, exemption=ScaExemption.LOW_VALUE),
        decision("b", at("2026-07-02"), 1_000, exemption=ScaExemption.LOW_VALUE),
        decision("c", at("2026-09-30"), 5_000, three_ds=ThreeDs.CHALLENGED),
        decision("d", at("2026-09-30"), 9_000, outcome=Outcome.DECLINE),
        decision("o", at("2026-08-01"), 999, exemption=ScaExemption.ONE_LEG),
        decision("e", at("2026-10-01"), 9_000),
        decision("f", at("2026-06-30"), 9_000),
        label("b", at("2026-07-02"), at("2026-07-09"), kind="alert"),
        label("d", at("2026-09-30"), at("2026-10-09")),
        label("gone", at("2026-09-01"), at("2026-09-09")),
    ]
    document = made(said)
    assert rows(document, "Remote electronic card payments") == [
        ["with strong customer authentication", 1, "25.00 %", "50.00 EUR", "50.00 EUR", 0,
         "0.00 EUR", "0.0000 %"],
        ["article 16: remote, of low value", 2, "50.00 %", "40.01 EUR", "20.01 EUR", 1,
         "10.00 EUR", "24.9938 %"],
        ["out of scope: one provider is outside the EEA", 1, "25.00 %", "9.99 EUR", "9.99 EUR", 0,
         "0.00 EUR", "0.0000 %"],
        ["All", 4, "100.00 %", "100.00 EUR", "25.00 EUR", 1, "10.00 EUR", "10.0000 %"],
        ["All but those out of scope", 3, "75.00 %", "90.01 EUR", "30.00 EUR", 1, "10.00 EUR",
         "11.1099 %"],
    ]  # fmt: skip
    assert section(document, "Cash withdrawals").text == ["There was none."]
    assert rows(document, "All decisions") == [
        ["approve", 4, "100.00 EUR"], ["decline", 1, "90.00 EUR"]
    ]  # fmt: skip
    known = facts(document, "What is known of frauds")
    assert known["Frauds that were not approved, so no payments"] == 1
    assert known["Frauds of which these logs have no decision"] == 1
    assert rows(document, "What is known of frauds") == [
        ["alert alone: a suspicion that nobody examined", 1, "10.00 EUR"]
    ]


def test_risk_analysis_is_shown_by_threshold_value_with_what_none_allows():
    risk = ScaExemption.TRANSACTION_RISK_ANALYSIS
    said = [
        decision(str(cents), at("2026-07-01"), cents, exemption=risk)
        for cents in (10_000, 10_001, 50_000, 50_001)
    ]
    by_etv = rows(made(said), "Payments exempt by transaction risk analysis")
    assert [row[:2] for row in by_etv] == [
        ["up to EUR 100", 1],
        ["up to EUR 250", 1],
        ["up to EUR 500", 1],
        ["above EUR 500: no threshold value allows it", 1],
    ]


def test_an_exemption_that_its_channel_cannot_have_is_pointed_at():
    said = [
        decision("a", at("2026-07-01"), exemption=ScaExemption.CONTACTLESS),
        decision("b", at("2026-07-01"), exemption=ScaExemption.LOW_VALUE, channel=Channel.POS),
        decision("c", at("2026-07-01"), exemption=ScaExemption.MOTO, channel=Channel.MOTO),
    ]
    assert "2 payments named an exemption" in " ".join(section(made(said), "All decisions").text)


def test_only_the_tenants_asked_for_are_counted():
    said = [
        decision("a", at("2026-07-01"), 500, tenant="bank"),
        decision("a", at("2026-07-01"), 700, tenant="other"),
        label("a", at("2026-07-01"), at("2026-07-09"), tenant="other"),
    ]
    document = made(said, tenants=["bank"])
    assert "of bank;" in document.subject
    assert rows(document, "Remote electronic card payments")[-1][3:6] == ["5.00 EUR", "5.00 EUR", 0]


def test_the_verb_writes_the_folder_or_says_why_not(tmp_path, capsys):
    said = quarter_with("2026-08-01", 1_300, 1_000_000)
    write_log(tmp_path / "log", [join(records.encode(one)) for one in said])
    ask = ["report", "psd2", "--log", str(tmp_path / "log"), "--key", str(KEY)]
    out = tmp_path / "out"
    assert main([*ask, "--quarter", "2026Q4", "--out", str(out)]) == 3
    assert main([*ask, "--quarter", "2026Q3", "--tenant", "other", "--out", str(out)]) == 3
    assert main([*ask, "--out", str(out)]) == 64
    assert "no decision of 2026Q3 is in these logs of the tenants other" in capsys.readouterr().err
    assert not out.exists()
    assert main([*ask, "--quarter", "2026Q3", "--out", str(out)]) == 0
    document = json.loads((out / "report.json").read_text())
    assert document["kind"] == "psd2"
    assert "0.1300 %" in (out / "report.html").read_text()
    checkpoint = str(out / document["rests_on"][0]["file"])
    known = ["--key", str(KEY), "--known", checkpoint]
    assert main(["log", "verify", str(tmp_path / "log"), *known]) == 0


def test_how_much_is_known_follows_from_how_late_frauds_were_known_before():
    delays = Delays()
    as_of = at("2026-10-01")
    for days in (1, 10, 20, 50):
        delays.take(at("2026-06-01"), at("2026-06-01") + days * DAY_US, as_of)
    delays.take(at("2026-09-01"), at("2026-09-02"), as_of)  # too young to tell
    delays.take(at("2026-05-01"), at("2026-08-01"), as_of)  # known too late to count
    assert delays.frauds == 4
    day = quarter_of("2026Q3").until - 1
    # Of the last day nothing is known, of 15 days before half, of 59 days before all.
    assert delays.known_share({day: 1}, as_of) == 0
    assert delays.known_share({day - 15: 1}, as_of) == Fraction(2, 4)
    assert delays.known_share({day: 1, day - 59: 3}, as_of) == Fraction(3, 4)
    assert Delays().known_share({day: 1}, as_of) is None


@pytest.mark.parametrize("name", ["2026Q5", "2026", "2026q3", "26Q3", "2026Q3 ", "1900Q1"])
def test_what_is_no_quarter_is_refused(name):
    with pytest.raises(Rejected, match="no quarter"):
        made([early()], name)


def test_amounts_of_two_currencies_make_no_rate():
    said = [decision("a", at("2026-07-01")), decision("b", at("2026-07-01"), currency="USD")]
    with pytest.raises(Rejected, match="EUR and in USD"):
        made(said)


def test_a_quarter_without_a_decision_has_no_report():
    with pytest.raises(Unverifiable, match="no decision of 2026Q4"):
        made([decision("a", at("2026-07-01"))], "2026Q4")


def test_no_figure_is_taken_from_a_log_in_which_a_byte_was_changed():
    said = quarter_with("2026-08-01", 1_300, 1_000_000)
    whole = log_of(said)

    def changed(path: str) -> bytes:
        raw = whole.read(path)
        return raw.replace(b'"amount_minor":1300,', b'"amount_minor":1200,')

    with pytest.raises(Unfounded) as caught:
        psd2.psd2([Log(changed, whole.order)], "2026Q3", now_us=END_US)
    assert caught.value.verdict.first_bad is not None


def test_rounding_is_half_up_and_quarters_follow_one_another():
    assert [rounded(Fraction(n, 2)) for n in (0, 1, 2, 3)] == [0, 1, 1, 2]
    assert percent(Fraction(1, 3)) == "33.3333 %"
    assert percent(Fraction(2, 3), 2) == "66.67 %"
    quarter = quarter_of("2026Q1")
    for name in ("2025Q4", "2025Q3", "2025Q2", "2025Q1", "2024Q4"):
        assert quarter.before.until == quarter.first
        quarter = quarter.before
        assert quarter.name == name


@pytest.mark.parametrize("now", [True, False, None])
@pytest.mark.parametrize("before", [True, False, None])
def test_use_must_cease_only_after_two_quarters_above(now, before):
    assert ("cease to use" in Standing(now, before).duty) is (now is True and before is True)
    assert ("20(1)" in Standing(now, before).duty) is (now is True)
