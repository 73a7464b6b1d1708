"""The strongest report counts, and of equally strong ones the last known: one order everywhere."""

from __future__ import annotations

import itertools
import random
from typing import get_args

import msgspec
import numpy as np
import pytest

from sluice.domain.records.label import Label, LabelKind, Uncounted
from sluice.domain.records.standing import (
    RANKS,
    RANKS_MAX,
    Standing,
    changes,
    in_force,
    judged,
)
from sluice.testing.factories import make_authorization, make_label

AUTH = make_authorization()
DAY = 86_400_000_000


def report(kind: LabelKind, day: int, *, is_fraud: bool) -> Label:
    label = make_label(AUTH, known_at=AUTH.event_at + day * DAY, is_fraud=is_fraud)
    return msgspec.structs.replace(label, kind=kind)


def after(*labels: Label) -> tuple[Standing | None, list[Uncounted | None]]:
    standing: Standing | None = None
    why: list[Uncounted | None] = []
    for label in labels:
        standing, one = judged(standing, label)
        why.append(one)
    return standing, why


def test_every_kind_has_a_rank() -> None:
    assert set(RANKS) == set(get_args(LabelKind))
    assert max(RANKS.values()) < RANKS_MAX


@pytest.mark.parametrize(
    ("reports", "is_fraud", "uncounted"),
    [
        ([("alert", 0, True), ("verdict", 1, False)], False, [None, None]),
        ([("verdict", 1, False), ("chargeback", 30, True)], True, [None, None]),
        ([("issuer_report", 5, True), ("chargeback", 30, True)], True, [None, "repeats"]),
        ([("chargeback", 30, True), ("chargeback", 60, False)], False, [None, None]),
        ([("chargeback", 30, True), ("verdict", 40, False)], False, [None, None]),
        ([("chargeback", 60, False), ("issuer_report", 65, True)], False, [None, "outranked"]),
        ([("verdict", 1, True), ("alert", 2, False)], True, [None, "outranked"]),
        # It was known before, and came late.
        ([("chargeback", 60, False), ("chargeback", 30, True)], False, [None, "outranked"]),
        ([("chargeback", 60, True), ("chargeback", 30, True)], True, [None, "repeats"]),
    ],
)
def test_what_is_known_after_reports_that_contradict(
    reports: list[tuple[LabelKind, int, bool]], is_fraud: bool, uncounted: list[str | None]
) -> None:
    labels = [report(kind, day, is_fraud=said) for kind, day, said in reports]
    standing, why = after(*labels)
    assert standing is not None
    assert (standing.is_fraud, why) == (is_fraud, uncounted)
    told = in_force(labels)
    assert [label.is_fraud for label, stands in told if stands] == [is_fraud]
    assert [label.known_at for label, _ in told] == sorted(label.known_at for label in labels)


def test_what_was_known_first_stays_the_moment_since_which_it_is_known() -> None:
    standing, _ = after(
        report("issuer_report", 5, is_fraud=True), report("chargeback", 30, is_fraud=True)
    )
    assert standing is not None
    assert (standing.since_us, standing.rank) == (AUTH.event_at + 5 * DAY, RANKS["chargeback"])


def test_nothing_is_known_of_nothing() -> None:
    assert in_force([]) == []
    none = np.empty(0, np.int64)
    rows, last = changes(none, none, none != 0, none, none)
    assert len(rows) == len(last) == 0


def test_whatever_the_order_in_which_they_come_the_same_is_known_at_the_end() -> None:
    reports = [
        report("alert", 9, is_fraud=True),
        report("issuer_report", 3, is_fraud=True),
        report("chargeback", 7, is_fraud=False),
        report("verdict", 5, is_fraud=True),
    ]
    ends = {after(*order)[0].is_fraud for order in itertools.permutations(reports)}  # type: ignore[union-attr]
    assert ends == {False}


def test_columns_say_at_each_moment_what_the_reports_known_by_then_say_one_by_one() -> None:
    rng = random.Random(15)
    kinds = get_args(LabelKind)
    labels = [
        (
            rng.randrange(40),
            report(rng.choice(kinds), rng.randrange(12), is_fraud=rng.random() < 0.5),
        )
        for _ in range(300)
    ]
    rows, last = changes(
        np.array([one for one, _ in labels]),
        np.array([RANKS[label.kind] for _, label in labels]),
        np.array([label.is_fraud for _, label in labels]),
        np.array([label.known_at for _, label in labels]),
        np.arange(len(labels)),
    )
    kept = [labels[row] for row in rows.tolist()]
    assert [one for (one, _), end in zip(kept, last, strict=True) if end] == sorted(
        {one for one, _ in labels}
    )
    for day in range(12):
        as_of = AUTH.event_at + day * DAY
        for one in range(40):
            known = [label for other, label in labels if other == one and label.known_at <= as_of]
            standing = max(
                enumerate(known),
                key=lambda at: (RANKS[at[1].kind], at[1].known_at, at[0]),
                default=None,
            )
            said = [label for other, label in kept if other == one and label.known_at <= as_of]
            assert (standing is None) == (not said)
            if standing is not None:
                assert said[-1].is_fraud == standing[1].is_fraud
                agreed = [label.is_fraud for label in said]
                assert all(a != b for a, b in itertools.pairwise(agreed))
