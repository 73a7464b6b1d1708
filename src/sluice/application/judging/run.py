"""What judging, the gate and packing read of a run of training: a part of ``run.json``.

The whole of it is written by whoever trains (docs/reference/run.md); fields that are not used here
may come and go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from sluice.domain.records.entity import EntityKind
from sluice.domain.release import Sha256
from sluice.errors import Misconfigured

RUN = "run.json"
LEARNT = "learnt.parquet"
"""Rows of train as they were learnt: ``authorization_id``, and a float32 column a feature."""
INT8 = "_int8"
"""Ends the name of a candidate that is another one in eight bits."""
STUDENT = "student"
"""Who is released where no other is better."""
BETTER = "better"
"""Asked for in place of a candidate's name: see :func:`better_of`."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a run. Fields as in docs/reference/run.md."""

    name: str
    kind: str
    model: str
    sha256: Sha256
    releasable: bool
    seed: int
    prior_correction_milli: int
    rows: int
    frauds: int
    tolerates: list[EntityKind] = []


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """``run.json``, as far as it is read here."""

    dataset: Sha256
    features: list[str]
    code: Sha256
    seed: int
    trained_from: int
    trained_until: int
    rows: int
    frauds: int
    reference_row: list[int]
    candidates: list[Candidate]
    scores: dict[str, Sha256]
    learnt: Sha256 | None = None

    def candidate(self, name: str) -> Candidate:
        """By name. Raises Misconfigured naming those that there are."""
        return candidate_of(self.candidates, name)


class Named(Protocol):
    """What a candidate is found by."""

    @property
    def name(self) -> str:  # noqa: D102
        ...


_C = TypeVar("_C", bound=Named)


def candidate_of(candidates: Sequence[_C], name: str) -> _C:
    """By name. Raises Misconfigured naming those that there are."""
    for one in candidates:
        if one.name == name:
            return one
    known = ", ".join(one.name for one in candidates)
    raise Misconfigured(f"the run has no candidate {name}", where=RUN, fix=f"one of {known}")


def decode_run(raw: bytes, where: str) -> Run:
    """Raises Misconfigured for what is no run."""
    try:
        return msgspec.json.decode(raw, type=Run)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Misconfigured(
            f"no run of training: {exc}", where=where, fix="docs/reference/run.md"
        ) from None


def better_of(worth: Mapping[str, float], margin: float) -> str:
    """Whom to release, of candidates and what each is worth: the student, the quickest, unless
    another is worth more by more than the margin.

    >>> better_of({"lightgbm": 0.749, "student": 0.742}, 0.01)
    'student'
    >>> better_of({"lightgbm": 0.457, "student": 0.397}, 0.01)
    'lightgbm'
    """
    best = max(worth, key=lambda name: worth[name])
    return best if worth[best] - worth.get(STUDENT, float("-inf")) > margin else STUDENT
