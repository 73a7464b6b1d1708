"""Each offset in exactly one record, and each number of an emitter."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest

from sluice.application import log_accounting
from sluice.application.log_accounting import Accounting, Look, Looked, Stretch
from sluice.application.log_records import LogRecords
from sluice.application.ports import Message
from sluice.audit.entries import split
from sluice.audit.errors import Tampered
from sluice.domain.records.authorization import encode
from sluice.domain.records.log_record import GapReason, read
from sluice.testing.keystore import MemoryKeystore
from sluice.testing.records import make_decision
from tests.support import logs

EMITTER = make_decision().emitter


def taken(*headers: bytes, look: Look | None = None) -> Accounting:
    account = Accounting(look)
    records = [read(header) for header in headers]
    account.take(0, records, [record.type for record in records])
    return account


def gap(first: int, until: int, reason: GapReason, sequence: int = 0, emitter: str = "") -> bytes:
    return split(logs.gap(9, first, until, reason=reason, sequence=sequence, emitter=emitter))[0]


def decided(*numbers: tuple[int, int | None]) -> list[bytes]:
    """Headers of decisions, by number and what its emitter called settled."""
    messages = [
        Message(
            encode(msgspec.structs.replace(make_decision(f"a-{n}", sequence=n), settled=settled)),
            None, "decisions.v1", 0, at, None,
        )
        for at, (n, settled) in enumerate(numbers)
    ]  # fmt: skip
    made = LogRecords(log=logs.ORIGIN, keystore=MemoryKeystore())
    entries = made.entries(made.read(messages), [False] * len(messages), logs.START_US)
    return [split(one)[0] for one in entries if isinstance(one, bytes)]


def missing(account: Accounting, **more: object) -> list[str]:
    given = {"watermarks": None, "whole": True} | more
    return list(map(str, account.accounts(**given).missing))  # type: ignore[arg-type]


def test_a_partition_balances_whatever_order_its_records_came_in() -> None:
    order = list(range(200))
    random.Random(7).shuffle(order)
    account = taken(*(logs.header(i) for i in order))
    assert missing(account) == []
    (one,) = account.accounts(None, whole=True).balances
    assert (one.first, one.until, one.records, one.missing) == (0, 200, {"label": 200}, 0)


def test_stretches_are_what_a_set_of_numbers_is() -> None:
    rng = random.Random(52)
    for _ in range(300):
        stretch, held = Stretch(), set[int]()
        for _ in range(30):
            first = rng.randrange(40)
            numbers = set(range(first, first + rng.randrange(1, 5)))
            assert stretch.take(min(numbers), max(numbers) + 1) == (not numbers & held)
            held |= set() if numbers & held else numbers
        holes = {n for a, b in stretch.holes(0, 50) for n in range(a, b)}
        assert holes == set(range(50)) - held


def test_what_the_broker_has_besides_is_missing() -> None:
    account = taken(*(logs.header(i) for i in range(5, 10)))
    marks = {("labels.v1", 0): (3, 12), ("labels.v1", 1): (0, 2), ("decisions.v1", 0): (4, 4)}
    assert missing(account, watermarks=marks, whole=False) == [
        "labels.v1/0@10 to 11",
        "labels.v1/1@0 to 1",
    ]
    assert "labels.v1/0@3 to 4" in missing(account, watermarks=marks)
    assert missing(account, watermarks={("labels.v1", 0): (8, 10)}) == ["labeller-1@0 to 4"]


def test_a_gap_stands_for_its_offsets_and_for_as_many_numbers_as_nobody_may_name() -> None:
    records = [logs.header(i) for i in (0, 1, 4)]
    assert missing(taken(*records)) == ["labels.v1/0@2 to 3", "labeller-1@2 to 3"]
    assert missing(taken(*records, gap(2, 4, "forbidden_content"))) == []
    assert missing(taken(*records, gap(2, 4, "transaction_marker"))) == ["labeller-1@2 to 3"]
    assert missing(taken(*records, gap(2, 3, "too_large"), gap(3, 4, "aborted", 1))) == [
        "labeller-1@2 to 3"
    ]


def test_what_is_accounted_for_twice_is_no_writers() -> None:
    for twice in (logs.header(1, sequence=7), logs.header(7, sequence=1)):
        with pytest.raises(Tampered, match="as one before it does"):
            taken(logs.header(0), logs.header(1), twice)
    with pytest.raises(Tampered):
        taken(logs.header(0), logs.header(1), gap(1, 3, "aborted"))


def test_writers_of_two_logs_count_apart_and_deciders_do_not() -> None:
    own = [split(logs.gap(9, at, at + 1, log=f"test.example/eu/{at}"))[0] for at in (0, 1)]
    assert missing(taken(*own)) == []
    halves = [logs.header(i, log=f"test.example/eu/{i % 2}", partition=i % 2) for i in range(6)]
    by_partition = [logs.header(i, partition=i % 2, offset=i // 2) for i in range(6)]
    assert missing(taken(*by_partition)) == []
    assert missing(taken(*halves[::2])) != []


def test_of_several_that_are_accounted_for_twice_the_first_is_named() -> None:
    rng = random.Random(3)
    for _ in range(50):
        partitions = [rng.randrange(3) for _ in range(40)]
        offsets = [partitions[:at].count(p) for at, p in enumerate(partitions)]
        twice = sorted(rng.sample(range(10, 40), 3))
        for at in twice:
            offsets[at] = 0 if partitions[at] in partitions[:at] else offsets[at]
        bad = [at for at in twice if partitions[at] in partitions[:at]]
        headers = [
            logs.header(at, partition=p, offset=offset)
            for at, (p, offset) in enumerate(zip(partitions, offsets, strict=True))
        ]
        if bad:
            with pytest.raises(Tampered) as caught:
                taken(*headers)
            assert caught.value.first == bad[0]


def test_a_number_that_was_given_up_is_a_gap_and_its_record_may_be_there_after_all() -> None:
    records = decided((0, 0), (3, 0), (4, 3))
    assert missing(taken(*records)) == [f"{EMITTER}@1 to 2"]
    told = gap(1, 3, "given_up", emitter=EMITTER)
    again = gap(1, 3, "given_up", 1, emitter=EMITTER)
    assert missing(taken(*records, told, again)) == []
    late = decided((0, 0), (3, 0), (4, 3), (2, 0))
    assert missing(taken(*late, told)) == []
    assert missing(taken(*late[:3], told, late[3])) == []
    assert missing(taken(told, *late)) == []
    twice = decided((0, 0), (3, 0), (4, 3), (2, 0), (2, 0))
    with pytest.raises(Tampered, match="number 2 of"):
        taken(*twice[:3], told, *twice[3:])


def test_a_hole_without_a_reason_is_missing_unless_nothing_calls_it_settled() -> None:
    """An emitter that was killed: what it says last tells which numbers were on their way."""
    records = decided((0, 0), (1, 1), (3, 1), (6, 2))
    found = taken(*records).accounts(None, whole=True)
    assert found.missing == []
    assert list(map(str, found.in_flight)) == [f"{EMITTER}@2", f"{EMITTER}@4 to 5"]
    lived = decided((0, 0), (1, 1), (3, 1), (6, 2), (7, 5))
    found = taken(*lived).accounts(None, whole=True)
    assert list(map(str, found.missing)) == [f"{EMITTER}@2", f"{EMITTER}@4"]
    assert list(map(str, found.in_flight)) == [f"{EMITTER}@5"]
    older = decided((0, None), (1, None), (3, None))
    assert missing(taken(*older)) == [f"{EMITTER}@2"]


class Broker:
    """Has committed records at these offsets, and nothing below the first."""

    def __init__(self, *committed: int, low: int = 0) -> None:
        self.committed, self.low = committed, low
        self.asked: list[tuple[int, int]] = []

    def look(self, topic: str, partition: int, stretches: Sequence[tuple[int, int]]) -> Looked:
        assert (topic, partition) == ("labels.v1", 0)
        assert list(stretches) == sorted(stretches)
        self.asked += stretches
        hidden = [
            (one, one + 1)
            for first, until in stretches
            for one in self.committed
            if max(self.low, first) <= one < until
        ]
        gone = sum(max(0, min(self.low, until) - first) for first, until in stretches)
        return Looked(hidden, gone)


@pytest.mark.parametrize("reason", ["aborted", "transaction_marker", "expired"])
def test_a_committed_record_cannot_hide_in_a_gap(reason: GapReason) -> None:
    headers = [logs.header(at, sequence=at - 4 * (at > 5)) for at in (0, 1, 6, 7)]
    headers.append(gap(2, 6, reason))
    broker = Broker(0, 1, 3, 4, 6, 7)
    account = taken(*headers, look=broker.look)
    assert missing(account) == [f"labels.v1/0@{at}, committed, in a gap" for at in (3, 4)]
    assert broker.asked == [(2, 6)]
    (one,) = account.accounts(None, whole=True).balances
    assert (one.missing, one.hidden, one.unproved, one.gaps) == (0, 2, 0, {reason: 4})
    gone = taken(*headers, look=Broker(0, 1, low=5).look)
    assert missing(gone) == []
    (one,) = gone.accounts(None, whole=True).balances
    assert (one.hidden, one.unproved) == (0, 3)
    (one,) = taken(*headers).accounts(None, whole=True).balances
    assert one.unproved == 4


def test_gaps_of_other_reasons_are_of_records_that_are_there_and_not_looked_at() -> None:
    broker = Broker(0, 1, 2)
    headers = [logs.header(0), logs.header(1), gap(2, 3, "unreadable")]
    assert missing(taken(*headers, look=broker.look)) == []
    assert broker.asked == []


def test_a_broker_is_asked_of_so_many_gaps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_accounting, "ASKED_MAX", 4)
    broker, sizes = Broker(17), list[int]()

    def look(topic: str, partition: int, stretches: Sequence[tuple[int, int]]) -> Looked:
        sizes.append(len(stretches))
        return broker.look(topic, partition, stretches)

    gaps = [gap(2 * at + 1, 2 * at + 2, "transaction_marker", at) for at in range(10)]
    headers = [logs.header(at, offset=2 * at) for at in range(10)]
    account = taken(*(one for pair in zip(headers, gaps, strict=True) for one in pair), look=look)
    assert missing(account) == ["labels.v1/0@17, committed, in a gap"]
    assert sizes == [4, 4, 2]
