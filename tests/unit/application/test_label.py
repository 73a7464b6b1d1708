"""Reports become labels: each once, in whatever order, and nothing is lost when Kafka fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from sluice.application.label import Answered, Labeller, NoAuthorizations, summed
from sluice.domain.clock import DAY_US
from sluice.domain.records.authorization import encode
from sluice.domain.records.label import Label
from sluice.domain.records.report import Named, Report, decode_report
from sluice.errors import Corrupt, Rejected, Unavailable
from sluice.testing.counting import Counted
from sluice.testing.factories import NOON_US, make_authorization, make_label
from sluice.testing.labels import FakeLabelTopic
from sluice.testing.store import FakeClock


def make_report(name: str = "r-1", **changes: Any) -> Report:
    given: dict[str, Any] = {
        "source": "visa-tc40",
        "report_id": name,
        "kind": "issuer_report",
        "is_fraud": True,
        "authorization_id": "a-1",
        "tenant": "bank",
        "known_at": NOON_US + DAY_US,
        "event_at": NOON_US,
        "card_token": "card-1",
        "merchant_id": "merchant-1",
        "terminal_id": "terminal-1",
    }
    return Report(**(given | changes))


class Archive:
    """Authorizations of which one knows what to look up."""

    def __init__(self, **ids: Named) -> None:
        self.ids = ids
        self.asked: list[Mapping[tuple[str, str], int | None]] = []

    def find(self, wanted: Mapping[tuple[str, str], int | None]) -> Mapping[tuple[str, str], Named]:
        self.asked.append(wanted)
        return {at: self.ids[at[1]] for at in wanted if at[0] == "bank" and at[1] in self.ids}


class Harness:
    def __init__(self, topic: FakeLabelTopic | None = None, archive: Any = None) -> None:
        self.clock = FakeClock(NOON_US + DAY_US)
        self.topic = topic or FakeLabelTopic()
        self.count = Counted()
        self.labeller = Labeller(self.topic, archive or NoAuthorizations(), self.clock, self.count)

    def take(self, *reports: Report) -> list[str]:
        """Outcome of each report, or the code of what refused it."""
        return [
            one.outcome if isinstance(one, Answered) else one.code
            for one in self.labeller.take(reports)
        ]

    def restarted(self) -> Harness:
        """Another process over the same topic."""
        return Harness(FakeLabelTopic(self.topic.log))

    @property
    def labels(self) -> list[Label]:
        return [msgspec.json.decode(one.value, type=Label) for one in self.topic.log.labels]


def test_a_report_becomes_the_label_of_its_authorization() -> None:
    harness = Harness()
    assert harness.take(make_report(device_id="device-1", reason="6")) == ["new"]
    assert harness.labels == [
        Label(
            authorization_id="a-1",
            event_at=NOON_US,
            known_at=NOON_US + DAY_US,
            is_fraud=True,
            kind="issuer_report",
            source="visa-tc40",
            tenant="bank",
            card_token="card-1",
            merchant_id="merchant-1",
            terminal_id="terminal-1",
            device_id="device-1",
            report_id="r-1",
            reason="6",
        )
    ]
    assert harness.count == {"sluice_labeller_labels_total issuer_report true": 1}


def test_a_report_sent_again_is_taken_once_also_after_a_restart_and_in_one_batch() -> None:
    harness = Harness()
    assert harness.take(make_report(), make_report()) == ["new", "duplicate"]
    assert harness.take(make_report(known_at=None)) == ["duplicate"]
    again = harness.restarted()
    assert again.take(make_report()) == ["duplicate"]
    assert len(again.labels) == 1


def test_the_same_id_of_another_source_or_tenant_is_another_report() -> None:
    harness = Harness()
    reports = [make_report(), make_report(source="mc-safe"), make_report(tenant="other")]
    assert harness.take(*reports) == ["new", "repeats", "new"]


@pytest.mark.parametrize(
    "changes",
    [{"is_fraud": False}, {"authorization_id": "a-2"}, {"kind": "verdict"}, {"reason": "4"}],
)
def test_a_report_id_with_other_content_is_a_conflict(changes: dict[str, Any]) -> None:
    harness = Harness()
    harness.take(make_report())
    assert harness.take(make_report(**changes)) == ["report_conflict"]
    assert len(harness.labels) == 1


def test_reports_that_contradict_each_other_are_kept_and_say_what_they_change() -> None:
    harness = Harness()
    day = NOON_US + DAY_US
    outcomes = [
        harness.take(make_report(f"r-{i}", kind=kind, is_fraud=fraud, known_at=known))[0]
        for i, (kind, fraud, known) in enumerate(
            [
                ("issuer_report", True, day),
                ("chargeback", True, day + 1),
                ("chargeback", False, day + 2),
                ("issuer_report", True, day + 3),
                ("verdict", True, day + 4),
                ("verdict", False, day - 1),
            ]
        )
    ]
    assert outcomes == ["new", "repeats", "turned", "outranked", "turned", "outranked"]
    assert [one.uncounted for one in harness.labels] == [
        None, "repeats", None, "outranked", None, "outranked",
    ]  # fmt: skip
    assert [one.withdraws for one in harness.labels] == [None, None, day, None, None, None]
    last = harness.restarted().labeller.take([make_report("r-9", kind="alert", is_fraud=False)])
    assert last == [Answered("outranked", "a-1", "r-9", is_fraud=True)]


def test_what_others_wrote_to_the_topic_is_known() -> None:
    harness = Harness()
    harness.take(make_report())
    auth = make_authorization("a-7", tenant="bank")
    harness.topic.put(encode(make_label(auth, known_at=NOON_US)))
    harness.clock.advance(1.1)
    assert harness.take(make_report("r-7", authorization_id="a-7")) == ["repeats"]


def test_what_is_left_out_is_looked_up_and_an_unknown_authorization_is_refused() -> None:
    archive = Archive(**{"a-1": Named(NOON_US - 5, "card-9", "merchant-9", "terminal-9", "dev-9")})
    harness = Harness(archive=archive)
    short = {"event_at": None, "card_token": None, "merchant_id": None, "terminal_id": None}
    assert harness.take(
        make_report("r-1", **short),
        make_report("r-2", authorization_id="a-2", **short),
        make_report("r-3", authorization_id="a-3"),
        make_report("r-4", tenant="other", **short),
    ) == ["new", "unknown_authorization", "new", "unknown_authorization"]
    assert [one.card_token for one in harness.labels] == ["card-9", "card-1"]
    assert harness.labels[0].device_id == "dev-9"
    assert len(archive.asked) == 1
    assert len(archive.asked[0]) == 3


class Damaged:
    def find(self, wanted: Mapping[tuple[str, str], int | None]) -> Mapping[tuple[str, str], Named]:
        raise Corrupt("a file is damaged", where="part-1")


def test_while_the_archive_is_damaged_complete_reports_are_taken_all_the_same() -> None:
    harness = Harness(archive=Damaged())
    short = make_report("r-2", merchant_id=None)
    assert harness.take(make_report(), short) == ["new", "missing_field"]
    assert harness.count["sluice_labeller_failed_total corrupt"] == 1
    assert harness.take(make_report()) == ["duplicate"]


def test_where_nothing_can_be_looked_up_a_short_report_says_what_is_missing() -> None:
    [refused] = Harness().labeller.take([make_report(card_token=None)])
    assert isinstance(refused, Rejected)
    assert refused.code == "missing_field"
    assert "card_token" in str(refused)


def test_times_that_cannot_be_are_refused_and_a_late_report_is_counted() -> None:
    harness = Harness()
    harness.clock.advance(3 * DAY_US / 1_000_000)
    now = harness.clock.now_us()
    assert harness.take(
        make_report("r-1", known_at=now + 6 * 60_000_000),
        make_report("r-2", known_at=NOON_US - 1),
        make_report("r-3", known_at=NOON_US),
        make_report("r-4", known_at=None),
    ) == ["event_in_future", "out_of_range", "new", "repeats"]
    assert harness.labels[1].known_at == now
    assert harness.count["sluice_labeller_late_total issuer_report"] == 1


@pytest.mark.parametrize("fail", ["lost", "unheard"])
def test_after_a_write_that_failed_the_same_reports_are_taken_once(fail: str) -> None:
    harness = Harness()
    harness.topic.fail = fail
    reports = [make_report("r-1"), make_report("r-2", kind="verdict", is_fraud=False)]
    with pytest.raises(Unavailable):
        harness.take(*reports)
    assert harness.count == {}
    outcome = harness.take(*reports)
    assert outcome == (["duplicate"] * 2 if fail == "unheard" else ["new", "turned"])
    assert [one.report_id for one in harness.labels] == ["r-1", "r-2"]


def test_nothing_is_taken_while_the_topic_cannot_be_read_after_a_failure() -> None:
    harness = Harness()
    harness.topic.fail = "unheard"
    with pytest.raises(Unavailable):
        harness.take(make_report())
    harness.topic.down = True
    with pytest.raises(Unavailable):
        harness.take(make_report())
    harness.topic.down = False
    assert harness.take(make_report()) == ["duplicate"]


def test_a_second_labeller_ends_the_first() -> None:
    first = Harness()
    first.take(make_report())
    second = first.restarted()
    for end in (lambda: first.take(make_report("r-2")), first.labeller.refresh):
        with pytest.raises(Corrupt):
            end()
    assert second.take(make_report("r-2")) == ["repeats"]


def test_a_foreign_record_in_the_topic_stops_it_and_says_where() -> None:
    harness = Harness()
    harness.topic.put(b'{"v":2}')
    with pytest.raises(Corrupt, match=r"labels\.v1/0@0"):
        harness.take(make_report())


def test_results_are_summed_by_what_became_of_them() -> None:
    harness = Harness()
    results = harness.labeller.take(
        [make_report(), make_report(), make_report("r-3", authorization_id="a-3", card_token=None)]
    )
    assert summed(results) == {"new": 1, "duplicate": 1, "missing_field": 1}


class TestReading:
    def raw(self, **changes: Any) -> bytes:
        told = msgspec.to_builtins(make_report()) | changes
        return msgspec.json.encode({name: v for name, v in told.items() if v is not None})

    def test_a_report_is_read_as_it_was_written(self) -> None:
        assert decode_report(self.raw()) == make_report()
        short = make_report(event_at=None, known_at=None, device_id=None, merchant_id=None)
        assert decode_report(encode(short)) == short
        assert (make_report().complete, short.complete) == (True, False)

    @pytest.mark.parametrize(
        ("raw", "code"),
        [
            (b"", "invalid_json"),
            (b"[]", "wrong_type"),
            (b"{}", "missing_field"),
            (b"\xff", "invalid_json"),
            (b" " * 5_000, "too_large"),
            ({"amount": 5}, "unknown_field"),
            ({"kind": "rumour"}, "unknown_value"),
            ({"is_fraud": "yes"}, "wrong_type"),
            ({"source": "Visa TC40"}, "bad_format"),
            ({"known_at": -1}, "out_of_range"),
            ({"report_id": "4111111111111111"}, "card_number"),
            ({"card_token": "4111111111111111", "amount": 5}, "card_number"),
        ],
    )
    def test_what_is_no_report_is_refused_with_its_code(self, raw: Any, code: str) -> None:
        with pytest.raises(Rejected) as refused:
            decode_report(raw if isinstance(raw, bytes) else self.raw(**raw))
        assert refused.value.code == code
        assert "4111" not in str(refused.value)

    def test_a_field_that_comes_twice_is_refused(self) -> None:
        raw = self.raw().replace(b'"is_fraud":true', b'"is_fraud":false,"is_fraud":true')
        with pytest.raises(Rejected, match="twice"):
            decode_report(raw)

    def test_no_repr_prints_a_token(self) -> None:
        assert "card-1" not in repr(make_report())
