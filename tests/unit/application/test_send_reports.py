"""A file of reports goes to the labeller: every row has its end, and nothing ends it early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sluice.application.send_reports import REPORTS_A_REQUEST, TRIES_MAX, Sent, Told, send
from sluice.domain.records.report import Report
from sluice.errors import Rejected, SluiceError, Unavailable


class Row:
    def __init__(self, line: int, report: Report | Rejected) -> None:
        self.line, self.report, self.where = line, report, f"cases.csv:{line}"


def report(name: str) -> Report:
    return Report(
        source="cases",
        report_id=name,
        kind="verdict",
        is_fraud=True,
        authorization_id="a-1",
        tenant="bank",
    )


class Api:
    """Refuses reports whose id begins with "bad"; fails as often as told."""

    def __init__(self, *failures: SluiceError) -> None:
        self.failures = list(failures)
        self.sent: list[str] = []
        self.sizes: list[int] = []

    def send(self, reports: Sequence[Report]) -> list[Told]:
        self.sizes.append(len(reports))
        if self.failures:
            raise self.failures.pop(0)
        self.sent += [one.report_id for one in reports]
        return [
            Told(code="unknown_authorization", detail="nobody knows it")
            if one.report_id.startswith("bad")
            else Told(outcome="new")
            for one in reports
        ]


def sending(api: Api, rows: Sequence[Row], **more: Any) -> tuple[Sent, list[str], list[float]]:
    bad: list[str] = []
    pauses: list[float] = []
    sent = send(
        rows,
        api,
        bad=lambda where, code, why: bad.append(f"{where} {code} {why}"),
        pause=pauses.append,
        **more,
    )
    return sent, bad, pauses


def test_every_row_is_taken_or_told_with_its_place_and_reason() -> None:
    refused = Rejected("no time", where="column when", code="bad_format")
    rows = [Row(2, report("1")), Row(3, refused), Row(4, report("bad-2")), Row(5, report("3"))]
    sent, bad, _ = sending(Api(), rows)
    assert (dict(sent.outcomes), dict(sent.refused)) == (
        {"new": 2},
        {"bad_format": 1, "unknown_authorization": 1},
    )
    assert bad == [
        "cases.csv:3 bad_format no time (column when)",
        "cases.csv:4 unknown_authorization nobody knows it",
    ]
    assert (sent.rows, sent.failure, sent.resume_at) == (4, None, 6)


def test_many_rows_go_some_hundred_at_once() -> None:
    api = Api()
    sending(api, [Row(i, report(str(i))) for i in range(2 * REPORTS_A_REQUEST + 1)])
    assert api.sizes == [REPORTS_A_REQUEST, REPORTS_A_REQUEST, 1]


def test_a_labeller_that_is_away_for_a_while_is_asked_again_with_the_same_rows() -> None:
    api = Api(*[Unavailable("away")] * 3)
    sent, _, pauses = sending(api, [Row(2, report("1"))])
    assert (sent.failure, api.sent, pauses) == (None, ["1"], [0.5, 1.0, 2.0])


def test_one_that_stays_away_ends_it_and_says_where_to_go_on() -> None:
    api = Api()
    rows = [Row(i, report(str(i))) for i in range(2, REPORTS_A_REQUEST + 5)]
    original = api.send

    def only_once(reports: Sequence[Report]) -> list[Told]:
        if api.sent:
            api.failures = [Unavailable("away")]
        return original(reports)

    api.send = only_once  # type: ignore[method-assign]
    sent, _, pauses = sending(api, rows)
    assert isinstance(sent.failure, Unavailable)
    assert len(pauses) == TRIES_MAX - 1
    assert sent.outcomes == {"new": REPORTS_A_REQUEST}
    assert sent.resume_at == REPORTS_A_REQUEST + 2


def test_a_refusal_of_all_ends_it_at_once() -> None:
    sent, _, pauses = sending(Api(Rejected("no scope", code="x")), [Row(2, report("1"))])
    assert isinstance(sent.failure, Rejected)
    assert (pauses, sent.resume_at) == ([], 2)


def test_it_stops_between_two_requests_when_told() -> None:
    api = Api()
    rows = [Row(i, report(str(i))) for i in range(2, 2 * REPORTS_A_REQUEST)]
    sent, _, _ = sending(api, rows, stopping=lambda: True)
    assert sent.rows == REPORTS_A_REQUEST
    assert sent.resume_at == REPORTS_A_REQUEST + 2
