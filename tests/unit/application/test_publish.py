from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest

from sluice.application import publish
from sluice.application.publish import BadRow, Mapped, Publisher, watched
from sluice.domain.records.dead_letter import DeadLetter
from sluice.domain.records.label import Label
from sluice.errors import Rejected, Unavailable

TOPICS = SimpleNamespace(authorizations="auths", labels="labels", dead_letters="dead")
DAY = 86_400_000_000


class Recorder:
    """A producer that keeps all; its n-th flush fails where asked, and all since the one before."""

    def __init__(self, failing_flush: int = 0) -> None:
        self.sent: list[tuple[str, bytes, str]] = []
        self.flushes = self.delivered = 0
        self._failing = failing_flush

    def produce(self, topic: str, value: bytes, *, key: bytes | str | None = None) -> None:
        self.sent.append((topic, value, str(key)))

    def flush(self, timeout_s: float) -> None:
        self.flushes += 1
        if self.flushes == self._failing:
            raise Unavailable("3 records were not delivered")
        self.delivered = len(self.sent)

    def undelivered(self) -> Counter[str]:
        return Counter(topic for topic, _, _ in self.sent[self.delivered :])


class FixedClock:
    def now_us(self) -> int:
        return 77


def label(name: str, known_at: int) -> Label:
    return Label(
        authorization_id=name,
        event_at=0,
        known_at=known_at,
        is_fraud=True,
        kind="chargeback",
        source="x",
        tenant="t",
        card_token="c",
        merchant_id="m",
        terminal_id="t",
    )


def batch(first: int, *times: int, labels: tuple[Label, ...] = ()) -> Mapped:
    names = [f"{first + i}" for i in range(len(times))]
    values = [name.encode() for name in names]
    return Mapped(first, first + len(times) - 1, names, values, list(times), list(labels))


def publisher(producer: Recorder, **more: object) -> Publisher:
    return Publisher(file="f.csv", producer=producer, topics=TOPICS, clock=FixedClock(), **more)


def test_rows_leave_in_order_with_their_keys() -> None:
    producer = Recorder()
    report = publisher(producer).publish([batch(2, 1, 2), batch(4, 3)])
    assert producer.sent == [("auths", b"2", "2"), ("auths", b"3", "3"), ("auths", b"4", "4")]
    assert (report.rows, report.published, report.dead) == (3, 3, 0)
    assert report.resume_at == 5
    assert report.failure is None


def test_a_bad_row_becomes_a_dead_letter_that_names_its_line_and_not_its_content() -> None:
    producer, reported = Recorder(), []
    error = Rejected("column a: empty", where="f.csv:3", code="bad_cell")
    rows = batch(2, 1)
    rows = Mapped(2, 3, rows.keys, rows.values, rows.event_at, [], [BadRow(3, b"secret", error)])
    report = publisher(producer, bad_row=reported.append).publish([rows])
    topic, value, key = producer.sent[-1]
    dead_letter = msgspec.json.decode(value, type=DeadLetter)
    assert (topic, key) == ("dead", "file:f.csv/0")
    assert (dead_letter.origin.topic, dead_letter.origin.partition, dead_letter.origin.offset) == (
        "file:f.csv",
        0,
        3,
    )
    assert (dead_letter.code, dead_letter.service, dead_letter.size_bytes, dead_letter.dead_at) == (
        "bad_cell",
        "publish",
        6,
        77,
    )
    assert b"secret" not in value
    assert (report.rows, report.published, report.dead) == (2, 1, 1)
    assert [row.line for row in reported] == [3]


def test_a_label_leaves_when_the_events_pass_its_known_at() -> None:
    producer = Recorder()
    labels = (label("late", 99 * DAY), label("b", 25 * DAY), label("a", 15 * DAY))
    report = publisher(producer).publish(
        [batch(1, 10 * DAY, 20 * DAY, 12 * DAY, labels=labels), batch(4, 30 * DAY)]
    )
    assert [(topic, key) for topic, _, key in producer.sent] == [
        ("auths", "1"),
        ("labels", "a"),
        ("auths", "2"),
        ("auths", "3"),
        ("labels", "b"),
        ("auths", "4"),
        ("labels", "late"),
    ]
    assert report.labels == 3


def test_what_a_backfill_left_out_is_sent_with_labels_of_what_it_took() -> None:
    producer = Recorder()
    labels = (label("told", 15 * DAY), label("later", 20 * DAY))
    rest = batch(1, 10 * DAY, 20 * DAY, 12 * DAY, 30 * DAY, labels=labels).since(20 * DAY)
    publisher(producer).publish([rest])
    sent = [(topic, key) for topic, _, key in producer.sent]
    assert sent == [("labels", "later"), ("auths", "2"), ("auths", "4")]


