"""Counts decisions against the truth while they come, and checks the sums at the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import msgspec

from sluice.domain.records.decision import DegradationLevel, Entrypoint
from sluice.domain.records.outcome import Outcome


class Seen(msgspec.Struct, frozen=True):
    """What the tally keeps of one decision."""

    authorization_id: str
    outcome: Outcome
    degradation_level: DegradationLevel
    entrypoint: Entrypoint
    amount_minor: int


class Summary(msgspec.Struct, kw_only=True):
    """``var/demo/summary.json``. Amounts in euros; percentiles in milliseconds.

    p50_ms, p99_ms: the sync API as its caller saw it, from the moment each request was due.
    reports: told to the labeller, of what was stopped and of frauds that were not.
    false_positives_per_10k: genuine authorizations not approved, of 10,000 genuine ones.
    """

    authorizations: int
    decisions: int
    duplicates: int
    missing: int
    unexpected: int
    dead_letters: int
    degraded: int
    frauds: int
    frauds_stopped: int
    fraud_bp: float
    eur_fraud: float
    eur_stopped: float
    eur_missed: float
    false_positives_per_10k: float
    p50_ms: float | None
    p99_ms: float | None
    stream_p50_ms: float | None
    stream_p99_ms: float | None
    rate: float
    archived: int
    reports: int
    states: int
    release: str | None
    broker: str
    ok: bool
    failed: list[str]


@dataclass
class Tally:
    """Decisions by id, against the truth by id."""

    truth: dict[str, bool]
    decisions: dict[str, Seen] = field(default_factory=dict)
    duplicates: int = 0
    unexpected: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    entrypoints: Counter[str] = field(default_factory=Counter)
    degraded: int = 0
    frauds: int = 0
    frauds_stopped: int = 0
    fraud_minor: int = 0
    stopped_minor: int = 0
    genuine: int = 0
    false_positives: int = 0

    def add(self, seen: Seen) -> None:
        """Count one decision; a second one of the same id is a duplicate, and not counted again."""
        if seen.authorization_id in self.decisions:
            self.duplicates += 1
            return
        fraud = self.truth.get(seen.authorization_id)
        self.decisions[seen.authorization_id] = seen
        self.outcomes[seen.outcome] += 1
        self.entrypoints[seen.entrypoint] += 1
        self.degraded += seen.degradation_level != "D0"
        stopped = seen.outcome is not Outcome.APPROVE
        if fraud is None:
            self.unexpected += 1
        elif fraud:
            self.frauds += 1
            self.fraud_minor += seen.amount_minor
            self.frauds_stopped += stopped
            self.stopped_minor += seen.amount_minor * stopped
        else:
            self.genuine += 1
            self.false_positives += stopped

    @property
    def missed_minor(self) -> int:
        """Fraud that was approved."""
        return self.fraud_minor - self.stopped_minor

    @property
    def false_positives_per_10k(self) -> float:
        """Of 10,000 genuine authorizations."""
        return round(10_000 * self.false_positives / self.genuine, 2) if self.genuine else 0.0

    def missing(self, sent: set[str]) -> int:
        """Authorizations that were sent and have no decision."""
        return len(sent - self.decisions.keys())
