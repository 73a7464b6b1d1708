"""What the gate says: each check, what changed, the verdict, and what was asked of a candidate."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sluice.domain.release import Sha256, Step

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[float, Meta(ge=0)]
Reason = Literal[
    "other_dataset", "unknown_feature", "replayed", "older_data", "scores_differ",
    "unit_changed", "leak", "other_features", "above_ceiling", "better_immature", "no_signal",
    "worse", "euros", "calibration", "segment", "flips", "int8_flips", "int8_levels", "latency",
]  # fmt: skip
"""In the order in which they are looked for. docs/reference/gate.md."""

ABOUT: dict[Reason, str] = {
    "other_dataset": "same training set",
    "unknown_feature": "known features",
    "replayed": "not replayed",
    "older_data": "newer data",
    "scores_differ": "same scores",
    "unit_changed": "units",
    "leak": "no leak",
    "other_features": "features as logged",
    "above_ceiling": "plausible",
    "better_immature": "mature labels",
    "no_signal": "signal",
    "worse": "average precision",
    "euros": "amount caught",
    "calibration": "calibration",
    "segment": "worst segment",
    "flips": "changed decisions",
    "int8_flips": "int8: decisions",
    "int8_levels": "int8: scores",
    "latency": "latency",
}
"""What each check is about, as a page and a card head it."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a candidate must keep to. Shares are of 1.

    auc_min, lift_min: below, it tells fraud from the rest no better than chance would; lift is what
    it promises of the highest 0.1 % of its scores, over its mean; where many rows are frauds, half
    of what foresight would is enough. average_precision_max: above, no honest model can be; set it
    to what label delay leaves possible, where that is known. None: 0.95, unless the set was held
    against a feature log whose labels come late enough. signal_max: average precision of one
    feature alone. immature_gain: by how much the average precision may be better by the labels
    known after a day than by all. average_precision_loss, euros_loss: below the champion's; also by
    how much another candidate of the run may be above the student. expected_to_actual: of frauds,
    those not known yet made up for. segment_loss: of the recall of a segment, at the alert budget.
    newly_stopped_per_100k, newly_approved_per_100k: decisions that are not the champion's.
    int8_flips_per_100k: decisions of the eight-bit variant that are not the candidate's; above, it
    is left out of the release. int8_broken_per_100k: above, it was not made as it should have been,
    and is refused as one is that a person named. int8_levels_min: distinct scores, of the
    candidate's. latency_1_us, latency_512_us: of one call of so many rows. scores_apart: of the
    run's scores from what the graph gives. size_ratio: of a feature, between training and test, or
    between the champion's training and the test.
    """

    auc_min: Share = 0.6
    lift_min: Count = 10
    average_precision_max: Share | None = None
    signal_max: Share = 0.85
    immature_gain: Share = 0.03
    average_precision_loss: Share = 0.01
    euros_loss: Share = 0.03
    expected_to_actual_min: Count = 0.5
    expected_to_actual_max: Count = 2.0
    segment_loss: Share = 0.1
    segment_frauds_min: Annotated[int, Meta(ge=1)] = 30
    newly_stopped_per_100k: Count = 1_000
    newly_approved_per_100k: Count = 1_000
    int8_flips_per_100k: Count = 10
    int8_broken_per_100k: Count = 100
    int8_levels_min: Share = 0.1
    latency_1_us: Count = 300
    latency_512_us: Count = 20_000
    scores_apart: Share = 1e-4
    size_ratio: Count = 20


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One question. found: in a sentence, with the figures and what they may be."""

    reason: Reason
    passed: bool
    found: str


class Flips(msgspec.Struct, frozen=True, kw_only=True):
    """Decisions that changed, of ``rows``. Amounts in minor units: fraud's that is stopped now or
    was, genuine holders' that is stopped now or was."""

    rows: int
    newly_stopped: int
    newly_approved: int
    stricter: int
    milder: int
    fraud_stopped_minor: int
    fraud_approved_minor: int
    genuine_stopped_minor: int
    genuine_approved_minor: int

    @property
    def per_100k(self) -> float:
        """Of stopped and approved that changed places, together."""
        return 1e5 * (self.newly_stopped + self.newly_approved) / max(1, self.rows)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate says. model, int8, champion: SHA-256 of the graphs, "" where there is none.

    thresholds_ppm: by cost, on ``tuned_on``. timings_us: one call, by variant and rows.
    """

    v: Literal[1] = 1
    accepted: bool
    reasons: list[Reason]
    candidate: str
    model: Sha256
    int8: str
    champion: str
    champion_model: str
    dataset: Sha256
    run: str
    tests: list[str]
    tuned_on: str
    rows: int
    frauds: int
    thresholds_ppm: dict[Step, int]
    timings_us: dict[str, dict[str, float]]
    checks: list[Check]
    flips: Flips | None
    int8_flips: Flips | None
    limits: Limits
