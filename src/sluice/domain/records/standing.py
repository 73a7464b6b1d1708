"""Which of several reports of one authorization counts: the strongest, and of those the last known.

An alert is somebody's suspicion. An issuer's fraud report to its network comes in batches, in time
or long after, and is not examined. A chargeback and a verdict are: these two are alike, since
whoever spoke last knew of the other. One definition, for the labeller (and so for the states), for
training sets, ``sluice explain`` and ``sluice labels maturity``; docs/decisions/0045.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sluice.domain.records.label import Label, LabelKind, Uncounted

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

RANKS: Mapping[LabelKind, int] = {"alert": 0, "issuer_report": 1, "chargeback": 2, "verdict": 2}
RANKS_MAX = 8


class Says(Protocol):
    """What of a label it takes to judge it."""

    @property
    def kind(self) -> LabelKind:
        """Of report."""
        ...

    @property
    def is_fraud(self) -> bool:
        """What it says."""
        ...

    @property
    def known_at(self) -> int:
        """Since when that is known."""
        ...


class Standing(NamedTuple):
    """What is known of an authorization. rank, known_at: of the report that says so. since_us: from
    which moment on all that counted said the same."""

    is_fraud: bool
    rank: int
    known_at: int
    since_us: int


def judged(standing: Standing | None, label: Says) -> tuple[Standing, Uncounted | None]:
    """What is known after one more report, in whatever order they come; and why it changes nothing,
    if so.

    Of two alike and known at the same moment the one that comes later counts.
    """
    rank = RANKS[label.kind]
    if standing is None:
        return Standing(label.is_fraud, rank, label.known_at, label.known_at), None
    same = label.is_fraud == standing.is_fraud
    if (rank, label.known_at) < (standing.rank, standing.known_at):
        return standing, "repeats" if same else "outranked"
    since_us = standing.since_us if same else label.known_at
    return Standing(label.is_fraud, rank, label.known_at, since_us), "repeats" if same else None


def in_force(labels: Iterable[Label]) -> list[tuple[Label, bool]]:
    """All reports of one authorization by the time at which they became known, and whether each is
    the one that says what is known now."""
    known = sorted(labels, key=lambda label: label.known_at)
    best = max(
        range(len(known)), key=lambda i: (RANKS[known[i].kind], known[i].known_at, i), default=-1
    )
    return [(label, i == best) for i, label in enumerate(known)]


def changes(
    ids: Ints, ranks: Ints, is_fraud: Bools, known_us: Ints, place: Ints
) -> tuple[Ints, Bools]:
    """Which reports change what is known, of (m,) reports of many authorizations.

    ids: codes. ranks: of RANKS. place: where each lies in its log: of two alike that an
    authorization got at the same microsecond the later counts. Returns (k,) rows by id and
    known_at, each the first from which on that was known, and (k,) true for the last of each id.
    """
    order = np.lexsort((place, known_us, ids))
    codes, rank = ids[order], ranks[order]
    # The highest rank so far: ids rise, so one running maximum does for all.
    lifted = codes * RANKS_MAX + rank
    order = order[lifted == np.maximum.accumulate(lifted)]
    # Of one moment the last.
    codes, known = ids[order], known_us[order]
    order = order[_last_of(codes, known)]
    # Of those that say the same one after the other the first.
    codes, says = ids[order], is_fraud[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (codes[1:] != codes[:-1]) | (says[1:] != says[:-1])
    order = order[first]
    return order, _last_of(ids[order])


def _last_of(*keys: Ints) -> Bools:
    """(k,) whether the next row is of another key; rows of one key lie together."""
    last = np.ones(len(keys[0]), np.bool_)
    if len(last):
        last[:-1] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return last