def test_a_failing_broker_ends_it_and_names_the_first_unsure_line(monkeypatch) -> None:
    monkeypatch.setattr(publish, "DURABLE_EVERY", 2)
    producer = Recorder(failing_flush=2)
    report = publisher(producer).publish([batch(2, 1, 2), batch(4, 3, 4), batch(6, 5, 6)])
    assert isinstance(report.failure, Unavailable)
    assert report.resume_at == 4
    assert len(producer.sent) == 4
    assert (report.rows, report.published) == (4, 2)


def test_when_told_to_stop_it_ends_durably_and_names_the_next_line() -> None:
    producer = Recorder()
    stopping: Callable[[], bool] = lambda: len(producer.sent) >= 2  # noqa: E731
    report = publisher(producer, stopping=stopping).publish([batch(2, 1, 2), batch(4, 3)])
    assert report.stopped
    assert (len(producer.sent), report.resume_at, producer.flushes) == (2, 4, 1)


def test_a_rate_is_asked_for_as_rows_go_out() -> None:
    asked: list[int] = []
    publisher(Recorder(), pace=asked.append).publish([batch(1, *range(130)), batch(131, 1)])
    assert asked == [0, 64, 128, 130]


def test_an_empty_file_is_no_failure() -> None:
    report = publisher(Recorder()).publish([])
    assert (report.rows, report.failure) == (0, None)


def test_what_is_only_queued_is_not_published() -> None:
    producer = Recorder(failing_flush=1)
    labels = (label("2", 1), label("3", 2))
    report = publisher(producer).publish([batch(2, 1, 2, 3, labels=labels)])
    assert len(producer.sent) == 5
    assert (report.rows, report.published, report.labels, report.resume_at) == (3, 0, 0, 2)


def test_a_label_that_is_not_delivered_comes_again_with_its_row(monkeypatch) -> None:
    """Its row may be long through: it waits until the events pass its known_at."""
    monkeypatch.setattr(publish, "DURABLE_EVERY", 2)
    waiting = batch(2, 1, 2, labels=(label("2", 99 * DAY),))
    left = batch(4, 3, 4, labels=(label("4", 5),))
    for first, resume_at in ((waiting, 2), (left, 4), (batch(2, 1, 2), 6)):
        rest = [one for one in (batch(4, 3, 4), batch(6, 5, 6)) if one.first > first.first]
        producer = Recorder(failing_flush=len(rest) + 1)
        report = publisher(producer).publish([first, *rest])
        assert report.resume_at == resume_at


def test_of_a_file_that_breaks_off_all_before_is_sent_and_the_next_line_named() -> None:
    def cut() -> Iterator[Mapped]:
        yield batch(2, 1, 2, labels=(label("2", 99 * DAY),))
        yield batch(4, 3)
        raise Rejected("it is cut", where="f.csv.gz")

    producer = Recorder()
    report = publisher(producer).publish(cut())
    assert isinstance(report.failure, Rejected)
    assert (report.published, report.labels, report.resume_at) == (3, 1, 5)
    assert producer.delivered == len(producer.sent) == 4


def bad(first: int, good: int, wrong: int) -> Mapped:
    rows = replace(batch(first, *range(good)), last=first + good + wrong - 1)
    error = Rejected("column a: empty", where=f"f.csv:{first}", fix="another mapping")
    rows.bad.extend(BadRow(first + i, b"", error) for i in range(wrong))
    return rows


def test_too_many_bad_rows_end_it_before_they_are_buried() -> None:
    producer = Recorder()
    batches = [bad(2, 990, 10), bad(1_002, 0, 400), bad(1_402, 600, 0), bad(2_002, 9_000, 0)]
    report = publisher(producer).publish(watched(batches))
    assert isinstance(report.failure, Rejected)
    assert report.failure.code == "too_many_bad_rows"
    assert str(report.failure) == (
        "400 of 1,000 rows are bad, over 10%; the first: column a: empty; at f.csv:1002; "
        "fix: another mapping"
    )
    assert (report.published, report.dead, report.resume_at) == (990, 410, 1_402)


@pytest.mark.parametrize(
    ("batches", "share"),
    [
        ([bad(2, 0, 900)], 0.1),  # too few to say anything
        ([bad(2, 900, 100)] * 3, 0.1),
        ([bad(2, 0, 5_000)], 1.0),
    ],
)
def test_so_many_bad_rows_are_let_through(batches: list[Mapped], share: float) -> None:
    assert list(watched(batches, share)) == batches


def test_a_share_of_none_ends_at_the_first_bad_row_of_a_thousand() -> None:
    with pytest.raises(Rejected, match="1 of 1,000"):
        list(watched([bad(2, 999, 1)], 0.0))
