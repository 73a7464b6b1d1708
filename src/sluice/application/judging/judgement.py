"""``judgement.json``: what was found of each model, by window, segment and delay."""

from __future__ import annotations

import msgspec
import numpy as np

from sluice.application.judging import measures
from sluice.application.judging.measures import Interval
from sluice.domain.release import Step
from sluice.errors import Rejected

Number = float | None
"""None where there is nothing to say: JSON has no NaN."""


class Figure(msgspec.Struct, frozen=True):
    """Mean over tests, standard deviation over tests and seeds, and the mean's 95 % interval."""

    mean: Number
    deviation: Number
    low: Number
    high: Number
    windows: int

    @classmethod
    def of(cls, found: Interval) -> Figure:
        """Of what :func:`sluice.application.judging.measures.interval` gave."""
        mean, deviation, low, high = (number(value) for value in found[:4])
        return cls(mean, deviation, low, high, found.windows)


def number(value: float) -> Number:
    """None for what is not finite."""
    return float(value) if np.isfinite(value) else None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """One test. Times ISO, UTC."""

    name: str
    first: str
    until: str
    as_of: str
    rows: int
    frauds: int
    fraud_minor: int
    young: int
    cards: int


class Week(msgspec.Struct, frozen=True, kw_only=True):
    """What one model did in one test. caught_minor: fraud's amount within the alert budget."""

    test: str
    caught_minor: int
    average_precision: Number


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of all tests that share something, judged at the model's own alert budget.

    by: channel, region, amount, card, campaign. recall, euros, stopped_per_10k: frauds and their
    amount above the score of the alert budget of the whole week, and genuine rows of 10,000.
    """

    by: str
    name: str
    rows: int
    frauds: int
    auc: Number
    average_precision: Number
    recall: Number
    euros: Number
    stopped_per_10k: Number
    expected_to_actual: Number


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A feature of an example: its value, the genuine median, and where it lies among genuine
    rows, 0 to 1."""

    feature: str
    value: int
    median: int
    rank: float


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One authorization. what: caught, missed, or false alarm. rank: place among the test's
    scores, from 0, the highest."""

    what: str
    authorization_id: str
    event_at: str
    channel: str
    region: str
    amount_minor: int
    score_ppm: int
    rank: float
    features: list[Said]


class Costed(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds by cost, found on ``found_on``, and what the tests then cost; minor units.

    cost_minor, nothing_minor (if all were approved): the frauds made up for that are not known yet;
    the rest by known labels. stopped_per_10k: genuine ones. steps: rows of the tests by outcome.
    """

    found_on: str
    thresholds_ppm: dict[Step, int]
    cost_minor: int
    nothing_minor: int
    reviews_a_day: float
    frauds_stopped: float
    euros_stopped: float
    stopped_per_10k: float
    steps: dict[str, int]


class Points(msgspec.Struct, frozen=True, kw_only=True):
    """A curve over all tests together; see :class:`sluice.application.judging.measures.Curve`."""

    threshold: list[float]
    recall: list[float]
    precision: list[float]
    fpr: list[float]


class ModelJudgement(msgspec.Struct, frozen=True, kw_only=True):
    """One model. Figures are (mean, deviation, low, high, windows), by name.

    source: run, or release. seeds: how many trainings of it were judged; all but the intervals is
    of the first. naive: every row counts once, what is not known is genuine. weighted: by the
    inverse probability of let-through; empty where no row was declined. corrected: the frauds
    not known yet made up for. delays: by days after the test's end.
    """

    name: str
    kind: str
    source: str
    seeds: int
    naive: dict[str, Figure]
    weighted: dict[str, Figure]
    corrected: dict[str, Figure]
    delays: dict[str, dict[str, Figure]]
    weeks: list[Week]
    segments: list[Segment]
    curve: Points
    reliability: list[measures.Bin]
    costed: Costed | None
    policy: PolicyWorth | None
    examples: list[Example]


class PolicyWorth(msgspec.Struct, frozen=True, kw_only=True):
    """A policy pack on the tests: with the model and rules (D0), and by rules alone (D2).

    Shares of frauds and of their amount that were stopped, genuine stopped per 10,000. rules: of
    each rule, fallback included, frauds and genuine rows it fired on.
    """

    policy: str
    stopped: float
    euros: float
    stopped_per_10k: float
    fallback_stopped: float
    fallback_euros: float
    fallback_stopped_per_10k: float
    rules: dict[str, tuple[int, int]]


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """What one feature knows by itself: AUC and average precision of the better direction."""

    feature: str
    auc: float
    average_precision: float


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """``judgement.json``. dataset: SHA-256 of the set's manifest. runs: of each run.json. title:
    what the rows are, in words."""

    v: int = 1
    title: str
    dataset: str
    runs: list[str]
    currency: str
    exponent: int
    label_delay_s: int
    tests: list[Facts]
    models: list[ModelJudgement]
    signals: list[Signal]
    left_out: list[str]
    """What could not be judged, and why."""

    def model(self, name: str) -> ModelJudgement:
        """By name. Raises Rejected."""
        for one in self.models:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.models)
        raise Rejected(f"the judgement has no model {name}", fix=f"one of {known}")
