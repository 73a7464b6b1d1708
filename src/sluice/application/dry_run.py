"""The dry run: what a new release or policy would have said of the decisions just made.

Each replica keeps the last decisions' inputs, and judges them again with the candidate before it
takes effect. Both sides see the same rows, so that a shift is the candidate's doing and not the
traffic's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.application.ports import Ints, Scorer
from sluice.domain.policy.policy import MODEL, LeftOut, Policy
from sluice.domain.records.authorization import Authorization
from sluice.domain.records.entity import mask_of
from sluice.domain.records.outcome import BY_SEVERITY, STRICTER, Outcome
from sluice.errors import Misconfigured

SHIFT = "dry_run_shift"
"""Code of a candidate that moves the outcomes too far."""
ROWS_MIN = 200
"""Fewer decisions say nothing: one of them would be half a point."""
MODEL_LEVELS = 2
"""Degradation levels D0 and D1 have a score."""
OWN_SHARE = 2
"""A share may move by one half of itself, besides the bound: a candidate that declines nothing any
more moves 1.5 % by no more than 1.5 points, and is found all the same."""

NOTHING: LeftOut = {}
Severities = npt.NDArray[np.int8]


class Rows(NamedTuple):
    """A batch as it was decided. features: (n, N). missing, level: (n,). score_ppm: (n,), None
    without a model; read where level is 0 or 1."""

    auths: Sequence[Authorization]
    features: Ints
    missing: Ints
    level: Ints
    score_ppm: Ints | None


class Recent:
    """The last decisions of this replica, newest last: whole batches, about 1.5 kB a row.

    rows_max: how many are kept, but for the oldest batch's rest; 0 keeps none. Holds what the
    pipeline made anyway, and copies nothing.
    """

    def __init__(self, rows_max: int) -> None:
        self.rows_max = rows_max
        self.added = 0
        """Rows since the process began."""
        self._rows = 0
        self._batches: deque[tuple[int, Rows]] = deque()
        """Each after the number of rows that came before it."""

    def __len__(self) -> int:
        return self._rows

    def add(self, rows: Rows) -> None:
        """Keep a batch, and let the oldest go."""
        batches, n = self._batches, len(rows.auths)
        batches.append((self.added, rows))
        self.added += n
        self._rows += n
        while batches and self._rows - len(batches[0][1].auths) >= self.rows_max:
            self._rows -= len(batches.popleft()[1].auths)

    def since(self, added: int) -> list[Rows]:
        """Those batches, still kept, that came after so many rows. From any thread."""
        return [rows for before, rows in list(self._batches) if before >= added]

    def batch(self) -> Rows | None:
        """All of them as one; None if there are too few to say anything."""
        batches = self.since(0)
        if sum(len(rows.auths) for rows in batches) < ROWS_MIN:
            return None
        scores = [
            np.zeros(len(rows.auths), np.int64) if rows.score_ppm is None else rows.score_ppm
            for rows in batches
        ]
        return Rows(
            [auth for rows in batches for auth in rows.auths],
            np.concatenate([rows.features for rows in batches]),
            np.concatenate([rows.missing for rows in batches]),
            np.concatenate([rows.level for rows in batches]),
            np.concatenate(scores),
        )


def severities(
    policy: Policy, rows: Rows, scorer: Scorer | None = None, left_out: LeftOut = NOTHING
) -> Severities:
    """(n,) what a policy says of rows, by the scores they had, or by another scorer's.

    left_out: rules that do not fire. Raises Unavailable if the scorer fails on a row.
    """
    score, level = rows.score_ppm, rows.level
    if scorer is not None:
        score = scorer.score(rows.features).ppm
        fatal = rows.missing & ~mask_of(scorer.tolerates)
        level = np.maximum(level, MODEL_LEVELS)
        level = np.where(rows.missing == 0, 0, np.where(fatal == 0, 1, level))
    if score is None:
        score = level  # never read
    return policy.severities(
        rows.auths,
        rows.features,
        missing=rows.missing,
        level=level,
        score_ppm=score,
        left_out=left_out,
    )


def check_policy(
    candidate: Policy, active: Policy, rows: Rows, bound_ppm: int, left_out: LeftOut = NOTHING
) -> None:
    """Raise Misconfigured with the figures if a policy would move the outcomes too far.

    bound_ppm: by how much the share of an outcome may move, besides half of itself. left_out: what
    the breaker leaves out now; it does so of a rule that the candidate has unchanged.
    """
    rows = _without_models(rows, left_out)
    before = severities(active, rows, left_out=left_out)
    kept = {
        tenant: frozenset(cause for cause in causes if active.rule(cause) == candidate.rule(cause))
        for tenant, causes in left_out.items()
    }
    _check(before, severities(candidate, rows, left_out=kept), bound_ppm, candidate.id)


def check_release(
    candidate: Scorer,
    policy: Policy,
    rows: Rows,
    bound_ppm: int,
    declines_ppm: int,
    left_out: LeftOut = NOTHING,
) -> None:
    """The same of a release, over the decisions that had a score.

    Where too few had one there is nothing to compare it with, and it may decline at most
    declines_ppm. Raises Misconfigured; Unavailable if it fails on a row.
    """
    scored = np.flatnonzero(_without_models(rows, left_out).level < MODEL_LEVELS)
    if len(scored) >= ROWS_MIN:
        if len(scored) < len(rows.auths):
            rows = _part(rows, scored)
        before = severities(policy, rows, left_out=left_out)
        after = severities(policy, rows, candidate, left_out)
        _check(before, after, bound_ppm, candidate.release)
        return
    after = severities(policy, rows, candidate, left_out)
    declined = int((after == Outcome.DECLINE.severity).sum())
    if declined * 1_000_000 > declines_ppm * len(after):
        raise Misconfigured(
            f"it declines {declined} of the last {len(after)} decisions, and no model decided then",
            where=candidate.release,
            fix=_FIX,
            code=SHIFT,
        )


_FIX = "if that is meant, force it: docs/runbooks/bad-release.md"


def _without_models(rows: Rows, left_out: LeftOut) -> Rows:
    """Rows as they would be decided now, where the model is left out for some tenants."""
    tenants = {tenant for tenant, causes in left_out.items() if MODEL in causes}
    if not tenants:
        return rows
    without = np.array([auth.tenant in tenants for auth in rows.auths], np.bool_)
    return rows._replace(level=np.where(without, np.maximum(rows.level, MODEL_LEVELS), rows.level))


def _part(rows: Rows, at: Ints) -> Rows:
    score = None if rows.score_ppm is None else rows.score_ppm[at]
    auths = [rows.auths[i] for i in at.tolist()]
    return Rows(auths, rows.features[at], rows.missing[at], rows.level[at], score)


def _check(before: Severities, after: Severities, bound_ppm: int, where: str) -> None:
    n = len(before)
    then, now = (np.bincount(each, minlength=len(BY_SEVERITY)).tolist() for each in (before, after))
    moved = [
        f"{outcome} from {then[i] / n:.1%} to {now[i] / n:.1%}"
        for i, outcome in enumerate(BY_SEVERITY)
        if outcome in STRICTER
        and abs(now[i] - then[i]) * 1_000_000 > bound_ppm * n + then[i] * 1_000_000 // OWN_SHARE
    ]
    if moved:
        raise Misconfigured(
            f"over the last {n} decisions it moves {', '.join(moved)}",
            where=where,
            fix=_FIX,
            code=SHIFT,
        )
