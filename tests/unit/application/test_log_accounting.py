"""Each offset in exactly one record, and each number of an emitter."""

from __future__ import annotations

import random

import pytest

from sluice.application.log_accounting import Accounting, Stretch
from sluice.audit.entries import split
from sluice.audit.errors import Tampered
from sluice.domain.records.log_record import GapReason, read
from tests.support import logs


def taken(*headers: bytes) -> Accounting:
    account = Accounting()
    for index, header in enumerate(headers):
        record = read(header)
        account.take(index, record, record.type)
    return account


def gap(first: int, until: int, reason: GapReason, sequence: int = 0) -> bytes:
    return split(logs.gap(9, first, until, reason=reason, sequence=sequence))[0]


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
